"""Baselines of file transfers: statistics of windows, with and without classes of file size.

They are Vazhkudai and Schopf's (2003). A transfer is compared with those on its link; without a
history of its size class its link's, then that of all transfers.
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
    def predict(history: AvailableHistory) -> Floats:
        link = key_of(history.jobs, LINK)
        size = history.jobs["bytes"].to_numpy(dtype=np.float64)
        values = size / np.maximum(history.values, LEAST) if by_rate else history.values
        keys = [link * 4 + size_class(history.jobs).to_numpy(), link] if sized else [link]
        predicted = []
        for key in keys:
            past = Past(key, history.submitted_at, history.available_at, values)
            result = statistic(past)
            if by_rate:
                result = np.where(result > 0, size / np.maximum(result, 1e-9), np.nan)
            predicted.append(result)
        return coalesce(*predicted, history.fallback)

    return predict


def transfer_baselines() -> dict[str, tuple[str, Callable[[AvailableHistory], Floats]]]:
    """Every baseline as name: (meaning, predictions); ``-rate`` for those of bandwidths."""
    scopes = ((False, "", "on the link"), (True, "-sized", "of the size class on the link"))
    quantities = ((False, "", "durations"), (True, BY_RATE, "bandwidths"))
    return {
        f"{name}{ending}{suffix}": (
            f"{meaning} {quantity} {scope}",
            _point(statistic, sized, by_rate),
        )
        for name, (meaning, statistic) in statistics().items()
        for sized, ending, scope in scopes
        for by_rate, suffix, quantity in quantities
    }
