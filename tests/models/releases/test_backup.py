"""A backup restored into another folder and another database serves the same answers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from infra.errors import GridcastError, InputError
from infra.settings import Settings
from jobs.schema import OUTCOMES
from jobs.store import (
    add_jobs,
    add_measurements,
    add_predictions,
    add_rejects,
    add_task_predictions,
    count_jobs,
    open_store,
    read_audit,
    read_ended,
    set_threshold,
)
from jobs.workload import generate
from models.engine.training import train
from models.releases import registry
from models.releases.backup import MANIFEST, BackupError, back_up, restore
from models.releases.champion import load_forecaster
from models.releases.versions import Evidence

MOMENT = pd.Timestamp("2026-02-03 04:05:06.789012", tz="UTC")


def settings_of(home: Path, **more: str) -> Settings:
    return Settings(home=home, _env_file=None, **more)


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    return generate(900, 8, 5, sites=3, users=8).jobs.reset_index(drop=True)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, jobs: pd.DataFrame) -> Settings:
    """A data folder on SQLite with rows of every kind and a champion that replaced another."""
    settings = settings_of(tmp_path_factory.mktemp("served"))
    store = open_store(settings.store_url)
    with store.begin() as connection:
        add_jobs(connection, jobs.iloc[:500])
    with store.begin() as connection:
        add_jobs(connection, jobs.iloc[500:700])
        add_rejects(connection, "log.csv", [])
        row = {
            "asked_at": MOMENT,
            "source": "made",
            "job_id": "1\0",
            "target": "walltime",
            "model_version": "x",
            "point": float("inf"),
        }
        add_predictions(connection, pd.DataFrame([row | {"cold_start": True}]))
        numbers = {
            "measured_at": MOMENT,
            "kind": "drift",
            "name": "user",
            "segment": "all",
            "value": 0.1,
            "details": {"of": [1, None]},
        }
        add_measurements(connection, pd.DataFrame([numbers]))
        add_task_predictions(
            connection,
            pd.DataFrame([{"asked_at": MOMENT, "kind": "task", "task": "7", "reasons": ["slow"]}]),
        )
        set_threshold(connection, "all", "slow", 2.0, "ada", MOMENT.to_pydatetime())
    store.dispose()
    folder = settings.folder("tmp") / "set"
    train(jobs.iloc[:600]).save(folder)
    for why in ("the first", "the better"):
        version = registry.publish(
            folder, Evidence(card=why, metrics={"mae": 1.5}, tags={"of": "test"}), settings=settings
        )
        registry.promote(version.version, by="ada", why=why, settings=settings)
    return settings


def answers(settings: Settings, jobs: pd.DataFrame) -> pd.DataFrame:
    """What the champion with the store's history says of jobs that did not end yet."""
    store = open_store(settings.store_url)
    try:
        return load_forecaster(store, settings).predict(
            jobs.iloc[700:].drop(columns=list(OUTCOMES))
        )
    finally:
        store.dispose()


@pytest.fixture(scope="module")
def predictions(served: Settings, jobs: pd.DataFrame) -> pd.DataFrame:
    return answers(served, jobs)


@pytest.fixture(scope="module")
def backup(
    served: Settings, predictions: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A packed backup, after which the data folder that it was made of is gone."""
    target = tmp_path_factory.mktemp("backups") / "gridcast.tar"
    back_up(served, target)
    shutil.move(served.home, target.parent / "elsewhere")
    assert [path.name for path in target.parent.iterdir() if path.name.startswith(".")] == []
    return target


def database(postgres: Any, name: str) -> str:
    postgres.psql(f"CREATE DATABASE {name};")
    return str(postgres.get_uri(database=name))


def test_a_backup_of_sqlite_restored_into_an_empty_postgresql_serves_the_same_answers(
    backup: Path, predictions: pd.DataFrame, jobs: pd.DataFrame, postgres: Any, tmp_path: Path
) -> None:
    urls = {
        "database_url": database(postgres, "restored"),
        "mlflow_url": database(postgres, "restored_mlflow"),
    }
    settings = settings_of(tmp_path / "home", **urls)
    rows = {row["part"]: row["rows"] for row in restore(settings, backup)}

    pd.testing.assert_frame_equal(answers(settings, jobs), predictions)
    champion = registry.champion(settings)
    assert champion is not None
    assert (champion.version, champion.tags["promoted_by"], champion.tags["replaces"]) == (
        2,
        "ada",
        "1",
    )
    store = open_store(settings.store_url)
    log = read_audit(store)
    store.dispose()
    assert (log["action"].iloc[0], log["object"].iloc[0]) == ("restore", str(backup))
    assert {"threshold", "promote"} <= set(log["action"])
    assert registry.metrics(champion, settings) == {"mae": 1.5}
    assert (rows["store: jobs"], rows["store: predictions"], rows["store: task_thresholds"]) == (
        700,
        1,
        1,
    )

    # It goes on from there: what comes has later numbers, and the next version is the third.
    store = open_store(settings.store_url)
    newest = int(read_ended(store)["revision"].max())
    with store.begin() as connection:
        assert add_jobs(connection, jobs.iloc[700:]).revision == newest + 1 == 3
    store.dispose()
    folder = settings.folder("tmp") / "set"
    shutil.copytree(registry.fetch(champion, settings=settings), folder)
    assert registry.publish(folder, Evidence(card="later"), settings=settings).version == 3

    # And the way back: from PostgreSQL, as a folder, into SQLite.
    back_up(settings, tmp_path / "again")
    home = settings_of(tmp_path / "back")
    restore(home, tmp_path / "again")
    later = answers(home, jobs)
    pd.testing.assert_frame_equal(later, answers(settings, jobs))
    with pytest.raises(BackupError, match=r"MLflow at .* is not empty"):
        restore(home, tmp_path / "again")


def test_a_backup_overwrites_nothing_and_fills_only_what_is_empty(
    backup: Path, jobs: pd.DataFrame, tmp_path: Path
) -> None:
    settings = settings_of(tmp_path / "home")
    with pytest.raises(InputError, match="is there already, and a backup overwrites nothing"):
        back_up(settings, backup)
    store = open_store(settings.store_url)
    with store.begin() as connection:
        add_jobs(connection, jobs.head(1))
    with pytest.raises(GridcastError, match=r"is not empty \(its table jobs has rows\)"):
        restore(settings, backup)
    # Nothing of it stays: neither rows nor files, so that it can be restored where there is room.
    assert count_jobs(store)["jobs"].tolist() == [1]
    store.dispose()
    assert registry.versions(settings) == []
    Path(settings.store_url.removeprefix("sqlite:///")).unlink()
    restore(settings, backup)
    assert len(registry.versions(settings)) == 2


def test_a_backup_of_nothing_is_restored_too(postgres: Any, tmp_path: Path) -> None:
    back_up(settings_of(tmp_path / "empty"), tmp_path / "backup")
    urls = {
        "database_url": database(postgres, "nothing"),
        "mlflow_url": database(postgres, "nothing_mlflow"),
    }
    rows = restore(settings_of(tmp_path / "home", **urls), tmp_path / "backup")
    assert sum(row["rows"] for row in rows if row["part"].startswith("store")) == 0
    assert registry.champion(settings_of(tmp_path / "home", **urls)) is None


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (
            lambda folder: (folder / "store" / "jobs.parquet").write_bytes(b"no"),
            "damaged: the SHA-256 of its file store/jobs.parquet",
        ),
        (
            lambda folder: (folder / "store" / "jobs.parquet").unlink(),
            "lacks its file, store/jobs.parquet",
        ),
        (
            lambda folder: (folder / "store" / "more.parquet").touch(),
            "has a file of its own, store/more.parquet",
        ),
        (
            lambda folder: (folder / MANIFEST).unlink(),
            "is no backup: it has no readable backup.json",
        ),
        (lambda folder: rewrite(folder, format=9), "has format 9, this Gridcast reads format 1"),
        (
            lambda folder: rewrite(
                folder, store={"versions": {"gridcast_version": "9999"}, "rows": {}}
            ),
            "written by a newer Gridcast",
        ),
    ],
)
def test_a_damaged_or_foreign_backup_is_one_sentence_and_changes_nothing(
    backup: Path, tmp_path: Path, harm: Any, why: str
) -> None:
    shutil.unpack_archive(backup, tmp_path, filter="data")
    harm(tmp_path / "backup")
    settings = settings_of(tmp_path / "home")
    with pytest.raises(GridcastError, match=why):
        restore(settings, tmp_path / "backup")
    store = open_store(settings.store_url)
    assert count_jobs(store).empty
    store.dispose()


def test_what_is_no_archive_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file.tar").write_text("hello")
    with pytest.raises(InputError, match="is no backup that can be read"):
        restore(settings_of(tmp_path / "home"), tmp_path / "file.tar")


def rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps(manifest | changes))
