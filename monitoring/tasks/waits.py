"""Waits of jobs, predicted and logged while they wait, so that a page can say when a job starts.

The prediction is made of the job as of its submission, from what was known when it was made; it is
logged once a job, under the target ``wait``, and compared with the wait when the job has started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import encode_jobs
from jobs.store import add_predictions, read_jobs, read_latest
from models.engine.wait_regression import WaitRegression, fit_waits
from models.past.queue_inputs import queue_inputs
from models.past.queues import LONGEST_WAIT
from models.ranking.load_forecaster import LoadForecaster, predicted_points
from models.tasks.ranges import LEVELS
from monitoring.tasks.watch import as_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

TARGET = "wait"
MODEL = "waits of the task watch"
"""What the log has for a model version."""
REFIT_EVERY = pd.Timedelta(days=1)
MAX_JOBS = 20_000
"""The latest jobs that waits are learned from, and the older open ones that make up the load."""
MOST = 2000
"""Jobs that are predicted in one update, those submitted last."""


@dataclass
class WaitWatch:
    """What is kept between two updates: the learned waits, and which jobs were predicted."""

    engine: Engine
    learned: LoadForecaster | None = None
    regression: WaitRegression | None = None
    fitted_at: pd.Timestamp | None = None
    predicted: pd.Index[Any] = field(default_factory=lambda: pd.Index([], dtype=str))

    def update(self, now: datetime) -> int:
        """Predict and log the wait of every waiting job that is new; returns how many."""
        moment = pd.Timestamp(now)
        records = as_of(read_records(self.engine), moment)
        records = records[records["submitted_at"] <= moment].reset_index(drop=True)
        self.learned = LoadForecaster.learned_from(records, TARGET, self.learned)
        if self.learned is None:
            return 0
        keys = pd.Index(records["source"] + "\0" + records["job_id"])
        recent = records["submitted_at"] > moment - pd.Timedelta(LONGEST_WAIT, "s")
        waits = records["started_at"].isna() & records["ended_at"].isna() & recent
        is_new = (waits & ~keys.isin(self.predicted)).to_numpy()
        self.predicted = keys[waits.to_numpy()]
        if not is_new.any():
            return 0
        subject = self.learned.forecaster.subject
        assert subject.add_surroundings is not None  # noqa: S101
        new = subject.add_surroundings(records.assign(is_new=is_new)).query("is_new").tail(MOST)
        waited = (moment - new["submitted_at"]).dt.total_seconds().to_numpy()
        points = self._regression_quantiles(records, new.index, moment)
        if points is None:
            points = self._points(new)
        low, median, high = remaining_quantiles(points, waited)
        rows = pd.DataFrame(
            {
                "asked_at": moment,
                "source": new["source"].to_numpy(),
                "job_id": new["job_id"].to_numpy(),
                "target": TARGET,
                "model_version": MODEL,
                "point": median,
                "low": low,
                "median": median,
                "high": high,
                "known_revision": 0,  # of a job that has not ended
                "shadow": False,
            }
        )
        with self.engine.begin() as connection:
            add_predictions(connection, rows)
        return len(rows)

    def _regression_quantiles(
        self, records: pd.DataFrame, new: pd.Index[int], moment: pd.Timestamp
    ) -> Array | None:
        """Quantiles of new waits by the regression (float64[n, levels], s); None without one.

        Args:
            records: All records.
            new: Positions of the new ones among these in order of submission.
            moment: The present; the regression is fitted anew once it is REFIT_EVERY old.
        """
        jobs = records.sort_values("submitted_at", kind="stable", ignore_index=True)
        inputs = queue_inputs(jobs)
        if self.fitted_at is None or moment - self.fitted_at >= REFIT_EVERY:
            self.regression, self.fitted_at = fit_waits(jobs, inputs), moment
        if self.regression is None:
            self.fitted_at = None
            return None
        centres = self.regression.centre(inputs.iloc[new])
        return self.regression.predict(centres).quantiles

    def _points(self, jobs: pd.DataFrame) -> Array:
        """Quantiles of each job's wait from its submission (float64[n, POINTS], s)."""
        assert self.learned is not None  # noqa: S101
        forecaster = self.learned.forecaster
        names = ("submitted_at", "source", "job_id", *forecaster.fields)
        return predicted_points(forecaster, encode_jobs(jobs, names))


def read_records(engine: Engine) -> pd.DataFrame:
    """The latest MAX_JOBS jobs, after as many older ones at most that may still be open."""
    latest = read_latest(engine, MAX_JOBS)
    if latest.empty:
        return latest
    begin = latest["submitted_at"].iloc[0]
    since = begin - pd.Timedelta(LONGEST_WAIT, "s")
    still_open = read_jobs(engine, since=since, until=begin, ended=False, limit=MAX_JOBS)
    return pd.concat([still_open, latest], ignore_index=True) if len(still_open) else latest


def remaining_quantiles(points: Array, waited: Array) -> Array:
    """Low, median and high wait of jobs that have waited for some time already (float64[3, n], s).

    Args:
        points: Quantiles of each job's wait from its submission (float64[n, POINTS], s).
        waited: How long each has waited (float64[n], s); waits that are no longer are impossible.
    """
    possible = np.where(points > waited[:, None], points, np.nan)
    # A job that has waited longer than was thought possible may wait as long again.
    possible[:, -1] = np.where(np.isnan(possible[:, -1]), 2 * waited, possible[:, -1])
    return np.asarray(np.nanquantile(possible, LEVELS, axis=1))
