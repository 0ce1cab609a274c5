"""Hosts from which cores were taken away, by the CPU time that the same tasks use there.

A task on fewer cores than it counts on uses a little less CPU time (fewer threads that wait for
one another) and, where it is parallel, more time. How much differs by program and is not known
beforehand, so a mixture of two classes of hosts is fitted without labels (Dempster, Laird and Rubin
1977): usual hosts, whose tasks are distributed as in the reference runs, and faulty ones. While the
mixture does not predict new runs better than usual hosts alone do (Dawid's prequential principle,
1984), nothing is called. The
observations of a host's tasks in a run are taken to be independent within a class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infra.aliases import Array, Flags, Floats
from models.tasks.workflow_log import WorkflowLog

BINS = 16
FEWEST, FEWEST_HOSTS = 10, 3
"""A task with fewer observations, or on fewer hosts, is no evidence."""
SMOOTHING, PRIOR_TASKS = 0.2, 8.0
"""Counts added to each bin of the usual class; weight of the usual class within the faulty one."""
ROUNDS = 20
PRIOR_HOSTS = 4.0
"""Weight, in hosts, of the overall share of faulty hosts within the share of one run."""
LOWEST_SHARE, HIGHEST_SHARE, HIGHEST_OF_RUN = 0.02, 0.3, 0.9
GAIN_OF_BIN = 2.0
"""Log likelihood that each bin of the faulty class must be worth; Akaike's criterion asks 1."""
RESOLUTION = 0.1
"""Times are rounded to this (s)."""
CALLED = 0.7
"""Probability from which a host is called faulty."""
MIN_GAIN, GAIN_KEPT = 3.0, 0.9
"""Log Bayes factor, of this run and what is kept of earlier ones', without which none is called."""


@dataclass(frozen=True)
class CoreModel:
    """Edges of the bins by measure and task, log likelihood ratios by program and bin, and share.

    ``ratios[measure]`` is float64[programs, BINS]; ``share`` is that of the faulty hosts;
    ``is_needed`` tells whether the second class is worth its parameters (Akaike 1974).
    """

    edges: tuple[dict[int, Floats], ...]
    ratios: tuple[Floats, ...]
    share: float
    is_needed: bool


def measures(log: WorkflowLog) -> tuple[Floats, Floats]:
    """CPU time, and the time between stage-in and -out, else the walltime (float64[n] each)."""
    between = np.where(np.isnan(log.between), log.walltime, log.between)
    return tuple(np.round(x / RESOLUTION) * RESOLUTION for x in (log.cpu, between))  # type: ignore


def fit(log: WorkflowLog, rows: Array, is_reference: Flags) -> CoreModel:
    """Fit the mixture to ended tasks that were not delayed.

    Args:
        log: The tasks.
        rows: The tasks to fit on, of runs that had ended.
        is_reference: Which of them are of the reference runs, where no host is faulty (bool[m]).
    """
    values = measures(log)
    edges = tuple(_edges(log.task[rows], log.host[rows], value[rows]) for value in values)
    cells = [_cells(log.task[rows], v[rows], e) for v, e in zip(values, edges, strict=True)]
    pair, host_of = _hosts(log, rows)
    reference = np.zeros(len(pair), bool)
    reference[host_of] = is_reference
    probability: Floats = _first_guess(log, rows, is_reference, host_of) * ~reference
    ratios: tuple[Floats, ...] = ()
    share: float = LOWEST_SHARE
    llr: Floats = np.zeros(len(pair))
    programs = int(log.program.max()) + 1
    for _ in range(ROUNDS):
        weights: Floats = probability[host_of]
        ratios = tuple(_ratios(log.program[rows], cell, weights, programs) for cell in cells)
        ratio = _llr(log.program[rows], cells, ratios)
        llr = np.asarray(np.bincount(host_of, ratio, len(pair)), dtype=np.float64)
        judged = probability[~reference]
        share = float(np.clip(judged.mean() if len(judged) else 0, LOWEST_SHARE, HIGHEST_SHARE))
        probability = _logistic(llr + np.log(share / (1 - share))) * ~reference
    gain = np.logaddexp(np.log(1 - share), np.log(share) + llr[~reference]).sum()
    bins = sum(len(np.unique(log.program[rows][c >= 0] * BINS + c[c >= 0])) for c in cells)
    return CoreModel(edges, ratios, share, bool(gain > GAIN_OF_BIN * bins))


def faulty_hosts(log: WorkflowLog, rows: Array, model: CoreModel) -> tuple[dict[int, float], float]:
    """The probability of each host of one run to lack cores, by the tasks that have ended there.

    Args:
        log: The tasks.
        rows: Ended tasks of the run that were not delayed.
        model: Fitted on earlier runs.

    Returns:
        The probabilities by host, and the log Bayes factor of the run for the mixture against all
        hosts being usual.
    """
    if not len(rows):
        return {}, 0.0
    hosts, host_of = np.unique(log.host[rows], return_inverse=True)
    cells = [
        _cells(log.task[rows], value[rows], edges)
        for value, edges in zip(measures(log), model.edges, strict=True)
    ]
    llr = np.bincount(host_of, _llr(log.program[rows], cells, model.ratios), len(hosts))
    share, probability = model.share, np.zeros(len(hosts))
    gain = float(np.logaddexp(np.log(1 - share), np.log(share) + llr).sum())
    for _ in range(ROUNDS):  # the run's own share of faulty hosts, an empirical prior
        probability = _logistic(llr + np.log(share / (1 - share)))
        share = (probability.sum() + PRIOR_HOSTS * model.share) / (len(hosts) + PRIOR_HOSTS)
        share = float(np.clip(share, LOWEST_SHARE / 4, HIGHEST_OF_RUN))
    return dict(zip(hosts.tolist(), probability.tolist(), strict=True)), gain


def _hosts(log: WorkflowLog, rows: Array) -> tuple[Array, Array]:
    """The pairs of run and host, and the pair of each row."""
    pair, host_of = np.unique(log.run[rows] * len(log.hosts) + log.host[rows], return_inverse=True)
    return pair, host_of


def _first_guess(log: WorkflowLog, rows: Array, is_reference: Flags, host_of: Array) -> Floats:
    """Probabilities to begin with: hosts whose tasks use less CPU time than usual."""
    task, logs = log.task[rows], np.log(np.maximum(measures(log)[0][rows], RESOLUTION / 2))
    score = np.zeros(len(rows))
    for code in np.unique(task):
        own = (task == code) & np.isfinite(logs)
        usual = logs[own & is_reference]
        if len(usual) < FEWEST:
            continue
        middle = np.median(usual)
        scale = 1.4826 * np.median(np.abs(usual - middle))
        scale = max(scale, 0.3 * RESOLUTION / np.exp(middle))  # of rounding
        score[own] = np.clip((middle - logs[own]) / scale, -4, 4)
    count = np.bincount(host_of)
    return _logistic(1.5 * np.bincount(host_of, score) / np.sqrt(count) - 3)


def _edges(task: Array, host: Array, values: Floats) -> dict[int, Floats]:
    """The inner edges of the bins of each task: quantiles of its values."""
    edges = {}
    for code in np.unique(task):
        own = (task == code) & np.isfinite(values)
        if own.sum() >= FEWEST and len(np.unique(host[own])) >= FEWEST_HOSTS:
            edges[int(code)] = np.unique(np.quantile(values[own], np.arange(1, BINS) / BINS))
    return edges


def _cells(task: Array, values: Floats, edges: dict[int, Floats]) -> Array:
    """The bin of each value among those of its task; -1 for no evidence (int64[n])."""
    cells = np.full(len(values), -1)
    for code in np.unique(task):
        if int(code) in edges:
            own = (task == code) & np.isfinite(values)
            cells[own] = np.searchsorted(edges[int(code)], values[own])
    return cells


def _ratios(program: Array, cells: Array, weight: Floats, programs: int) -> Floats:
    """The log ratio of a bin's probability on faulty hosts to that on usual ones, by program."""
    seen = cells >= 0
    index, size = program[seen] * BINS + cells[seen], programs * BINS
    counts = [
        np.bincount(index, weights[seen], size).reshape(-1, BINS)
        for weights in (1 - weight, weight)
    ]
    usual = counts[0] + SMOOTHING
    usual /= usual.sum(axis=1, keepdims=True)
    faulty = counts[1] + PRIOR_TASKS * usual
    faulty /= faulty.sum(axis=1, keepdims=True)
    return np.asarray(np.log(faulty / usual))


def _llr(program: Array, cells: list[Array], ratios: tuple[Floats, ...]) -> Floats:
    """The sum over the measures of each task's log likelihood ratio (float64[n])."""
    pairs = zip(cells, ratios, strict=True)
    return np.asarray(sum(np.where(cell >= 0, r[program, cell], 0.0) for cell, r in pairs))


def _logistic(x: Floats) -> Floats:
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -30, 30))))
