"""Requests that the adapter writes in a real Slurm, which kills jobs by the kernel for their memory.

Two rounds of the same jobs: with their users' requests (the adapter observes), and with the ladders
that were predicted from the first round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine

from jobs.collectors import collect
from jobs.schema import conform
from jobs.store import open_store, read_jobs
from models.engine.advice import Advice
from models.engine.forecaster import Forecaster
from services.local_table import write_table
from services.request_policy import MIB, RequestPolicy
from tests.adapters.slurm_cluster import Slurm, limits_memory
from tests.adapters.test_slurm import put_script

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not limits_memory(), reason="no memory cgroup of version 1 that can be written here"
    ),
]

POLICY = RequestPolicy("observe", users=("mail",), least_memory=50 * MIB, least_jobs=3)
REQUEST = 1000
NEEDS = {"lean": (60,), "wide": (60, 250)}
"""MB that the jobs of each program use, in turns; each requests 1,000 MiB."""
PER_PROGRAM = 8


def use(megabytes: int) -> str:
    """A script that uses so much memory for some seconds."""
    touch = f"x = bytearray({megabytes} << 20); x[::4096] = bytes([1]) * len(x[::4096])"
    return f"python3 -S -c 'import time; {touch}; time.sleep(2.5)'"


@dataclass
class Predicted:
    """Answers as a predictor does, by the jobs that were collected."""

    forecaster: Forecaster

    def predict(
        self, rows: list[dict[str, Any]], quantiles: Any = (), keep: bool = True
    ) -> list[dict[str, Any]]:
        now = pd.Timestamp(datetime.now(UTC))
        jobs = conform(pd.DataFrame(rows)).assign(submitted_at=now)
        return self.forecaster.predict(jobs).to_dict("records")


@dataclass
class Rounds:
    """The cluster, the table, and what ran with which requests."""

    slurm: Slurm
    table: Path
    requested: dict[str, int]
    predicted: dict[str, int]
    varied: dict[str, str]
    store: Path

    @cached_property
    def predictor(self) -> Predicted:
        """Of the jobs that were collected after the first round."""
        forecaster = Forecaster(targets=("walltime", "peak_memory"), advice=Advice(price=0.0))
        forecaster.learn(read_jobs(self.engine))
        return Predicted(forecaster)

    @cached_property
    def engine(self) -> Engine:
        return open_store(f"sqlite:///{self.store}")

    def write(self, policy: RequestPolicy, now: datetime | None = None) -> None:
        predictor: Any = self.predictor
        write_table(self.engine, predictor, self.table, now=now, policy=policy)


def submit_round(slurm: Slurm) -> dict[str, int]:
    """Submit all jobs held and let them go together: what each uses by its number."""
    jobs = {}
    for turn in range(PER_PROGRAM):
        for program, needs in NEEDS.items():
            need = needs[turn % len(needs)]
            job = slurm.submit(
                program, "mail", use(need), f"--mem={REQUEST}", "--time=60", "--hold"
            )
            jobs[job] = need
    slurm.run("scontrol", "release", ",".join(jobs))
    return jobs


def records(slurm: Slurm, jobs: Any) -> pd.DataFrame:
    """Every run of the jobs as sacct has it; a time that is not yet recorded is NaT."""
    fields = "--format=JobID,State,ReqMem,Submit,Start,End"
    listed = slurm.run(
        *("sacct", "--allusers", "--duplicates", "--allocations", "--parsable2", "--noheader"),
        *("--units=M", fields, f"--jobs={','.join(jobs)}"),
    )
    rows = [line.split("|") for line in listed.splitlines()]
    frame = pd.DataFrame(rows, columns=["job", "state", "memory", "submit", "start", "end"])
    names = ("submit", "start", "end")
    times = {name: pd.to_datetime(frame[name].replace("Unknown", None)) for name in names}
    return frame.assign(memory=frame["memory"].str.rstrip("M").astype(float), **times)


def waste(slurm: Slurm, jobs: dict[str, int]) -> float:
    """MiB·s that were requested and not used; all that a killed run held is waste."""
    runs = records(slurm, jobs)
    used = runs["job"].map(jobs).where(runs["state"] == "COMPLETED", 0)
    return float(((runs["memory"] - used) * (runs["end"] - runs["start"]).dt.total_seconds()).sum())


@pytest.fixture(scope="module")
def rounds(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rounds]:
    folder = tmp_path_factory.mktemp("requests")
    began = datetime.now(UTC) - timedelta(seconds=2)
    put_script(slurm, f'table = "{folder / "table"}"')
    done = Rounds(slurm, folder / "table", submit_round(slurm), {}, {}, folder / "jobs.db")
    slurm.wait_for(done.requested)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])

        def is_collected() -> bool:
            collect(done.engine, "slurm", since=began)
            jobs = read_jobs(done.engine)
            return int(jobs["job_id"].isin(done.requested).sum()) == len(done.requested)

        slurm.wait(is_collected, "the records")
    done.write(replace(POLICY, mode="act"))
    put_script(slurm, f'table = "{done.table}", stale_after = 100000')
    done.predicted = submit_round(slurm)
    grown = slurm.submit("wide", "mail", use(600), f"--mem={REQUEST}")
    done.predicted[grown] = 600
    options = {
        "per CPU": ("wide", use(250), "--mem-per-cpu=500", "--cpus-per-task=2"),
        "step": ("wide", f"srun {use(250)}", f"--mem={REQUEST}"),
        "array": ("wide", use(250), f"--mem={REQUEST}", "--array=0-1"),
        "too little": ("wide", use(600), "--mem=400"),
    }
    for name, (program, script, *words) in options.items():
        done.varied[name] = slurm.submit(program, "mail", script, *words)
    done.varied["after"] = slurm.submit("x", "lp", "true", f"--dependency=afterok:{grown}")
    slurm.wait_for([*done.predicted, *done.varied.values()])

    def are_recorded() -> bool:
        runs = records(slurm, [*done.predicted, *done.varied.values()])
        varied = runs["job"].str.split("_").str[0].isin(done.varied.values())
        last = runs.groupby("job").last()
        ended = runs["end"].notna().all() and (last["state"] != "REQUEUED").all()
        return int(varied.sum()) >= 11 and set(done.predicted) <= set(last.index) and bool(ended)

    slurm.wait(are_recorded, "the records")
    yield done


def test_every_job_ends_though_some_were_over_their_first_rung(rounds: Rounds) -> None:
    runs = records(rounds.slurm, [*rounds.requested, *rounds.predicted])
    last = runs.groupby("job").last()
    assert len(last) == 4 * PER_PROGRAM + 1 and set(last["state"]) == {"COMPLETED"}
    retried = runs[runs["state"] == "REQUEUED"]
    assert set(retried["job"]) <= set(rounds.predicted) and retried["job"].nunique() >= 2
    rising = runs.groupby("job")["memory"].agg(lambda memory: memory.is_monotonic_increasing)
    assert rising.all() and runs["memory"].max() == REQUEST


def test_waste_falls_and_nobody_waits_longer_than_with_the_users_requests(rounds: Rounds) -> None:
    wasted = {
        name: waste(rounds.slurm, getattr(rounds, name)) for name in ("requested", "predicted")
    }
    first = {}
    for name in wasted:
        runs = records(rounds.slurm, list(getattr(rounds, name))[: 2 * PER_PROGRAM])
        started = runs.groupby("job").first()["start"]
        first[name] = (started - started.min()).dt.total_seconds()
    print(
        f"MiB·s requested and not used: {wasted}; longest wait: { {n: s.max() for n, s in first.items()} }"
    )
    assert wasted["predicted"] < wasted["requested"] / 2
    # 8 of 16 requests fit the node at once, all 16 first rungs do.
    assert first["predicted"].max() <= first["requested"].max()


def test_the_reason_and_the_ladder_are_on_the_job(rounds: Rounds) -> None:
    lean = next(iter(rounds.predicted))
    for name in ("AdminComment", "Comment"):
        comment = rounds.slurm.comment(lean, name)
        assert "; requests memory " in comment and f", {REQUEST} MiB, time 10, 60 min" in comment
    assert rounds.slurm.field(lean, "TimeLimit") == "00:10:00"
    grown = list(rounds.predicted)[-1]
    assert "; again with MinMemoryNode=" in rounds.slurm.comment(grown, "AdminComment")


def test_memory_per_cpu_arrays_and_steps_take_the_next_rung_and_the_request_is_the_last(
    rounds: Rounds,
) -> None:
    slurm, varied = rounds.slurm, rounds.varied
    runs = records(slurm, varied.values())
    states = {
        name: runs.loc[runs["job"].str.split("_").str[0] == job, "state"].tolist()
        for name, job in varied.items()
    }
    steps = slurm.run(
        *("sacct", "--allusers", "--duplicates", "--parsable2"),
        f"--jobs={','.join(varied.values())}",
        "--format=JobID,State,ExitCode,DerivedExitCode,ReqMem,Elapsed",
    )
    for name, tasks in (("per CPU", 1), ("step", 1), ("array", 2)):
        assert states[name].count("COMPLETED") == tasks, (name, steps)
        assert states[name].count("REQUEUED") >= tasks, (name, steps)
        assert set(states[name]) == {"COMPLETED", "REQUEUED"}, (name, steps)
    assert states["too little"][-1] == "OUT_OF_MEMORY" and "REQUEUED" in states["too little"]
    assert states["after"] == ["COMPLETED"], "a job that depends on one that is retried"
    last = runs[runs["job"] == varied["too little"]].iloc[-1]
    assert last["memory"] == 400, "what its user requested"
    assert slurm.field(varied["per CPU"], "MinMemoryCPU") not in ("", "500M")
    again = slurm.comment(varied["per CPU"], "AdminComment")
    assert "; again with MinMemoryCPU=" in again


def test_what_a_user_requested_comes_back_from_the_records(
    rounds: Rounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", rounds.slurm.environment["SLURM_CONF"])
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    collect(engine, "slurm", since=datetime.now(UTC) - timedelta(hours=1))
    jobs = read_jobs(engine).set_index("job_id").loc[list(rounds.predicted)]
    assert set(jobs["requested_memory"]) == {REQUEST * MIB}
    assert set(jobs["requested_walltime"]) == {3600}
    assert set(jobs["status"]) == {"completed"}


@pytest.mark.parametrize(
    ("options", "policy", "words", "reason"),
    [
        ("", POLICY, (), "; would request memory "),
        ("", replace(POLICY, mode="suggest"), (), "; would request memory "),
        ("", replace(POLICY, mode="off"), (), ""),
        ('mode = "observe"', replace(POLICY, mode="act"), (), "; would request memory "),
        ("", replace(POLICY, mode="act", users=("lp",)), (), ""),
        ("", replace(POLICY, mode="act", queues=("long",)), (), ""),
        ("", replace(POLICY, mode="act", least_jobs=1000), (), "such jobs, 1000 needed"),
        ("", replace(POLICY, mode="act"), ("--no-requeue",), "may not run again"),
        ("jobs_requeue = false", replace(POLICY, mode="act"), (), "may not run again"),
        ("stale_after = 0", replace(POLICY, mode="act"), (), "stale prediction"),
        ("", replace(POLICY, mode="act"), ("--comment=gridcast:off",), ""),
        ("", replace(POLICY, mode="act"), ("--mem=0",), "requests time 10, 60 min"),
        ("", replace(POLICY, mode="act"), ("--nodes=2-2", "--ntasks=2"), "requests time 10, 60"),
    ],
)
def test_jobs_stay_as_they_were_submitted(
    rounds: Rounds, options: str, policy: RequestPolicy, words: tuple[str, ...], reason: str
) -> None:
    slurm = rounds.slurm
    rounds.write(policy, now=datetime.now(UTC) - timedelta(seconds=2))
    put_script(slurm, ", ".join(filter(None, (f'table = "{rounds.table}"', options))))
    always = (f"--mem={REQUEST}", "--time=60", "--hold", "--begin=now+1hour")
    job = slurm.submit("wide", "mail", use(60), *always, *words)
    comment, user_comment = slurm.comment(job, "AdminComment"), slurm.comment(job)
    memory, limit = slurm.field(job, "MinMemoryNode"), slurm.field(job, "TimeLimit")
    slurm.run("scancel", job)
    assert memory == ("0" if "--mem=0" in words else f"{REQUEST}M")
    assert limit == ("00:10:00" if "time 10" in reason else "01:00:00")
    assert reason in comment and ("; " in comment) == bool(reason), comment
    assert ("; " in user_comment) == bool(
        reason and policy.mode != "observe" and not options.startswith("mode")
    )
