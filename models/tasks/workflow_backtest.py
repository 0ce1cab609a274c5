"""Backtest of slow hosts and held-up tasks in a workflow's runs, as they could be seen in time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.aliases import Array, Flags, Progress
from models.tasks import missing_cores
from models.tasks.delayed_machines import Delays, SlowMachine, UsualTimes, delays_at, slow_machines
from models.tasks.workflow_log import WorkflowLog

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of a run's duration that had passed at the moments when it is judged."""
REFIT_RUNS = 10
MAIN = {"disk": 0.5, "cpu": 1.0, "all": 1.0}
"""The share of the run at which each fault is judged, in tasks."""


@dataclass(frozen=True)
class Verdict:
    """What is called at a moment of a run: slow machines, and hosts that lack cores."""

    at: float
    delays: Delays
    machines: list[SlowMachine]
    hosts: dict[int, float]


@dataclass
class Detector:
    """What was learned from the runs that have ended: usual times, and the model of missing cores.

    The first ``reference_runs`` runs are taken to be without faulty hosts.
    """

    log: WorkflowLog
    reference_runs: int
    usual: UsualTimes = field(default_factory=UsualTimes)
    model: missing_cores.CoreModel | None = None
    learned: list[Array] = field(default_factory=list)
    gain: float = 0.0

    def verdict(self, rows: Array, at: float) -> Verdict:
        """Judge a run as of a moment, by what had started or ended by then.

        Args:
            rows: The run's tasks.
            at: The moment (s since 1970).
        """
        delays = delays_at(self.log, rows, self.usual, at)
        machines = list(slow_machines(self.log, delays))
        hosts: dict[int, float] = {}
        if self.model is not None and self.model.is_needed:
            comparable = delays.rows[~delays.is_delayed]
            ended = comparable[self.log.end[comparable] <= at]
            likely, gain = missing_cores.faulty_hosts(self.log, ended, self.model)
            if self.gain + gain >= missing_cores.MIN_GAIN:
                hosts = {host: p for host, p in likely.items() if p >= missing_cores.CALLED}
        return Verdict(at, delays, machines, hosts)

    def learn(self, rows: Array) -> None:
        """Learn the tasks of an ended run."""
        delays = delays_at(self.log, rows, self.usual, float(self.log.end[rows].max()))
        comparable = delays.rows[~delays.is_delayed]
        if self.model is not None and self.model.is_needed:
            gain = missing_cores.faulty_hosts(self.log, comparable, self.model)[1]
            self.gain = missing_cores.GAIN_KEPT * (self.gain + gain)
        self.learned.append(comparable)
        self.usual.learn(self.log, rows)
        count = len(self.learned)
        if count >= self.reference_runs and count % REFIT_RUNS == 0:
            past = np.sort(np.concatenate(self.learned))
            is_reference = self.log.run[past] < self.reference_runs
            self.model = missing_cores.fit(self.log, past, is_reference)


def judge(
    log: WorkflowLog, warm_up: float = 0.2, progress: Progress | None = None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Judge every run after the warm-up at SHARES of its duration, learning from ended runs only.

    Args:
        log: The tasks of the runs.
        warm_up: The share of the runs that are taken to be without faulty hosts, and not judged.
        progress: Called with a text and the share that is done.

    Returns:
        Rows of precision and recall, and a row a call of a host at the end of its run.
    """
    reference = max(int(len(log.runs) * warm_up), 1)
    detector = Detector(log, reference)
    tally = _Tally(log)
    calls: list[dict[str, Any]] = []
    running: list[Array] = []
    for run in range(len(log.runs)):
        rows = log.rows_of(run)
        begin, end = float(log.submitted[rows].min()), float(log.end[rows].max())
        for past in [past for past in running if log.end[past].max() <= begin]:
            detector.learn(past)
        running = [past for past in running if log.end[past].max() > begin]
        running.append(rows)
        if run < reference:
            continue
        first_call: dict[str, float] = {}
        for share in SHARES:
            verdict = detector.verdict(rows, begin + share * (end - begin))
            tally.add(rows, share, verdict)
            for name in _names(log, verdict):
                first_call.setdefault(name, share)
        calls += _calls(log, run, verdict, first_call)
        if progress:
            progress(f"{run:,} runs", run / len(log.runs))
    return tally.rows(), calls


def main_rows(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Split the rows of ``judge`` into a row a fault, by MAIN, and all of them as details.

    The names of the details say unit and share: ``disk of hosts at 0.5``.
    """
    main = [
        row for row in rows if row["unit"] == "task" and MAIN[row["fault"]] == row["share_passed"]
    ]
    details = [
        row | {"fault": f"{row['fault']} of {row['unit']}s at {row['share_passed']:g}"}
        for row in sorted(rows, key=lambda row: (row["unit"], row["fault"], row["share_passed"]))
    ]
    return main, details


def _names(log: WorkflowLog, verdict: Verdict) -> list[str]:
    names = [log.machines[slow.machine] for slow in verdict.machines]
    return names + [log.hosts[host] for host in verdict.hosts]


def _calls(
    log: WorkflowLog, run: int, verdict: Verdict, first_call: dict[str, float]
) -> list[dict[str, Any]]:
    """A row a slow machine and a host without its cores, as of the verdict."""
    begin = float(log.submitted[log.rows_of(run)].min())
    rows: list[dict[str, Any]] = [
        {
            "run": log.runs[run],
            "fault": "disk",
            "host": log.machines[slow.machine],
            "factor": slow.factor,
            "probability": None,
            "since_s": slow.since - begin,
            "tasks": len(slow.tasks),
        }
        for slow in verdict.machines
    ]
    started = verdict.delays.rows
    for host, probability in verdict.hosts.items():
        own = started[log.host[started] == host]
        rows.append(
            {
                "run": log.runs[run],
                "fault": "cpu",
                "host": log.hosts[host],
                "factor": None,
                "probability": probability,
                "since_s": float(log.start[own].min()) - begin,
                "tasks": len(own),
            }
        )
    return [row | {"called_at_share": first_call[row["host"]]} for row in rows]


@dataclass
class _Tally:
    """Counts of right, wrong and missing calls, by fault, unit and share of the run."""

    log: WorkflowLog
    counts: dict[tuple[str, str, float], list[int]] = field(
        default_factory=lambda: defaultdict(lambda: [0, 0, 0])
    )

    def add(self, rows: Array, share: float, verdict: Verdict) -> None:
        """Count one verdict; a fault counts from the start of its first labelled task."""
        log, started = self.log, verdict.delays.rows
        host, machine = log.host[started], log.machine[started]
        disk, cpu = (log.has_fault(kind)[started] for kind in ("disk", "cpu"))
        slow = np.array([item.machine for item in verdict.machines], dtype=np.int64)
        called_disk, true_disk = np.isin(machine, slow), np.isin(machine, machine[disk])
        called_cpu = np.isin(host, np.array(list(verdict.hosts), dtype=np.int64))
        true_cpu = np.isin(host, host[cpu])
        delayed = called_disk & verdict.delays.is_delayed
        called_all, true_all = called_disk | called_cpu, true_disk | true_cpu
        self._count("disk", "task", share, called_disk, true_disk)
        self._count("cpu", "task", share, called_cpu, true_cpu)
        self._count("all", "task", share, called_all, true_all)
        self._count_units("disk", share, machine, called_disk, true_disk)
        self._count_units("cpu", share, host, called_cpu, true_cpu)
        self._count("disk", "label", share, delayed, disk)
        self._count("all", "label", share, delayed | called_cpu, disk | cpu)

    def _count(self, fault: str, unit: str, share: float, called: Flags, truth: Flags) -> None:
        count = self.counts[fault, unit, share]
        for index, hits in enumerate((called & truth, called & ~truth, ~called & truth)):
            count[index] += int(hits.sum())

    def _count_units(
        self, fault: str, share: float, unit: Array, called: Flags, truth: Flags
    ) -> None:
        first = np.unique(unit, return_index=True)[1]
        for name in (fault, "all"):
            self._count(name, "host", share, called[first], truth[first])

    def rows(self) -> list[dict[str, Any]]:
        """A row a fault, unit and share."""
        rows = []
        for (fault, unit, share), (right, wrong, missing) in self.counts.items():
            rows.append(
                {
                    "fault": fault,
                    "unit": unit,
                    "share_passed": share,
                    "precision": right / max(right + wrong, 1),
                    "recall": right / max(right + missing, 1),
                    "labelled": right + missing,
                    "called": right + wrong,
                }
            )
        return rows
