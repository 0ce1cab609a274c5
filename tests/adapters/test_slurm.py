"""The closed loop with a real Slurm: records of jobs teach Gridcast, which predicts the next jobs.

The fixture ``lived`` runs 200 jobs in five rounds. Before the fourth Gridcast is killed and its
table grows stale.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

import adapters
from jobs.store import count_jobs, open_store, read_jobs, read_predictions
from tests.adapters.slurm_cluster import Slurm
from tests.ports import free_port

pytestmark = pytest.mark.slow

USERS = ("games", "mail", "news", "man", "lp")
PROGRAMS = ("gen", "sim", "reco", "ana")
STALE_AFTER = 4
SAID = re.compile(r"gridcast: (\d+) s \((\d+)-(\d+)\) by (\w+) of (\S+?)(, stale: .*)?$")
ADAPTER = Path(adapters.__path__[0]) / "slurm" / "gridcast.lua"


def seconds(user: str, program: str) -> int:
    """Run time of a user's program; programs that are new in later rounds take much longer."""
    return (1, 2, 5, 6)[PROGRAMS.index(program)] + USERS.index(user) % 2


@dataclass
class Site:
    """Gridcast beside Slurm: predictor and table writer as processes, data folder and table."""

    slurm: Slurm
    home: Path
    environment: dict[str, str]
    port: int
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def table(self) -> Path:
        return self.home / "predictions.tsv"

    def start(self) -> None:
        """Start the predictor and the keeper of the table."""
        for name, words in (("serve", ()), ("table", (str(self.table), "--every", "1"))):
            with (self.home / f"{name}.log").open("ab") as log:
                command = [sys.executable, "-m", "gridcast", name, *words]
                self.running.append(
                    subprocess.Popen(
                        command,
                        env=self.environment,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                )

    def kill(self) -> None:
        """Kill -9 of both and of all that they started."""
        started = [psutil.Process(process.pid) for process in self.running]
        family = [
            member for process in started for member in (process, *process.children(recursive=True))
        ]
        for member in family:
            member.kill()
        psutil.wait_procs(family, timeout=240)
        for process in self.running:
            process.wait()
        self.running.clear()

    def collect(self) -> None:
        """Collect the records of the jobs that ran; wait until history and table have changed."""
        self.slurm.wait(self.slurm.idle, "the end of the jobs")
        self.slurm.wait(self._is_accounted, "the accounting")
        command = [sys.executable, "-m", "gridcast", "collect", "slurm", "--json"]
        self.slurm.wait(lambda: self._brought(command), "the records")
        self.slurm.wait(lambda: self._learned() == self.ended(), "the history")
        # The stamp is when the writing began, to the nearest second: a table that was begun before
        # the history had them may carry the next second.
        since = time.time() + 1
        self.slurm.wait(lambda: self.written_at() > since, "a newer table")

    def _is_accounted(self) -> bool:
        """Whether Slurm's accounting has the end of all jobs that it has."""
        words = ("--allusers", "--noheader", "--parsable2", "--allocations", "--format=End")
        return "Unknown" not in self.slurm.run("sacct", *words)

    def _brought(self, command: list[str]) -> bool:
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        stored = count_jobs(open_store(self.store))
        return bool(len(stored)) and int(stored["ended"].sum()) == int(stored["jobs"].sum())

    @property
    def store(self) -> str:
        return f"sqlite:///{self.home / 'store' / 'jobs.db'}"

    def ended(self) -> int:
        return int(count_jobs(open_store(self.store))["ended"].sum())

    def _learned(self) -> int:
        try:
            return int(
                httpx.get(
                    f"http://127.0.0.1:{self.port}/model",
                    headers={
                        "Authorization": f"Bearer {(self.home / 'token').read_text().strip()}"
                    },
                    trust_env=False,
                    timeout=10,
                ).json()["history"]["jobs"]
            )
        except (httpx.HTTPError, OSError, KeyError, ValueError):
            return -1

    def written_at(self) -> float:
        try:
            return float(self.table.read_text().split("\t", 2)[1])
        except (OSError, IndexError):
            return 0.0


def put_script(slurm: Slurm, options: str) -> None:
    """Give slurmctld a job_submit.lua with the adapter; it checks for changes by the second."""
    newer = max(time.time(), slurm.script.stat().st_mtime) + 2
    text = (ADAPTER.parent / "job_submit.lua").read_text()
    text = text.replace("/etc/slurm/gridcast.lua", str(ADAPTER)).replace(
        'table = "/var/lib/gridcast/predictions.tsv"', options
    )
    slurm.script.write_text(text)
    os.utime(slurm.script, (newer, newer))


@dataclass
class Round:
    """Jobs submitted together: their numbers with who submitted which program."""

    name: str
    jobs: dict[str, tuple[str, str]]


def submit(slurm: Slurm, name: str, programs: tuple[str, ...], repeat: int) -> Round:
    jobs = {}
    for program in programs * repeat:
        for user in USERS:
            jobs[slurm.submit(program, user, f"sleep {seconds(user, program)}")] = (user, program)
    return Round(name, jobs)


@contextmanager
def at_site(slurm: Slurm, home: Path) -> Iterator[Site]:
    port = free_port()
    ours = {
        "GRIDCAST_HOME": str(home),
        "GRIDCAST_PREDICTOR_PORT": str(port),
        "GRIDCAST_COLLECT": "slurm",
    }
    site = Site(slurm, home, {**slurm.environment, **ours}, port)
    try:
        yield site
    finally:
        site.kill()


@pytest.fixture(scope="module")
def site(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with at_site(slurm, tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def lived(site: Site) -> list[Round]:
    """The story: five rounds of forty jobs."""
    slurm = site.slurm
    put_script(slurm, f'table = "{site.table}", stale_after = {STALE_AFTER}')
    site.start()
    rounds = [submit(slurm, "no table", PROGRAMS[:2], repeat=4)]
    site.collect()
    for name in ("first", "second"):
        rounds.append(submit(slurm, name, PROGRAMS, repeat=2))
        site.collect()
    site.kill()
    slurm.wait(lambda: time.time() - site.written_at() > STALE_AFTER + 1, "the table's old age")
    rounds.append(submit(slurm, "stale", PROGRAMS, repeat=2))
    site.start()
    site.collect()
    rounds.append(submit(slurm, "last", PROGRAMS, repeat=2))
    site.collect()
    return rounds


@pytest.fixture(scope="module")
def comments(slurm: Slurm, lived: list[Round]) -> dict[str, str]:
    """The comment of each job, as Slurm's accounting has it."""
    listed = slurm.run(
        "sacct",
        "--allusers",
        "--parsable2",
        "--noheader",
        "--allocations",
        "--format=JobID,Comment",
    ).splitlines()
    return dict(line.split("|", 1) for line in listed)


def errors(site: Site, one: Round, comments: dict[str, str]) -> tuple[list[float], list[float]]:
    """Seconds by which each prediction, and each request, missed the run time."""
    ran = read_jobs(open_store(site.store)).set_index("job_id").loc[list(one.jobs)]
    said = [SAID.match(comments[job]) for job in one.jobs]
    missed = [
        abs(int(found[1]) - took)
        for found, took in zip(said, ran["walltime"], strict=True)
        if found
    ]
    return missed, (ran["requested_walltime"] - ran["walltime"]).abs().tolist()


def test_every_job_is_submitted_and_says_what_was_foreseen_or_why_nothing_was(
    lived: list[Round], comments: dict[str, str]
) -> None:
    assert [len(one.jobs) for one in lived] == [40] * 5
    first, *others = lived
    assert {comments[job] for job in first.jobs} <= {
        "gridcast: no prediction (no table)",
        "gridcast: no prediction (nothing known of such jobs)",
    }
    for one in others:
        stale = {
            bool(found and found[6]) for found in (SAID.match(comments[job]) for job in one.jobs)
        }
        assert all(SAID.match(comments[job]) for job in one.jobs), [
            comments[job] for job in one.jobs
        ][:3]
        assert stale == {one.name == "stale"}


def test_the_records_come_back_whole(site: Site, lived: list[Round]) -> None:
    jobs = read_jobs(open_store(site.store)).set_index("job_id")
    assert (
        len(jobs) == 200
        and set(jobs["source"]) == {"testbed"}
        and set(jobs["status"]) == {"completed"}
    )
    for one in lived:
        for job, (user, program) in one.jobs.items():
            assert (jobs.at[job, "user"], jobs.at[job, "job_name"]) == (user, program)
            assert (
                seconds(user, program) - 1 <= jobs.at[job, "walltime"] <= seconds(user, program) + 5
            )


def test_what_was_foreseen_is_in_the_prediction_log_and_nothing_that_was_only_thought_of(
    site: Site, lived: list[Round], comments: dict[str, str]
) -> None:
    logged = read_predictions(open_store(site.store), columns=["submitted_at"]).set_index("job_id")
    said = {
        job: found
        for job, found in ((job, SAID.match(comment)) for job, comment in comments.items())
        if found
    }
    assert set(logged.index) == set(said) and len(said) == 160
    assert all(
        logged.at[job, "point"] == float(found[1]) and logged.at[job, "model_version"] == found[5]
        for job, found in said.items()
    )
    assert (logged["asked_at"] == logged["submitted_at"]).all(), (
        "each was made as its job was submitted"
    )


def test_the_later_predictions_are_better_than_the_first(
    site: Site, lived: list[Round], comments: dict[str, str]
) -> None:
    means = {}
    for one in lived:
        missed, asked = errors(site, one, comments)
        means[one.name] = np.mean(missed) if missed else np.mean(asked)
        levels = [found[4] for found in (SAID.match(comments[job]) for job in one.jobs) if found]
        told = {level: levels.count(level) for level in dict.fromkeys(levels)}
        print(
            f"{one.name}: mean error {means[one.name]:.2f} s of {len(missed)} predictions ({told}); of the requests {np.mean(asked):.0f} s"
        )
    assert means["first"] < means["no table"] / 100
    assert means["last"] < means["first"]
    levels = {SAID.match(comments[job])[4] for job in lived[-1].jobs}  # type: ignore[index]
    assert levels == {"job"}


def test_a_table_is_written_once_when_nobody_asks_to_keep_it(
    site: Site, lived: list[Round]
) -> None:
    command = [sys.executable, "-m", "gridcast", "table", str(site.home / "once.tsv"), "--json"]
    done = subprocess.run(
        command, env=site.environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["rows"]
    assert (row["jobs"], row["rows"]) == (
        200,
        len((site.home / "once.tsv").read_text().splitlines()) - 2,
    )


def test_a_user_is_advised_by_the_predictor_that_runs(site: Site, lived: list[Round]) -> None:
    def advise(name: str) -> subprocess.CompletedProcess[str]:
        command = [
            sys.executable,
            "-m",
            "gridcast",
            "advise",
            name,
            "--days",
            "1",
            "--timezone",
            "Europe/Zurich",
            "--risk",
            "0.05",
        ]
        return subprocess.run(
            command, env=site.environment, capture_output=True, text=True, timeout=300
        )

    told = advise("mail")
    assert told.returncode == 0, told.stderr
    assert "user mail: 40 jobs" in told.stdout and "(Europe/Zurich)" in told.stdout
    advised = re.findall(r"requested 1 h 00 min, used \d s .* Request 1 min", told.stdout)
    assert len(advised) == len(PROGRAMS)
    assert advise("nobody-of-that-name").returncode == 2


def test_jobs_with_gpus_come_back_with_them_and_have_predictions_of_their_own(
    site: Site, lived: list[Round]
) -> None:
    slurm = site.slurm
    options = (
        ("--gres=gpu:a100:2", "--constraint=intel|ib"),
        ("--gpus=2",),
        ("--gpus-per-task=1", "--ntasks=2", "--cpus-per-task=1"),
        ("--exclusive",),
    )
    user = USERS[0]
    first = [slurm.submit("gpu", user, "sleep 1", *chosen) for chosen in options]
    site.collect()
    jobs = read_jobs(open_store(site.store)).set_index("job_id").loc[first]
    assert jobs["requested_gpus"].tolist() == [2, 2, 2, 0]
    assert jobs["gpu_type"].iloc[0] == "a100" and jobs["gpu_type"].iloc[1:].isna().all()
    assert jobs["constraint"].iloc[0] == "intel|ib"
    assert jobs["qos"].eq("normal").all()
    assert jobs["priority"].gt(0).all()
    assert jobs[["requested_nodes", "nodes"]].eq(1).all(axis=None)
    keys = [line.split("\t")[0] for line in site.table.read_text().splitlines()]
    assert {f"job|{user}|gpu|-|short|60|1|2", f"job|{user}|gpu|-|short|60|2|2"} <= set(keys)
    for chosen in options[:3]:
        comment = slurm.comment(slurm.submit("gpu", user, "sleep 1", *chosen))
        assert " by job of " in comment, (chosen, comment)
    site.collect()


def test_a_limit_is_set_only_where_the_site_wants_it_and_the_job_gave_none(
    site: Site, lived: list[Round]
) -> None:
    slurm = site.slurm
    put_script(
        slurm,
        f'table = "{site.table}", stale_after = 100000, set_time_limit = true, least_time_limit = 2, opt_out_users = {{ "lp" }}',
    )
    held = ("--hold",)
    limits = {
        "none given": (slurm.submit("sim", "mail", "sleep 1", *held), "00:02:00"),
        "own": (slurm.submit("sim", "mail", "sleep 1", "--time=33", *held), "00:33:00"),
        "new program": (slurm.submit("unheard", "mail", "sleep 1", *held), "01:00:00"),
        "opted out": (slurm.submit("sim", "lp", "sleep 1", *held), "01:00:00"),
    }
    for job, limit in limits.values():
        assert slurm.field(job, "TimeLimit") == limit
    assert slurm.field(limits["opted out"][0], "Comment") == ""
    assert SAID.match(slurm.comment(limits["new program"][0]))[4] == "user"  # type: ignore[index]
    own = slurm.submit("sim", "mail", "sleep 1", "--comment=mine", *held)
    assert slurm.field(own, "Comment") == "mine"
    off = slurm.submit("sim", "mail", "sleep 1", "--comment=gridcast:off", *held)
    assert slurm.field(off, "AdminComment") == ""
    assert slurm.comment(own, "AdminComment").startswith("gridcast: ")


def test_whatever_lies_in_the_tables_place_no_submission_fails(
    site: Site, lived: list[Round], tmp_path: Path
) -> None:
    slurm = site.slurm
    good = site.table.read_bytes()
    header = good.splitlines(keepends=True)[0]
    places = {
        "folder": (None, "gridcast: no prediction"),
        "empty": (b"", "gridcast: no prediction (unreadable table)"),
        "other": (b"\x00\xff" * 5000, "gridcast: no prediction (unreadable table)"),
        "cut": (good[: len(good) // 3], "gridcast: "),
        "headless": (header, "gridcast: no prediction (unreadable table)"),
        "old": (
            good.replace(header.split(b"\t")[1], b"1000000000", 1),
            "gridcast: no prediction (stale: the table is ",
        ),
    }
    for name, (content, said) in places.items():
        path = tmp_path / name
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content)
        put_script(slurm, f'table = "{path}"')
        job = slurm.submit("sim|with bar", "mail", "sleep 1", "--hold")
        assert slurm.comment(job).startswith(said), name


def test_a_missing_or_broken_adapter_fails_no_submission(slurm: Slurm, tmp_path: Path) -> None:
    contents = {"missing": None, "empty": "", "syntax": "return = 1", "error": "error('no')"}
    sample = (ADAPTER.parent / "job_submit.lua").read_text()
    for name, content in contents.items():
        path = tmp_path / f"{name}.lua"
        if content is not None:
            path.write_text(content)
        newer = max(time.time(), slurm.script.stat().st_mtime) + 2
        slurm.script.write_text(sample.replace("/etc/slurm/gridcast.lua", str(path)))
        os.utime(slurm.script, (newer, newer))
        job = slurm.submit("sim", "mail", "sleep 1", "--hold")
        assert slurm.comment(job, "AdminComment") == "", name
        log = (slurm.folder / "slurmctld.log").read_text()
        assert "using previous script" not in log
        assert log.count("gridcast: no predictions: ") == [*contents].index(name) + 1
