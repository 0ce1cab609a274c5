"""What was known of each job when it was submitted: all that a baseline may look at.

Where a template has no history its coarser templates answer, then its owner (the user), then the request, then the median
of everything, and before anything has ended the middle of the target's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from models.histories.features import Level, Levels, encode
from models.past.recent import (
    Recent,
    recent,
    running_quantiles,
)
from models.quantities.targets import Target


@dataclass(frozen=True)
class AvailableHistory:
    """What was known of n jobs, in order of submission, each at its own submission.

    ``levels`` hold the latest outcomes of the template, then of coarser templates, then of the owner; ``group_quantiles`` and ``all_quantiles``
    float64[n, 2] the median and the 95th percentile so far; ``refits`` the rows at whose submission models are fitted anew.
    ``values`` are the outcomes themselves, available from ``available_at`` on (microseconds since 1970, as ``submitted_at``).
    """

    jobs: pd.DataFrame
    target: Target
    submitted_at: Integers
    available_at: Integers
    values: Floats
    levels: tuple[Recent, ...]
    group_quantiles: Floats
    all_quantiles: Floats
    refits: tuple[int, ...]

    @cached_property
    def request(self) -> Floats:
        """What was asked for, NaN where nothing was (float64[n])."""
        limit = self.target.limit(self.jobs)
        return np.where(np.isfinite(limit) & self.target.binding, limit, np.nan)

    @cached_property
    def fallback(self) -> Floats:
        """The median of all that has ended, and before that the middle of the grid (float64[n])."""
        centres = self.target.grid.centres
        return coalesce(
            self.all_quantiles[:, 0], np.full(len(self.submitted_at), centres[len(centres) // 2])
        )

    def finest(
        self, pick: Callable[[Recent], Floats], levels: Sequence[Recent] | None = None
    ) -> Floats:
        """What ``pick`` finds in the finest of the levels (default: all) that knows anything, else the fall-backs (float64[n])."""
        return coalesce(
            *(pick(level) for level in (self.levels if levels is None else levels)),
            self.request,
            self.fallback,
        )


def coalesce(*candidates: Floats) -> Floats:
    """Row by row the first of the candidates that is not NaN.

    >>> coalesce(np.array([1.0, np.nan]), np.array([5.0, 6.0])).tolist()
    [1.0, 6.0]
    """
    found = candidates[0]
    for candidate in candidates[1:]:
        found = np.where(np.isnan(found), candidate, found)
    return found


def read_history(
    jobs: pd.DataFrame,
    target: Target,
    refits: Sequence[int] = (),
    levels: Sequence[tuple[str, ...]] | None = None,
    warm_up: int | None = None,
) -> AvailableHistory:
    """Replay ``jobs`` and note what was known when each was submitted; ``levels`` default to the ``template_levels`` of the log.

    Which fields tell jobs apart is seen from the first ``warm_up`` of them (default: all). Raises ValueError when the jobs are not in
    order of submission.
    """
    first = jobs.iloc[:warm_up]
    levels = template_levels(first) if levels is None else levels
    group = next(
        (
            (name,)
            for name in ("group", "project", "queue")
            if name in first and _tells(first[name])
        ),
        (),
    )
    contexts = encode(
        jobs,
        Levels(tuple(Level(fields) for fields in (*levels, group)), 0, subject=target.subject.name),
    )
    if (np.diff(contexts.at) < 0).any():
        raise ValueError("the jobs are not in order of submission")
    values = target.value(jobs)
    news = (contexts.at, contexts.available_at, values)
    return AvailableHistory(
        jobs,
        target,
        *news,
        levels=tuple(recent(contexts.keys[:, place], *news) for place in range(len(levels))),
        group_quantiles=running_quantiles(contexts.keys[:, -1], *news, (0.5, 0.95)),
        all_quantiles=running_quantiles(np.zeros(len(jobs)), *news, (0.5, 0.95)),
        refits=tuple(refits),
    )


def template_levels(jobs: pd.DataFrame) -> tuple[tuple[str, ...], ...]:
    """The templates of a log, fine to coarse, the last one the owner, by one rule from the fields that it has.

    The template is user, program, cores and request, or site where nothing is requested; a field counts if it takes several values
    but does not name almost each job. The coarser template keeps the owner and the request (or site).
    """
    what = [name for name in ("requested_walltime", "site") if name in jobs and _tells(jobs[name])][
        :1
    ]
    who = [
        name
        for name in ("source", "user", "program", "requested_cores")
        if name in jobs and _tells(jobs[name])
    ]
    owner = who[: 2 if who[:1] == ["source"] else 1]
    return tuple(dict.fromkeys(((*who, *what), (*owner, *what), tuple(owner))))


def _tells(values: pd.Series[Any]) -> bool:
    return 1 < values.nunique() < max(0.5 * values.notna().sum(), 20)
