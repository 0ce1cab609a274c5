"""Opening the store: address, connections, migrations, and errors as one sentence."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

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

HEAD = "0015"
"""The newest migration; raise it with each (a test compares it with Alembic, slow to import)."""

VERSION_TABLE = "gridcast_version"
BUSY_SECONDS = 120.0
"""How long a writer waits for another process by default."""
POSTGRES_PATIENCE = {
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
"""A server that vanished is given up after 30 s; TCP's own time-out is 15 minutes."""
_WRITERS_LOCK = 0x67726964  # "grid": any number that no other program of this database uses
_PARTITIONS_LOCK = _WRITERS_LOCK + 1
ATTEMPTS = 4
"""How often a transaction that PostgreSQL undid for the sake of another one is begun."""
_UNDONE = ("40P01", "40001")
"""SQLSTATE of a deadlock, and of a serialisation failure."""
_Result = TypeVar("_Result")


class StoreError(GridcastError):
    """The store cannot be reached, read or written; the transaction was rolled back."""


class StoreAddressError(StoreError, InputError):
    """The URL of the store is wrong."""


def open_store(url: str, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Open the store at an SQLAlchemy URL (SQLite or PostgreSQL) and migrate its tables.

    ``engine.begin()`` begins a writer's transaction: writers wait for each other, ``busy_seconds``
    at most. A server that holds requests while it waits should not wait long.

    Raises:
        StoreError: if the store cannot be opened.

    >>> open_store("mysql://host/jobs")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    jobs.store.database.StoreAddressError: the store's URL mysql://host/jobs must begin with ...
    """
    engine = connect(url, busy_seconds)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _set_up_sqlite)
    try:
        _migrate(engine, displayed_url(engine))
    except BaseException:
        engine.dispose()
        raise
    return engine


def connect(url: str, busy_seconds: float = BUSY_SECONDS) -> Engine:
    """Connect to a database at an SQLAlchemy URL, without migrating it.

    Raises:
        StoreError: if the URL is wrong; later, whenever the database fails.
    """
    address = _address(url)
    where = address.render_as_string(hide_password=True)
    options: dict[str, Any] = {"connect_args": {"timeout": busy_seconds}}
    if address.get_backend_name() == "postgresql":
        # A writer that waited for the lock must see the commit of the one before it.
        options = {
            "connect_args": POSTGRES_PATIENCE,
            "pool_pre_ping": True,
            "isolation_level": "READ COMMITTED",
        }
    # hide_parameters: records stay out of error messages.
    engine = create_engine(
        address, hide_parameters=True, execution_options={"busy_seconds": busy_seconds}, **options
    )
    event.listen(
        engine, "handle_error", lambda context: _raise_failure(context, where, busy_seconds)
    )
    event.listen(engine, "begin", _begin)
    if engine.dialect.name == "sqlite":
        _watch_file(engine, where)
        event.listen(engine, "connect", _disable_driver_transactions)
    return engine


def displayed_url(engine: Engine) -> str:
    """The URL of a database without its password."""
    return engine.url.render_as_string(hide_password=True)


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except (exc.ArgumentError, ValueError):
        # The URL is not shown: a password may be anywhere in it.
        raise StoreAddressError(
            "the store's URL (GRIDCAST_DATABASE_URL) cannot be read: "
            "write sqlite:///file or postgresql://user:password@host/name"
        ) from None
    if address.get_backend_name() in ("postgresql", "postgres"):
        return address.set(drivername="postgresql+psycopg")
    if address.drivername in ("sqlite", "sqlite+pysqlite"):
        return address
    where = address.render_as_string(hide_password=True)
    raise StoreAddressError(f"the store's URL {where} must begin with sqlite:/// or postgresql://")


@contextmanager
def read_connection(engine: Engine) -> Iterator[Connection]:
    """A connection for queries only, which on SQLite waits for no writer."""
    with engine.connect() as connection:
        yield connection.execution_options(reads=True)


@contextmanager
def snapshot_connection(engine: Engine) -> Iterator[Connection]:
    """A connection for queries that all see the store as of one moment."""
    with read_connection(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
        yield connection


def write_transaction(engine: Engine, write: Callable[[Connection], _Result]) -> _Result:
    """Run ``write`` in a transaction, and again where PostgreSQL undid it for another one.

    Args:
        engine: the store.
        write: what to do with the connection; it changes nothing but the store.

    Raises:
        StoreError: whatever else fails, or the last of ``ATTEMPTS``.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with engine.begin() as connection:
                return write(connection)
        except StoreError as error:
            if attempt == ATTEMPTS or getattr(error.__cause__, "sqlstate", "") not in _UNDONE:
                raise
            time.sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311
    raise AssertionError("unreachable")


def lock_writers(connection: Connection) -> None:
    """Let nobody else write until the transaction ends; SQLite does so by itself."""
    _lock(connection, "pg_advisory_xact_lock", _WRITERS_LOCK)


def share_writers(connection: Connection) -> None:
    """Write beside others, but not beside who holds the lock of ``lock_writers``."""
    _lock(connection, "pg_advisory_xact_lock_shared", _WRITERS_LOCK)


def lock_partitions(connection: Connection) -> None:
    """Let nobody else create partitions until the transaction ends."""
    _lock(connection, "pg_advisory_xact_lock", _PARTITIONS_LOCK)


def busy_seconds(connection: Connection) -> float:
    """How long a connection waits for a lock."""
    return float(connection.get_execution_options().get("busy_seconds", BUSY_SECONDS))


def _lock(connection: Connection, function: str, number: int) -> None:
    if connection.dialect.name == "postgresql":
        seconds = busy_seconds(connection)
        # The time-out first: it is read when the lock is waited for.
        set_timeout = f"set_config('lock_timeout', '{seconds * 1000:.0f}', true)"
        connection.exec_driver_sql(f"SELECT {set_timeout}, {function}({number})")


def _begin(connection: Connection) -> None:
    # A transaction that reads first and writes later fails at once where another one is writing,
    # so a writer takes the lock when it begins.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(
            "BEGIN" if connection.get_execution_options().get("reads") else "BEGIN IMMEDIATE"
        )


def _watch_file(engine: Engine, where: str) -> None:
    """Raise StoreError in transactions once the file is not the one that was opened first.

    SQLite goes on with a file that was removed or replaced, and what it commits there is lost.
    """
    path = engine.url.database
    if not path or path == ":memory:" or path.startswith("file:"):
        return
    opened: list[tuple[int, int]] = []

    def identity() -> tuple[int, int] | None:
        try:
            status = Path(path).stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def make_private(*_: object) -> None:
        with suppress(OSError):  # SQLite says why it cannot be opened
            if not Path(path).exists():
                Path(path).touch(mode=0o600)  # its WAL gets the same permissions

    def check(*_: object) -> None:
        if opened and identity() != opened[0]:
            raise StoreError(
                f"{where} was replaced or removed while it was in use, so nothing is stored: start "
                "the servers again"
            )

    def note(driver: Any, record: object) -> None:
        driver.execute("SELECT 1 FROM sqlite_schema").close()  # which opens the file
        if not opened and (current := identity()):
            opened.append(current)

    event.listen(engine, "do_connect", check)
    event.listen(engine, "do_connect", make_private)
    event.listen(engine, "connect", note)
    event.listen(engine, "begin", check)
    event.listen(engine, "commit", check)


def _disable_driver_transactions(driver: Any, record: object) -> None:
    driver.isolation_level = None  # _begin begins them


def _set_up_sqlite(driver: Any, record: object) -> None:
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            # Leaving rollback mode needs exclusive access, for which SQLite does not wait.
            driver.execute("PRAGMA journal_mode=WAL").close()
            break
        except driver.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    # With synchronous=NORMAL, WAL may lose a commit when the power fails. A cache of 64 MiB holds
    # the key's index of millions of jobs.
    for setting in ("synchronous=FULL", "foreign_keys=ON", "cache_size=-65536"):
        driver.execute(f"PRAGMA {setting}").close()


def _migrate(engine: Engine, where: str) -> None:
    with read_connection(engine) as connection:
        if version_of(connection) == HEAD:
            return
    with engine.begin() as connection:
        lock_writers(connection)
        if version_of(connection) != HEAD:  # else another process was quicker
            migrate(connection, where)


def migrate(connection: Connection, where: str, version: str = HEAD) -> None:
    """Migrate the tables to ``version``, in the caller's transaction.

    Args:
        connection: the caller's transaction.
        where: the database's URL without its password, for messages.
        version: the version to reach.

    Raises:
        StoreError: if the tables, or ``version``, are of a newer Gridcast.
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
    migrations = {
        script.revision for script in ScriptDirectory.from_config(config).walk_revisions()
    }
    for required in (version_of(connection) or version, version):
        if required not in migrations:
            raise StoreError(
                f"{where} was written by a newer Gridcast "
                f"(its tables are version {required}, this one knows {HEAD}): update Gridcast"
            )
    command.upgrade(config, version)


def version_of(connection: Connection) -> str | None:
    """The version of the tables, None where there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(
        text(f"SELECT version_num FROM {VERSION_TABLE}")
    ).scalar()
    return version


def _raise_failure(context: ExceptionContext, where: str, busy_seconds: float) -> None:
    """Raise StoreError for what the database refuses, but not for errors of the program."""
    if context.is_pre_ping:  # SQLAlchemy connects anew
        return
    error = context.sqlalchemy_exception
    if (
        isinstance(error, exc.OperationalError | exc.InterfaceError)
        or type(error) is exc.DatabaseError
    ):
        original = context.original_exception
        raise failure(original, where, busy_seconds, context.statement or "") from original


def failure(
    error: BaseException, where: str, busy_seconds: float = BUSY_SECONDS, statement: str = ""
) -> StoreError:
    """The meaning of a driver's error, as one sentence.

    Args:
        error: the driver's error.
        where: the database's URL without its password.
        busy_seconds: how long the connection waits for a lock.
        statement: the statement that failed.
    """
    message = (str(error).strip() or type(error).__name__).splitlines()[0]
    code = str(getattr(error, "sqlite_errorname", None) or getattr(error, "sqlstate", None) or "")
    is_timeout = code == "55P03"
    if code.startswith(("SQLITE_FULL", "SQLITE_IOERR", "53100")):
        sentence = (
            f"cannot be written ({message}): nothing of this batch was stored; "
            "free some disk space and run the same command again"
        )
    elif code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")) or (
        is_timeout and ("advisory" in statement or "_keys" in statement)
    ):
        sentence = (
            f"was locked by another process for {busy_seconds:g} s: "
            "let that finish and run the same command again"
        )
    elif code == "40P01":
        sentence = (
            "undid this transaction: it and another one waited for each other's jobs; "
            "run the same command again"
        )
    elif is_timeout:
        sentence = (
            "has a month that is being read (by a backup or a training): "
            "run the same command again later"
        )
    elif code.startswith("SQLITE_CANTOPEN"):
        sentence = "cannot be opened: does its folder exist, and may you write there?"
    else:
        sentence = f"cannot be used: {message}"
    return StoreError(f"{where} {sentence}")
