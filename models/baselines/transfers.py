"""How file transfers are predicted in the literature: Vazhkudai and Schopf's statistics of windows, with and without classes of size.

A transfer is compared with those on its link. Without a history of its class its link answers, then everything.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.baselines.available_history import AvailableHistory, coalesce
from models.past.load import key_of
from models.past.traffic import LEAST, LINK
from models.past.windows import Past, Statistic, statistics

BY_RATE = "-rate"
MB = 1e6
CLASSES = (50 * MB, 250 * MB, 750 * MB)
"""Where the classes of file size end (Vazhkudai and Schopf 2003); the fourth is above."""


def size_class(transfers: pd.DataFrame) -> pd.Series[int]:
    """The class of file size of each transfer, 0 to 3."""
    return pd.Series(
        np.digitize(transfers["bytes"].to_numpy(dtype=np.float64), CLASSES), index=transfers.index
    )


def _point(
    statistic: Statistic, sized: bool, by_rate: bool
) -> Callable[[AvailableHistory], Floats]:
    def predict(seen: AvailableHistory) -> Floats:
        link = key_of(seen.jobs, LINK)
        size = seen.jobs["bytes"].to_numpy(dtype=np.float64)
        scale = size if by_rate else np.ones(len(size))
        values = size / np.maximum(seen.values, LEAST) if by_rate else seen.values
        keys = [link * 4 + size_class(seen.jobs).to_numpy(), link] if sized else [link]
        found = (statistic(Past(key, seen.submitted_at, seen.available_at, values)) for key in keys)
        times = (
            np.where(each > 0, scale / np.maximum(each, 1e-9), np.nan) if by_rate else each
            for each in found
        )
        return coalesce(*times, seen.fallback)

    return predict


def transfer_baselines() -> dict[str, tuple[str, Callable[[AvailableHistory], Floats]]]:
    """Every baseline as name: (meaning, predictions): of durations, and (``-rate``) of bandwidths, as published."""
    found = {}
    for name, (meaning, foresee) in statistics().items():
        for sized, ending, of in (
            (False, "", "on the link"),
            (True, "-sized", "of the size class on the link"),
        ):
            for by_rate, last, what in ((False, "", "durations"), (True, BY_RATE, "bandwidths")):
                found[f"{name}{ending}{last}"] = (
                    f"{meaning} {what} {of}",
                    _point(foresee, sized, by_rate),
                )
    return found
