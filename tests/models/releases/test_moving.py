"""The first ``up --site`` of a data folder with jobs: moved, begun anew by choice, or refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import gridcast
from infra.errors import GridcastError, InputError
from infra.settings import Settings, prepare_environment
from infra.site import postgres as postgres_component
from infra.temporary import running
from jobs.store import add_jobs, count_jobs, open_store, read_jobs
from jobs.workload import generate
from models.engine.training import train
from models.releases import registry
from models.releases.moving import count_in_sqlite, move_to_postgres
from models.releases.verification import load_model_set
from models.releases.versions import Evidence
from tests.ports import free_port


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """A data folder with jobs and a champion in SQLite, which another user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="gridcast-moving-"))
    folder.chmod(0o755)
    monkeypatch.setenv("GRIDCAST_HOME", str(folder / "home"))
    monkeypatch.setenv("GRIDCAST_POSTGRES_PORT", str(free_port()))
    prepare_environment.cache_clear()
    settings = prepare_environment()
    jobs = generate(700, 4, 5).jobs
    engine = open_store(settings.store_url)
    with engine.begin() as connection:
        add_jobs(connection, jobs)
    engine.dispose()
    folder = settings.folder("tmp") / "set"
    train(jobs).save(folder)
    version = registry.publish(folder, Evidence(card="# A card"), settings=settings)
    registry.promote(version.version, by="a test", why="a test", settings=settings)
    yield settings
    monkeypatch.undo()
    prepare_environment.cache_clear()
    shutil.rmtree(folder, ignore_errors=True)


def up(*options: str) -> Any:
    return CliRunner().invoke(gridcast.app, ["up", *options])


def test_the_site_does_not_begin_on_an_empty_database_without_a_word(settings: Settings) -> None:
    refused = up("--site")
    assert isinstance(refused.exception, InputError)
    assert "700 jobs and 1 versions of the model in SQLite" in str(refused.exception)
    assert "--move" in str(refused.exception) and "--empty" in str(refused.exception)
    assert not settings.postgres_folder.exists()
    assert isinstance(up("--move").exception, InputError)
    assert isinstance(up("--site", "--move", "--empty").exception, InputError)


def test_what_is_moved_is_there_and_the_files_stay(settings: Settings, postgres: Any) -> None:
    before = read_jobs(open_store(settings.store_url))
    label = registry.champion(settings)
    assert move_to_postgres(settings) > 700
    assert settings.store_url.startswith("postgresql://")
    assert count_in_sqlite(settings) == (700, 1)
    with running(settings, postgres_component(settings)):
        engine = open_store(settings.store_url)
        moved = read_jobs(engine)
        columns = ["source", "job_id", "walltime", "ended_at"]
        assert (
            moved[columns].sort_values("job_id", ignore_index=True)
            .equals(before[columns].sort_values("job_id", ignore_index=True))
        )  # fmt: skip
        champion = registry.champion(settings)
        assert champion is not None and champion == label
        assert load_model_set(champion, settings).card.rows == 700
        with engine.begin() as connection:
            add_jobs(connection, generate(10, 1, 9).jobs.assign(source="new"))
        assert count_jobs(engine)["jobs"].sum() == 710
        engine.dispose()
    again = up("--site", "--move")
    assert isinstance(again.exception, InputError)
    assert "PostgreSQL is there already" in str(again.exception)
    plain = up()
    assert isinstance(plain.exception, InputError)
    assert "gridcast restore" in str(plain.exception)


def test_a_move_that_fails_leaves_no_database_behind(
    settings: Settings, postgres: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (settings.home / "store" / "jobs.db").write_bytes(b"no database" * 1000)
    with pytest.raises(GridcastError):
        move_to_postgres(settings)
    assert not (settings.postgres_folder / "data").exists()
    assert settings.store_url.startswith("sqlite:")
