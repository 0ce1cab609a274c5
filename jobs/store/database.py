"""Opening the store: address, connections, migrations, and errors said in one sentence."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    ExceptionContext,
    create_engine,
    event,
    exc,
    inspect,
    make_url,
    text,
)

from infra.errors import GridcastError, InputError

HEAD = "0008"
"""The newest migration; a test holds it equal to Alembic's own head, whose import would cost every command 0.2 s."""

VERSION_TABLE = "gridcast_version"
BUSY_SECONDS = 120
POSTGRES_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server that vanished without a word is given up after half a minute, not after the quarter of an hour of TCP's own."""
_WRITERS_LOCK = 0x67726964  # "grid": any number that no other program of this database uses


class StoreError(GridcastError):
    """The store cannot be reached, read or written; nothing of the unfinished transaction was kept."""


class StoreAddressError(StoreError, InputError):
    """The URL of the store is wrong."""


def open_store(url: str) -> Engine:
    """Open the store at an SQLAlchemy URL (SQLite or PostgreSQL) and bring its tables up to date.

    ``engine.begin()`` is a writer's transaction: writers wait for each other. Raises StoreError in one sentence.

    >>> open_store("mysql://host/jobs")
    Traceback (most recent call last):
    jobs.store.database.StoreAddressError: the store's URL mysql://host/jobs must begin with sqlite:/// or postgresql://
    """
    engine = connect(url)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    try:
        _migrate(engine, displayed_url(engine))
    except BaseException:
        engine.dispose()
        raise
    return engine


def connect(url: str) -> Engine:
    """A database at an SQLAlchemy URL as it is, whosever its tables are; raises StoreError in one sentence."""
    address = _address(url)
    where = address.render_as_string(hide_password=True)
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}}
    if address.get_backend_name() == "postgresql":
        # Whoever waited for the writers' lock must then see what the writer before it committed, whatever the server's default.
        options = {
            "connect_args": POSTGRES_PATIENCE,
            "pool_pre_ping": True,
            "isolation_level": "READ COMMITTED",
        }
    engine = create_engine(
        address, hide_parameters=True, **options
    )  # records stay out of error messages
    event.listen(engine, "handle_error", lambda context: _say(context, where))
    event.listen(engine, "begin", _begin)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _leave_transactions_to_us)
    return engine


def displayed_url(engine: Engine) -> str:
    """Where a database is, as it may be displayed_url."""
    return engine.url.render_as_string(hide_password=True)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (exc.ArgumentError, ValueError):
        # The URL is not displayed_url: a password may be anywhere in it.
        raise StoreAddressError(
            "the store's URL (GRIDCAST_DATABASE_URL) cannot be read: write sqlite:///file or postgresql://user:password@host/name"
        ) from None
    if address.get_backend_name() in ("postgresql", "postgres"):
        return address.set(drivername="postgresql+psycopg")
    if address.drivername in ("sqlite", "sqlite+pysqlite"):
        return address
    where = address.render_as_string(hide_password=True)
    raise StoreAddressError(f"the store's URL {where} must begin with sqlite:/// or postgresql://")


@contextmanager
def read_connection(engine: Engine) -> Iterator[Connection]:
    """A connection for queries only: on SQLite it waits for no writer."""
    with engine.connect() as connection:
        yield connection.execution_options(reads=True)


def lock_writers(connection: Connection) -> None:
    """Let one writer at a time past this point until its transaction ends.

    SQLite does so by itself; on PostgreSQL, two upserts of the same keys in different order would deadlock.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _WRITERS_LOCK})


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another writer ("database is locked" at once),
    # so a writer takes the lock when it begins.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(
            "BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE"
        )


def _leave_transactions_to_us(driver: Any, record: object) -> None:
    driver.isolation_level = None  # begin and commit are ours (see _begin)


def _set_up_sqlite(driver: Any, record: object) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            # Leaving rollback mode needs the file alone, and SQLite does not wait for that by itself.
            driver.execute("PRAGMA journal_mode=WAL").close()
            break
        except driver.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    driver.execute(
        "PRAGMA synchronous=FULL"
    ).close()  # with NORMAL, WAL may lose a commit when the power fails
    driver.execute("PRAGMA foreign_keys=ON").close()
    driver.execute(
        "PRAGMA cache_size=-65536"
    ).close()  # 64 MiB: the key's index stays in memory for millions of jobs


def _migrate(engine: Engine, where: str) -> None:
    with read_connection(engine) as connection:
        if version_of(connection) == HEAD:
            return
    with engine.begin() as connection:
        lock_writers(connection)
        if version_of(connection) != HEAD:  # else another process was quicker
            migrate(connection, where)


def migrate(connection: Connection, where: str, version: str = HEAD) -> None:
    """Bring the tables from whatever version they are up to ``version``, in the caller's transaction.

    Raises StoreError where they, or ``version``, are of a newer Gridcast.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    import infra.migrations

    config = Config()
    config.set_main_option(
        "script_location", str(Path(infra.migrations.__path__[0])).replace("%", "%%")
    )
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    for found in (version_of(connection) or version, version):
        if found not in known:
            raise StoreError(
                f"{where} was written by a newer Gridcast (its tables are version {found}, this one knows {HEAD}): update Gridcast"
            )
    command.upgrade(config, version)


def version_of(connection: Connection) -> str | None:
    """Which version the tables are, None where there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(
        text(f"SELECT version_num FROM {VERSION_TABLE}")
    ).scalar()
    return version


def _say(context: ExceptionContext, where: str) -> None:
    """Turn what the database refuses, as opposed to what the code got wrong, into one sentence."""
    if context.is_pre_ping:  # SQLAlchemy connects anew
        return
    error = context.sqlalchemy_exception
    if (
        isinstance(error, exc.OperationalError | exc.InterfaceError)
        or type(error) is exc.DatabaseError
    ):
        raise failure(context.original_exception, where) from context.original_exception


def failure(error: BaseException, where: str) -> StoreError:
    """What a driver's error of the database at ``where`` means, in one sentence."""
    return StoreError(_sentence(error, where))


def _sentence(error: BaseException, where: str) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    code = str(getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or "")
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR", "53100")):
        return f"{where} cannot be written ({said}): nothing of this batch was stored; free some disk space and run the same command again"
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{where} was kept locked by another process for {BUSY_SECONDS} s: let that finish and run the same command again"
    if code == "55P03":
        return f"{where} has a month that another reads just now (a backup, a training): run the same command again later"
    if code.startswith("SQLITE_CANTOPEN"):
        return f"{where} cannot be opened: does its folder exist, and may you write there?"
    return f"{where} cannot be used: {said}"
