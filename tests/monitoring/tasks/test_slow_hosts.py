"""Slow hosts: a planted one is named with factor, begin and resource; ordinary days have none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine

from infra.settings import Settings
from jobs.workload import generate
from models.ranking.slow_hosts import slow_hosts
from monitoring.doctor import examine_site
from monitoring.tasks.activity import summarise
from monitoring.tasks.latest_tasks import LatestTasks
from monitoring.tasks.slow_hosts import alert_about, slow_host_rows
from monitoring.tasks.watch import COLUMNS, as_of
from services.dashboard.metrics import metrics
from services.dashboard.overview import host_problems
from services.dashboard.sites import sites
from tests.monitoring.test_alerts import Hook, Receiver

SLOW = "site-04-h1"


def few_hosts(seed: int = 4) -> pd.DataFrame:
    """Ten generated days on four hosts a site."""
    jobs = generate(6000, days=10, seed=seed).jobs
    number = jobs["host"].str[-3:].astype(float)
    names = jobs["host"].str[:-5] + "-h" + (number % 4).fillna(0).astype(int).astype(str)
    return jobs.assign(host=names.mask(jobs["host"].isna()))


def with_slow_host(
    jobs: pd.DataFrame, begin: pd.Timestamp, factor: float, cpu: bool
) -> pd.DataFrame:
    own = (jobs["host"] == SLOW) & (jobs["started_at"] >= begin)
    assert own.sum() > 30
    longer = np.where(own, factor, 1.0)
    ended = jobs["started_at"] + pd.to_timedelta(jobs["walltime"] * longer, unit="s")
    columns = {"walltime": jobs["walltime"] * longer, "ended_at": ended.dt.round("us")}
    if cpu:
        columns["cpu_time"] = jobs["cpu_time"] * longer
    return jobs.assign(**columns)


@pytest.mark.parametrize("seed", [1, 3, 6, 8])
def test_ordinary_days_have_no_slow_host(seed: int) -> None:
    assert slow_hosts(generate(4000, days=8, seed=seed).jobs) == []
    assert slow_hosts(few_hosts(seed)) == []


@pytest.mark.parametrize(("cpu", "resource"), [(False, "io"), (True, "cpu")])
def test_a_planted_slow_host_is_named_with_factor_begin_and_resource(
    cpu: bool, resource: str
) -> None:
    jobs = few_hosts()
    begin = jobs["started_at"].quantile(0.4)
    (host,) = slow_hosts(with_slow_host(jobs, begin, 3.0, cpu))
    assert (host.site, host.host, host.resource) == ("site-04", SLOW, resource)
    assert 2.2 < host.factor < 3.8
    since = pd.Timestamp(host.since, unit="s", tz="UTC")
    assert pd.Timedelta(-1, "d") < since - begin < pd.Timedelta(2, "d")


def test_a_host_that_is_rated_slow_is_none() -> None:
    jobs = few_hosts()
    slow = with_slow_host(jobs, jobs["started_at"].min(), 3.0, cpu=True)
    power = slow["host_power"] / np.where(slow["host"] == SLOW, 3.0, 1.0)
    rated = slow.assign(host_power=power)
    assert [host.host for host in slow_hosts(slow)] == [SLOW]
    assert slow_hosts(rated) == []


def test_page_metrics_doctor_and_alert_name_the_slow_host(
    sqlite_store: Engine, tmp_path: Path
) -> None:
    jobs = few_hosts()
    jobs = with_slow_host(jobs, jobs["started_at"].quantile(0.4), 3.0, cpu=False)
    now = jobs["ended_at"].quantile(0.9)
    activity = summarise(as_of(jobs[jobs["submitted_at"] <= now], now), now)
    (row,) = sites(activity)["slow_hosts"]
    assert (row["host"], row["resource"]) == (SLOW, "io") and row["factor"] > 2
    assert f"{SLOW} of site-04 is slow since 2025-01-" in row["text"]
    (problem,) = host_problems(activity)
    assert problem["text"] == row["text"] and problem["view"] == "sites"
    (tmp_path / "tasks").mkdir()
    latest = LatestTasks(tmp_path / "tasks")
    latest.write(pd.DataFrame(columns=list(COLUMNS)), now.to_pydatetime())
    latest.write_activity(activity)
    assert b'gridcast_slow_hosts{resource="io"} 1.0' in metrics(latest)
    hook = Receiver(Hook)
    settings = Settings(home=tmp_path, alerts=SecretStr(f"json://127.0.0.1:{hook.port}"))
    findings = {finding.subject: finding for finding in examine_site(settings)}
    assert findings["hosts"].state == "watch" and SLOW in findings["hosts"].summary
    try:
        for minute, rows in enumerate([[row], [row], []]):
            alert_about(sqlite_store, settings, rows, now + pd.Timedelta(minutes=minute))
    finally:
        hook.stop()
    assert [got["title"].partition(": ")[2] for got in hook.got] == [
        f"host {SLOW} of site-04", f"host {SLOW} of site-04 is over",
    ]  # fmt: skip
    assert hook.got[0]["message"] == row["text"]


def test_a_later_end_does_not_count_before_it() -> None:
    jobs = few_hosts()
    begin = jobs["started_at"].quantile(0.4)
    jobs = with_slow_host(jobs, begin, 3.0, cpu=False)
    assert slow_host_rows(as_of(jobs, begin), begin) == []
    at = jobs["ended_at"].quantile(0.9)
    later = jobs["ended_at"] > at
    draw = np.random.default_rng(0).uniform(0.01, 100, len(jobs))
    scrambled = jobs.assign(
        walltime=jobs["walltime"].mask(later, jobs["walltime"] * draw),
        cpu_time=jobs["cpu_time"].mask(later, jobs["cpu_time"] * draw),
    )
    assert slow_host_rows(as_of(jobs, at), at) == slow_host_rows(as_of(scrambled, at), at) != []
