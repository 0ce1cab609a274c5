"""Decay of the champion: its logged predictions against outcomes and the best simple baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jobs.coded_jobs import in_microseconds
from jobs.store import add_measurements, read_jobs
from models.baselines.available_history import read_history
from models.quantities.targets import TARGETS, Target
from monitoring.accuracy import accuracy
from monitoring.decay import detection as decay
from monitoring.decay.delayed_labels import largest, make_delayed_labels
from monitoring.decay.detection import Alarm
from monitoring.drift.check import first_answers

if TYPE_CHECKING:
    from sqlalchemy import Engine

RECENT = timedelta(days=7)
"""The metrics are those of the jobs submitted within this time."""
HISTORY = timedelta(days=60)
MAX_HISTORY_JOBS = 200_000
"""What a baseline may use."""
CLUSTERS = 5
MIN_ANSWERS = 200
"""Fewer answers with an outcome do not show decay."""
FIELDS = (
    *("task_id", "user", "group", "site", "queue", "program"),
    *("submitted_at", "started_at", "ended_at"),
)
JOB_KEY = ["source", "job_id"]


@dataclass(frozen=True)
class DecayReport:
    """The active ``alarms`` about the champion, from so many scored ``answers``, in a sentence.

    ``measurements`` has the columns of ``jobs.store.add_measurements``, of kind decay.
    """

    sentence: str
    answers: int = 0
    alarms: tuple[Alarm, ...] = ()
    measurements: pd.DataFrame = field(default_factory=pd.DataFrame, repr=False, compare=False)


def watch_champion(
    engine: Engine,
    label: str,
    now: datetime,
    target: str = "walltime",
    clusters: int = CLUSTERS,
    sources: Sequence[str] = (),
) -> DecayReport:
    """Score the predictions of a version until ``now`` and store the metrics as kind decay.

    Repeating this for the same time changes nothing: the test runs from the first prediction on.

    Args:
        engine: The store.
        label: The version.
        now: The present.
        target: What was predicted.
        clusters: How many of the largest clusters are tested by themselves.
        sources: The sources that the version was trained on; by others' jobs it is not judged.
    """
    quantity, moment = TARGETS[target], pd.Timestamp(now)
    answers = first_answers(engine, label, target, FIELDS)
    if sources:
        answers = answers[answers["source"].isin(sources)]
    answers = answers[answers["submitted_at"].notna() & answers["point"].notna()]
    answers = answers.sort_values("submitted_at", kind="stable")
    if len(answers) < MIN_ANSWERS:
        return DecayReport(
            f"Too few answers to judge {label} by: {len(answers):,}, and {MIN_ANSWERS} are needed."
        )
    jobs = _history(engine, answers)
    row_of = pd.Series(np.arange(len(jobs)), index=pd.MultiIndex.from_frame(jobs[JOB_KEY]))
    matched = row_of.reindex(pd.MultiIndex.from_frame(answers[JOB_KEY])).to_numpy()
    stored = ~np.isnan(matched)
    answers, rows = answers[stored], matched[stored].astype(np.int64)
    until = in_microseconds(moment)
    labels = make_delayed_labels(read_history(jobs, quantity), int(rows.min()))
    scored = labels.score(rows, answers["point"].to_numpy(dtype=float), until)
    raised = decay.alarms(scored, largest(scored.cluster, clusters))
    active = tuple(alarm for alarm in raised if alarm.is_active(until))
    sentence = _sentence(label, len(scored.at), active, labels.baseline)
    details = {
        "sentence": sentence,
        "model_version": label,
        "answers": len(scored.at),
        "alarms": [asdict(alarm) for alarm in active],
    }
    verdict = {"name": "verdict", "segment": "all", "value": float(len(active)), "details": details}
    compared = answers.assign(baseline=labels.baseline_point[rows], cluster=labels.cluster[rows])
    metrics = _figures(compared, quantity, moment).assign(details=None)
    measurements = pd.concat([pd.DataFrame([verdict]), metrics], ignore_index=True)
    measurements = measurements.assign(kind="decay", measured_at=moment)
    with engine.begin() as connection:
        add_measurements(connection, measurements)
    return DecayReport(sentence, len(scored.at), active, measurements)


def _history(engine: Engine, answers: pd.DataFrame) -> pd.DataFrame:
    """The predicted jobs, and those before them that baselines use, in order of submission."""
    first, last = answers["submitted_at"].min(), answers["submitted_at"].max()
    jobs = read_jobs(engine, since=first - HISTORY, until=last + timedelta(microseconds=1))
    jobs = jobs.sort_values("submitted_at", kind="stable")
    return jobs.tail(MAX_HISTORY_JOBS).reset_index(drop=True)


def _figures(answers: pd.DataFrame, target: Target, now: pd.Timestamp) -> pd.DataFrame:
    """The accuracy for the jobs submitted within RECENT of the last, as if all had ended.

    An outcome is weighted by the inverse of the share of these jobs that were submitted early
    enough to show it (Horvitz and Thompson 1952): of jobs submitted in the last hour only those
    that take less than an hour are known.
    """
    recent = answers[answers["submitted_at"] >= answers["submitted_at"].max() - RECENT]
    ages = np.sort((now - recent["submitted_at"]).dt.total_seconds().to_numpy())
    took = (recent["ended_at"] - recent["submitted_at"]).dt.total_seconds().to_numpy()
    weight = len(ages) / np.maximum(len(ages) - np.searchsorted(ages, np.nan_to_num(took)), 1)
    rows = accuracy(recent.assign(actual=target.value(recent), weight=weight, target=target.name))
    share = float(np.isnan(took).mean())
    still_open = pd.DataFrame([{"name": f"{target.name} open", "segment": "all", "value": share}])
    return pd.concat([rows, still_open], ignore_index=True)


def _sentence(label: str, scored: int, alarms: Sequence[Alarm], baseline: str) -> str:
    summary = f"{label}, {scored:,} predictions judged beside {baseline}"
    if not alarms:
        return f"No decay of {summary}."
    more = f"; and {len(alarms) - 1} more alarms" if len(alarms) > 1 else ""
    return f"Decay of {summary}: {alarms[0]}{more}."
