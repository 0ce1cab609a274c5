"""Slow hosts: a planted one is named with factor, begin and resource; ordinary days have none."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydantic import SecretStr

from infra.settings import Settings
from jobs.store import add_jobs, open_store
from jobs.workload import generate
from models.ranking.slow_hosts import slow_hosts
from monitoring.doctor import examine_site
from monitoring.tasks.activity import summarise
from monitoring.tasks.latest_tasks import LatestTasks
from monitoring.tasks.watch import TaskWatch
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


def test_page_metrics_doctor_and_alert_name_the_slow_host(tmp_path: Path) -> None:
    jobs = few_hosts()
    begin = jobs["started_at"].quantile(0.4)
    jobs = with_slow_host(jobs, begin, 3.0, cpu=False)
    now = jobs["ended_at"].quantile(0.9)
    jobs = jobs[jobs["submitted_at"] <= now]
    hook = Receiver(Hook)
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    with engine.begin() as connection:
        add_jobs(connection, jobs)
    settings = Settings(home=tmp_path, alerts=SecretStr(f"json://127.0.0.1:{hook.port}"))
    watch = TaskWatch(engine, settings)
    try:
        described = watch.update(now.to_pydatetime())
        watch.update((now + pd.Timedelta(minutes=1)).to_pydatetime())
        quiet = TaskWatch(engine, settings)
        quiet.update((now + pd.Timedelta(days=30)).to_pydatetime())
    finally:
        hook.stop()
    sent = [got for got in hook.got if f"host {SLOW}" in got["title"]]
    assert [got["title"].rpartition(":")[2] for got in sent] == [
        f" host {SLOW}", f" host {SLOW} is over",
    ]  # fmt: skip
    assert f"{SLOW} of site-04 is slow since" in sent[0]["message"]
    assert "times as long as the same jobs elsewhere" in sent[0]["message"]
    (row,) = sites(watch.activity)["slow_hosts"]
    assert row["host"] == SLOW and row["factor"] > 2
    (problem,) = host_problems(watch.activity)
    assert problem["text"] == row["text"] and problem["view"] == "sites"
    (tmp_path / "tasks").mkdir(exist_ok=True)
    latest = LatestTasks(tmp_path / "tasks")
    latest.write(described, now.to_pydatetime())
    latest.write_activity(watch.activity)
    assert b'gridcast_slow_hosts{resource="io"} 1.0' in metrics(latest)
    findings = {finding.subject: finding for finding in examine_site(settings)}
    assert findings["hosts"].state == "watch" and SLOW in findings["hosts"].summary


def test_a_later_end_does_not_count_before_it(tmp_path: Path) -> None:
    jobs = few_hosts()
    begin = jobs["started_at"].quantile(0.4)
    jobs = with_slow_host(jobs, begin, 3.0, cpu=False)
    engine = open_store(f"sqlite:///{tmp_path / 'store.db'}")
    with engine.begin() as connection:
        add_jobs(connection, jobs)
    watch = TaskWatch(engine, Settings(home=tmp_path))
    watch.update(begin.to_pydatetime())
    assert watch.activity["slow_hosts"] == []
    assert summarise(jobs, jobs["ended_at"].max())["slow_hosts"] != []
