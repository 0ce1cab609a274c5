"""What a training is for where nothing is said, and what it may not take from the champion."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.settings import Settings
from jobs.store import add_jobs, open_store
from jobs.workload import generate
from models.engine.training import train
from models.releases import registry, release
from models.releases.versions import Evidence


def test_a_training_is_as_the_champions_and_no_version_serves_by_itself_that_foresees_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, jobs = Settings(home=tmp_path), generate(1600, 8, 5, sites=3, users=8).jobs
    assert release.training_options(settings) == (("walltime",), None)
    folder = settings.folder("tmp") / "set"
    train(jobs.iloc[:900], targets=("walltime", "peak_memory"), cluster_by="group").save(folder)
    champion = registry.publish(folder, Evidence(card="two targets"), settings=settings)
    registry.promote(champion.version, by="ada", why="the first", settings=settings)

    assert release.training_options(settings) == (("walltime", "peak_memory"), "group")
    assert release.training_options(settings, ["cpu_time"]) == (("cpu_time",), "group")
    assert release.training_options(settings, cluster_by="site") == (
        ("walltime", "peak_memory"),
        "site",
    )

    store = open_store(settings.store_url)
    with store.begin() as connection:
        add_jobs(connection, jobs)
    monkeypatch.setattr(release, "is_promotable", lambda found: True)
    less = release.release(store, settings, targets=["walltime"])
    assert not less.promoted and "does not foresee peak_memory, which" in less.why
    as_much = release.release(store, settings)
    assert as_much.promoted and {row["target"] for row in as_much.rows} == {
        "walltime",
        "peak_memory",
    }
    store.dispose()
