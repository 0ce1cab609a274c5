"""What had been observed of each job by its submission: all that a baseline may use.

Where a template has no history its coarser templates answer, then the owner (the user), then the
request, then the median of all outcomes, and before anything has ended the middle of the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from models.histories.features import Contexts, Level, Levels, encode
from models.past.queue_inputs import queue_inputs
from models.past.recent import Recent, recent, running_quantiles
from models.quantities.targets import Target


@dataclass(frozen=True)
class AvailableHistory:
    """What had been observed of n jobs, in order of submission, each by its own submission.

    ``submitted_at`` and ``available_at`` are in microseconds since 1970; ``values`` are the
    outcomes, available from ``available_at`` on. ``request`` is what was requested, NaN for
    nothing. ``levels`` hold the latest outcomes of the template, then of coarser templates, then
    of the owner; ``group_quantiles`` and ``all_quantiles`` (float64[n, 2]) the median and the 95th
    percentile so far. ``refits`` are the rows at whose submission models are fitted again;
    ``inputs`` those of a regression, where they were computed before.
    """

    jobs: pd.DataFrame
    target: Target
    submitted_at: Integers
    available_at: Integers
    values: Floats
    request: Floats
    levels: tuple[Recent, ...]
    group_quantiles: Floats
    all_quantiles: Floats
    refits: tuple[int, ...] = ()
    inputs: pd.DataFrame | None = None

    @cached_property
    def queue_inputs(self) -> pd.DataFrame:
        """The inputs of a regression of waits, those of Gridcast."""
        return queue_inputs(self.jobs) if self.inputs is None else self.inputs

    @cached_property
    def fallback(self) -> Floats:
        """The median of all that has ended, before that the middle of the grid (float64[n])."""
        centres = self.target.grid.centres
        middle = np.full(len(self.submitted_at), centres[len(centres) // 2])
        return coalesce(self.all_quantiles[:, 0], middle)

    def finest(
        self, pick: Callable[[Recent], Floats], levels: Sequence[Recent] | None = None
    ) -> Floats:
        """``pick`` of the finest level that has outcomes, else request or fallback (float64[n]).

        ``levels`` are those to look at, by default all.
        """
        picked = (pick(level) for level in (self.levels if levels is None else levels))
        return coalesce(*picked, self.request, self.fallback)


def coalesce(*candidates: Floats) -> Floats:
    """Row by row the first of the candidates that is not NaN.

    >>> coalesce(np.array([1.0, np.nan]), np.array([5.0, 6.0])).tolist()
    [1.0, 6.0]
    """
    values = candidates[0]
    for candidate in candidates[1:]:
        values = np.where(np.isnan(values), candidate, values)
    return values


def requests(jobs: pd.DataFrame, target: Target) -> Floats:
    """What each job requests of the target, NaN where it requests nothing (float64[n])."""
    limit = target.limit(jobs)
    return np.where(np.isfinite(limit) & target.binding, limit, np.nan)


def encode_keys(
    jobs: pd.DataFrame,
    target: Target,
    levels: Sequence[tuple[str, ...]] | None = None,
    warm_up: int | None = None,
) -> Contexts:
    """The contexts of ``jobs`` whose ``keys`` are those of each level and, last, of the group.

    Args:
        jobs: Jobs in order of submission.
        target: What is predicted.
        levels: The fields of each level; default: the ``template_levels`` of the log.
        warm_up: How many of the first jobs decide which fields are used; default: all.
    """
    first = jobs.iloc[:warm_up]
    levels = template_levels(first) if levels is None else levels
    names = (name for name in ("group", "project", "queue") if name in first)
    group = next(((name,) for name in names if _tells(first[name])), ())
    fields = tuple(Level(fields) for fields in (*levels, group))
    return encode(jobs, Levels(fields, 0, subject=target.subject.name), match_missing=True)


def read_history(
    jobs: pd.DataFrame,
    target: Target,
    refits: Sequence[int] = (),
    levels: Sequence[tuple[str, ...]] | None = None,
    warm_up: int | None = None,
    inputs: pd.DataFrame | None = None,
) -> AvailableHistory:
    """Replay ``jobs`` and collect what had been observed by each submission.

    Args:
        jobs: Jobs in order of submission.
        target: What is predicted.
        refits: Rows at whose submission models are fitted again.
        levels: The fields of each level; default: the ``template_levels`` of the log.
        warm_up: How many of the first jobs decide which fields are used; default: all.
        inputs: Of a regression, where they were computed before.

    Raises:
        ValueError: The jobs are not in order of submission.
    """
    contexts = encode_keys(jobs, target, levels, warm_up)
    if (np.diff(contexts.at) < 0).any():
        raise ValueError("the jobs are not in order of submission")
    values = target.value(jobs)
    outcomes = (contexts.at, contexts.available_at, values)
    return AvailableHistory(
        jobs,
        target,
        *outcomes,
        requests(jobs, target),
        levels=tuple(recent(keys, *outcomes) for keys in contexts.keys[:, :-1].T),
        group_quantiles=running_quantiles(contexts.keys[:, -1], *outcomes, (0.5, 0.95)),
        all_quantiles=running_quantiles(np.zeros(len(jobs)), *outcomes, (0.5, 0.95)),
        refits=tuple(refits),
        inputs=inputs,
    )


def template_levels(jobs: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """The fields of a log's templates, fine to coarse, the last one those of the owner.

    The template is user, program, cores and request, or site where nothing is requested; a field
    counts if it takes several values but does not name almost each job. The coarser template keeps
    the owner and the request (or site).
    """

    def informative(*names: str) -> list[str]:
        return [name for name in names if name in jobs and _tells(jobs[name])]

    request = informative("requested_walltime", "site")[:1]
    template = informative("source", "user", "program", "requested_cores")
    owner = template[: 2 if template[:1] == ["source"] else 1]
    return tuple(dict.fromkeys(((*template, *request), (*owner, *request), tuple(owner))))


def _tells(values: pd.Series[Any]) -> bool:
    return 1 < values.nunique() < max(0.5 * values.notna().sum(), 20)
