"""How the champion does: its logged predictions beside the outcomes and the best simple baseline, over time and by cluster."""

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
"""The figures are those of the jobs submitted within so long."""
HISTORY = timedelta(days=60)
MOST_HISTORY = 200_000
"""What a baseline may look back on."""
CLUSTERS = 5
FEWEST = 200
"""Fewer answers with an outcome than this say nothing."""
FIELDS = (
    "task_id",
    "user",
    "group",
    "site",
    "queue",
    "program",
    "submitted_at",
    "started_at",
    "ended_at",
)


@dataclass(frozen=True)
class DecayReport:
    """What a look at the champion's predictions found: ``alarms`` that stand, in a ``sentence``; ``answers`` were judged.

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
    """Judge what version ``label`` predicted until ``now``; the numbers go into the store as kind decay.

    Looking again at the same moment changes nothing. The test is run from the version's first answer on: there is no state to lose.
    """
    aim, moment = TARGETS[target], pd.Timestamp(now)
    answers = first_answers(engine, label, target, FIELDS)
    if sources:  # the champion is not judged by jobs of a source that it was not trained on
        answers = answers[answers["source"].isin(sources)]
    answers = answers[answers["submitted_at"].notna() & answers["point"].notna()].sort_values(
        "submitted_at", kind="stable"
    )
    if len(answers) < FEWEST:
        return DecayReport(
            f"Too few answers to judge {label} by: {len(answers):,}, and {FEWEST} are needed."
        )
    jobs = _history(engine, answers)
    place = pd.Series(
        np.arange(len(jobs)), index=pd.MultiIndex.from_frame(jobs[["source", "job_id"]])
    )
    found_at = place.reindex(pd.MultiIndex.from_frame(answers[["source", "job_id"]])).to_numpy()
    answers, rows = answers[~np.isnan(found_at)], found_at[~np.isnan(found_at)].astype(np.int64)
    until = in_microseconds(moment)
    measure = make_delayed_labels(read_history(jobs, aim), int(rows.min()))
    judged = measure.judge(rows, answers["point"].to_numpy(dtype=float), until)
    stand = tuple(
        alarm
        for alarm in decay.alarms(judged, largest(judged.cluster, clusters))
        if alarm.is_active(until)
    )
    sentence = _sentence(label, len(judged.at), stand, measure.baseline)
    details = {
        "sentence": sentence,
        "model_version": label,
        "answers": len(judged.at),
        "alarms": [asdict(alarm) for alarm in stand],
    }
    verdict = pd.DataFrame(
        [{"name": "verdict", "segment": "all", "value": float(len(stand)), "details": details}]
    )
    figures = _figures(
        answers.assign(baseline=measure.simple[rows], cluster=measure.cluster[rows]), aim, moment
    )
    measurements = pd.concat([verdict, figures.assign(details=None)], ignore_index=True).assign(
        kind="decay", measured_at=moment
    )
    with engine.begin() as connection:
        add_measurements(connection, measurements)
    return DecayReport(sentence, len(judged.at), stand, measurements)


def _history(engine: Engine, answers: pd.DataFrame) -> pd.DataFrame:
    """The jobs asked about and those before them that baselines look back on, in order of submission."""
    first, last = answers["submitted_at"].min(), answers["submitted_at"].max()
    jobs = read_jobs(engine, since=first - HISTORY, until=last + timedelta(microseconds=1))
    return jobs.sort_values("submitted_at", kind="stable").tail(MOST_HISTORY).reset_index(drop=True)


def _figures(answers: pd.DataFrame, target: Target, now: pd.Timestamp) -> pd.DataFrame:
    """The accuracy of the answers about jobs submitted within RECENT of the last, as if all of them had ended.

    An outcome counts by one over the share of these jobs that were submitted long enough ago to have shown one like it (Horvitz and
    Thompson 1952): of jobs submitted in the last hour only those that take less than an hour are known.
    """
    recent = answers[answers["submitted_at"] >= answers["submitted_at"].max() - RECENT]
    ages = np.sort((now - recent["submitted_at"]).dt.total_seconds().to_numpy())
    took = (recent["ended_at"] - recent["submitted_at"]).dt.total_seconds().to_numpy()
    weight = len(ages) / np.maximum(len(ages) - np.searchsorted(ages, np.nan_to_num(took)), 1)
    rows = accuracy(recent.assign(actual=target.value(recent), weight=weight, target=target.name))
    out = pd.DataFrame(
        [{"name": f"{target.name} open", "segment": "all", "value": float(np.isnan(took).mean())}]
    )
    return pd.concat([rows, out], ignore_index=True)


def _sentence(label: str, judged: int, alarms: Sequence[Alarm], baseline: str) -> str:
    about = f"{label}, {judged:,} predictions judged beside {baseline}"
    if not alarms:
        return f"No decay of {about}."
    more = f"; and {len(alarms) - 1} more alarms" if len(alarms) > 1 else ""
    return f"Decay of {about}: {alarms[0]}{more}."
