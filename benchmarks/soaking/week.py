"""The compressed week of three batch systems: their reports, and the expected store."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.workload import START, generate
from jobs.writers import write_csv

BEFORE = 7.0
"""Days of history before the week, which the first champion is trained on."""
TIMES = ("submitted_at", "started_at", "ended_at")
HOUR = pd.Timedelta(hours=1)
LATE = 12 * HOUR
WHO = ("job_id", "source", "user", "group", "project", "program", "queue", "site")
ASKED = (*WHO, "requested_walltime", "requested_cores", "submitted_at")


@dataclass(frozen=True)
class Clock:
    """Simulated time: ``days`` pass in ``minutes``, and end now, so that nothing is in the future."""

    days: float
    minutes: float
    end: pd.Timestamp = field(default_factory=lambda: pd.Timestamp(datetime.now(UTC)).floor("s"))
    began: list[float] = field(default_factory=list)

    def start(self) -> None:
        """From now on time passes."""
        self.began.append(time.monotonic())

    @property
    def day(self) -> float:
        """Days since the week began."""
        return (
            (time.monotonic() - self.began[0]) / 60 / self.minutes * self.days
            if self.began
            else 0.0
        )

    @property
    def now(self) -> pd.Timestamp:
        """The simulated time."""
        return self.begin + pd.Timedelta(days=min(self.day, self.days))

    @property
    def begin(self) -> pd.Timestamp:
        """When the week began."""
        return self.end - pd.Timedelta(days=self.days)


def jobs_of(clock: Clock, a_day: int, seed: int) -> pd.DataFrame:
    """Generated jobs of the week and before, by end, of three systems; whole seconds."""
    jobs = generate(int(a_day * (BEFORE + clock.days)), days=BEFORE + clock.days, seed=seed).jobs
    later = clock.begin - pd.Timestamp(START) - pd.Timedelta(days=BEFORE)
    jobs = jobs.assign(**{name: (jobs[name] + later).dt.floor("s") for name in TIMES})
    jobs = jobs.assign(walltime=(jobs["ended_at"] - jobs["started_at"]).dt.total_seconds())
    jobs = jobs[jobs["ended_at"].notna() & (jobs["ended_at"] < clock.end) & (jobs["walltime"] > 0)]
    rng = random.Random(seed)
    jobs["source"] = [
        rng.choices(("pbs", "dumps", "broker"), (4, 3, 3))[0] for _ in range(len(jobs))
    ]
    jobs["job_id"] = jobs["job_id"].astype(str) + jobs["source"].map(
        {"pbs": ".pbs", "dumps": "", "broker": ""}
    )
    return jobs.sort_values("ended_at", ignore_index=True)


@dataclass
class Week:
    """Reports by accounting, by dumps and over HTTP; ``garbled`` counts invalid records."""

    clock: Clock
    jobs: pd.DataFrame
    accounting: Path
    dumps: Path
    rng: random.Random = field(default_factory=lambda: random.Random(1))
    told_until: pd.Timestamp = field(init=False)
    garbled: int = 0
    late: list[pd.DataFrame] = field(default_factory=list)
    undumped: list[pd.DataFrame] = field(default_factory=list)
    to_dump: list[tuple[pd.Timestamp, pd.DataFrame]] = field(default_factory=list)
    dumped: int = 0
    dumped_at: pd.Timestamp = field(init=False)

    def __post_init__(self) -> None:
        self.told_until = self.dumped_at = self.clock.begin

    @property
    def before(self) -> pd.DataFrame:
        """The jobs that had ended when the week began."""
        return self.jobs[self.jobs["ended_at"] <= self.clock.begin]

    def waiting(self, many: int) -> list[dict[str, Any]]:
        """Jobs that wait now, as a broker would ask about them."""
        now = self.clock.now
        running = self.jobs[(self.jobs["submitted_at"] <= now) & (self.jobs["started_at"] > now)]
        return rows_of(
            running.sample(min(many, len(running)), random_state=self.rng.randrange(2**31))[
                list(ASKED)
            ]
        )

    def pass_on(self) -> list[dict[str, Any]]:
        """Write and return the reports of all that ended since the last call; may raise OSError."""
        now = self.clock.now
        news = self.jobs[(self.jobs["ended_at"] > self.told_until) & (self.jobs["ended_at"] <= now)]
        self.account(news[news["source"] == "pbs"])
        self.dump(news[news["source"] == "dumps"], now)
        self.told_until = now
        # One in thirty is reported half a day late, and one in ten of another system twice.
        mine = news[
            (news["source"] == "broker") | (news["source"].eq("dumps") & (news.index % 10 == 0))
        ]
        self.late.append(mine[mine.index % 30 == 7])
        return rows_of(pd.concat([mine[mine.index % 30 != 7], *self._due(now)]))

    def _due(self, now: pd.Timestamp) -> Iterator[pd.DataFrame]:
        over = now >= self.clock.end
        for index, frame in enumerate(self.late):
            due = frame["ended_at"] + LATE <= now
            yield frame[due | over]
            self.late[index] = frame[~(due | over)]
        self.late = [frame for frame in self.late if len(frame)]

    def account(self, ended: pd.DataFrame) -> None:
        """Append complete lines to each day's accounting; some are garbled."""
        for day, ended_that_day in ended.groupby(ended["ended_at"].dt.strftime("%Y%m%d")):
            lines = [accounting_line(job) for job in ended_that_day.itertuples()]
            nonsense = self.rng.random() < 0.2
            if nonsense:
                lines.insert(0, f"{day} the disk spoke to me, {self.garbled}\n")
            append(self.accounting / str(day), "".join(lines))
            self.garbled += nonsense

    def dump(self, ended: pd.DataFrame, now: pd.Timestamp) -> None:
        """Dump what ended each hour: some late, some twice, some with an impossible row."""
        self.undumped.append(ended)
        over = now >= self.clock.end
        if now < self.dumped_at + HOUR and not over:
            return
        news = pd.concat(self.undumped)
        self.dumped_at, self.undumped = now, []
        if len(news):
            self.to_dump.append((now + (LATE if self.rng.random() < 0.1 else 0 * HOUR), news))
        while due := [dump for dump in self.to_dump if dump[0] <= now or over]:
            self._place(due[0][1])
            self.to_dump.remove(due[0])

    def _place(self, jobs: pd.DataFrame) -> None:
        path, nonsense = self.dumps / f"{self.dumped:05d}.csv", self.rng.random() < 0.2
        if nonsense:
            jobs = pd.concat(
                [jobs, jobs.tail(1).assign(job_id=f"garbled-{self.garbled}", walltime=-5.0)]
            )
        place_whole(jobs, path)
        self.dumped += 1
        self.garbled += nonsense
        if self.dumped % 10 == 0 and not nonsense:
            place_whole(jobs, path.with_name(f"again-{path.name}"))


def accounting_line(job: Any) -> str:
    """The record of a job's end, as PBS writes it."""
    code = {"completed": 0, "timeout": -29, "out_of_memory": -27, "cancelled": 271}.get(
        job.status, 1
    )
    begun, ended = (int(moment.timestamp()) for moment in (job.started_at, job.ended_at))
    record = {
        "user": job.user,
        "group": job.group,
        "queue": job.queue if isinstance(job.queue, str) else "batch",
        "jobname": job.program,
        "ctime": int(job.submitted_at.timestamp()),
        "start": begun,
        "end": ended,
        "Resource_List.walltime": _clock_text(job.requested_walltime),
        "resources_used.walltime": _clock_text(ended - begun),
        "Exit_status": code,
    }
    head = f"{job.ended_at:%m/%d/%Y %H:%M:%S};E;{job.job_id};"
    return (
        head
        + " ".join(
            f"{name}={value}" for name, value in record.items() if isinstance(value, str | int)
        )
        + "\n"
    )


def _clock_text(seconds: float) -> str | None:
    if seconds != seconds:
        return None
    whole_seconds = int(seconds)
    return f"{whole_seconds // 3600:02d}:{whole_seconds // 60 % 60:02d}:{whole_seconds % 60:02d}"


def append(path: Path, text: str) -> None:
    """Append all of ``text``; raises OSError with nothing of it in the file."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("a") as file:
            file.write(text)
    except OSError:
        os.truncate(path, size)
        raise


def place_whole(jobs: pd.DataFrame, path: Path) -> None:
    """Write beside its place and move there; raises OSError with nothing there."""
    draft = path.with_name(f".{path.name}")
    try:
        write_csv(jobs, draft)
        age(draft)
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def age(path: Path) -> None:
    """Let a file be minutes old: a minute of the site is hours of the week."""
    os.utime(path, (time.time() - 120, time.time() - 120))


def rows_of(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows with what is known of each job."""
    return [
        {str(name): value for name, value in row.items() if not pd.isna(value)}
        for row in jobs.to_dict("records")
    ]
