"""The page of a replay: its table, its plots, and that it loads nothing."""

import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform, derive_fields
from scheduling.machine import processors
from scheduling.outcome import Replay
from scheduling.replay import replay
from scheduling.studies.plots import _in_use, _waiting, busiest_day, lanes, seconds_of
from scheduling.studies.report import report


@pytest.fixture(scope="module")
def replays() -> list[Replay]:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "submitted": np.sort(generator.uniform(0, 3 * 86400, 300)),
            "walltime": generator.exponential(3000, 300) + 1,
        }
    )
    frame = frame.assign(
        cores=generator.integers(1, 5, 300),
        source="<b>page</b>",
        requested_walltime=20000.0,
        user="ada",
    )
    frame["job_id"] = frame.index.astype(str)
    frame["submitted_at"] = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(
        frame["submitted"], unit="s"
    )
    jobs = derive_fields(conform(frame))
    return [replay(jobs, processors(8), *way) for way in (("easy",), ("xfactor", "last-two"))]


def test_the_page_holds_the_table_and_the_plots_and_loads_nothing(
    replays: list[Replay], tmp_path: Path
) -> None:
    text = report(replays, tmp_path / "new/replay.html", datetime(2026, 1, 2), "Found.").read_text()
    assert text.count("<tr>") == 3
    # mean waits, waits, utilisation, frontier, a Gantt chart each
    assert text.count("<svg ") == 6
    assert '<p class="lead">Found.</p>' in text
    assert "&lt;b&gt;page&lt;/b&gt;" in text
    assert not re.search(r"https?://|src=\"(?!data:)|<script", text)


def test_no_two_jobs_are_drawn_on_one_core_at_once(replays: list[Replay]) -> None:
    table = replays[0].table
    drawn = lanes(replays[0], np.arange(len(table)))
    assert sorted(row for row, _ in drawn) == list(range(len(table)))
    for core in range(8):
        rows = [row for row, parts in drawn if any(first <= core < last for first, last in parts)]
        assert (table["started"][rows][1:] >= table["ended"][rows][:-1]).all()
    assert all(
        sum(last - first for first, last in parts) == replays[0].trace.cores[row]
        for row, parts in drawn
    )


def test_utilisation_over_time_adds_up_to_that_of_the_table(replays: list[Replay]) -> None:
    edges = np.linspace(0, replays[0].table["ended"].max(), 50)
    used = _in_use(replays[0], edges)
    assert used.mean() == pytest.approx(replays[0].utilisation)
    assert (used >= -1e-9).all()
    assert (used <= 1 + 1e-9).all()


def test_the_busiest_day_is_the_one_whose_jobs_waited_most_together(replays: list[Replay]) -> None:
    submitted = replays[0].trace.jobs["submitted_at"]
    waited = pd.Series(replays[0].waits).groupby(submitted.dt.floor("D").to_numpy()).sum()
    busiest = pd.Timestamp(waited.idxmax())
    assert busiest_day(replays[0]) == pytest.approx((busiest - submitted.iloc[0]).total_seconds())
    assert seconds_of(replays[0], busiest.to_pydatetime()) == pytest.approx(busiest_day(replays[0]))


def test_the_day_drawn_shows_what_waits_and_only_what_waits(replays: list[Replay]) -> None:
    day = busiest_day(replays[0])
    hours, waiting = _waiting(replays[0], day)
    table, cores = replays[0].table, replays[0].trace.cores
    for hour, cores_waiting in zip(hours[::7], waiting[::7], strict=True):
        moment = day + hour * 3600.0 + 1e-3
        assert (
            cores_waiting
            == cores[(table["submitted"] <= moment) & (moment < table["started"])].sum()
        )
    assert waiting.max() > 0
