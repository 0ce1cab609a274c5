"""Move of the store and MLflow's registry from SQLite into the data folder's own PostgreSQL.

Artifacts stay where they are; only rows move. The SQLite files are not changed.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from infra.settings import Settings
from infra.site import postgres
from infra.temporary import running
from jobs.store import connect, copies, count_jobs, open_store
from jobs.store.database import VERSION_TABLE
from models.releases import registry


def count_in_sqlite(settings: Settings) -> tuple[int, int]:
    """Count the jobs and the versions of the model in the data folder's SQLite files."""
    sqlite = in_sqlite(settings)
    jobs = versions = 0
    if (settings.home.absolute() / "store" / "jobs.db").exists():
        engine = open_store(sqlite.store_url)
        jobs = int(count_jobs(engine)["jobs"].sum())
        engine.dispose()
    if (settings.home.absolute() / "mlflow" / "mlflow.db").exists() and not settings.mlflow_url:
        versions = len(registry.versions(sqlite))
    return jobs, versions


def move_to_postgres(settings: Settings) -> int:
    """Make the data folder's PostgreSQL and copy all rows into it, or leave none behind.

    Returns:
        The number of rows.

    Raises:
        GridcastError: PostgreSQL does not start, or a database cannot be copied; then there is no
            PostgreSQL, as before.
    """
    sqlite = in_sqlite(settings)
    try:
        with running(settings, postgres(settings)):
            return _copy(sqlite, settings)
    except BaseException:
        shutil.rmtree(settings.postgres_folder / "data", ignore_errors=True)
        raise


def in_sqlite(settings: Settings) -> Settings:
    """The same settings with the store and the registry in the data folder's SQLite files."""
    urls = {
        "database_url": f"sqlite:///{settings.folder('store') / 'jobs.db'}",
        "mlflow_url": settings.mlflow_url or f"sqlite:///{settings.folder('mlflow') / 'mlflow.db'}",
    }
    return settings.model_copy(update=urls)


def _copy(sqlite: Settings, settings: Settings) -> int:
    with TemporaryDirectory(dir=settings.folder("tmp")) as draft:
        folder = Path(draft)
        source, target = open_store(sqlite.store_url), open_store(settings.store_url)
        version = copies.versions(source)[VERSION_TABLE]
        copies.dump(source, folder / "store")
        with target.begin() as connection:
            rows = sum(copies.load_store(connection, folder / "store", version).values())
        engines = [source, target]
        if not settings.mlflow_url:
            for database in (sqlite, settings):
                registry.versions(database)  # MLflow makes its tables at its first use
                engines.append(connect(database.tracking_url))
            copies.dump(engines[-2], folder / "mlflow")
            with engines[-1].begin() as connection:
                rows += sum(copies.load(connection, folder / "mlflow").values())
        for engine in engines:
            engine.dispose()
    return rows
