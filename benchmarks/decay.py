"""Detection of decay in generated logs with a planted change, and false alarms without one.

``python benchmarks/decay.py [--seeds 20]`` prints one row per kind of change and predictor: the
logs with an alarm after the change, the median days until it, and the alarms per month before any
change. The predictors are trained once, ten days before the change.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np

from infra.settings import prepare_environment
from jobs.workload import Change, generate
from models.baselines.available_history import read_history
from models.quantities.targets import TARGETS
from monitoring.decay import detection as decay
from monitoring.decay.delayed_labels import DelayedLabels, largest, make_delayed_labels
from monitoring.rehearsal.retrained_models import PlainCatBoost, RetrainedEngine, RetrainedModel

DAYS, TRAINED, CHANGED = 60.0, 20.0, 30.0
JOBS = 40_000
DAY = 86_400_000_000
FACTOR = 3.0


def changes(kind: str, seed: int) -> list[Change]:
    truth = generate(10, 1, seed).truth
    programs = list(truth["programs"])
    if kind == "sudden":
        return [Change("slow_program", CHANGED, name, FACTOR) for name in programs]
    if kind == "gradual":
        return [
            Change("gradual_slow", CHANGED, name, FACTOR, until=CHANGED + 10) for name in programs
        ]
    if kind == "recurring":
        return [Change("recurring_slow", CHANGED, name, FACTOR, period=7) for name in programs]
    return [Change("slow_group", CHANGED, factor=FACTOR)] if kind == "one cluster" else []


def alarms(
    learner: RetrainedModel, measure: DelayedLabels, at: np.ndarray, start: int
) -> np.ndarray:
    """The days, since the log's beginning, of all alarms about a model that is trained once."""
    first = int(np.searchsorted(at, start))
    rows = np.arange(first, len(at))
    judged = measure.score(rows, learner.points(learner.train(start), rows))
    alarm_days = decay.alarms(judged, largest(measure.cluster[:first], 5))
    return np.array([(alarm.at - at[0]) / DAY for alarm in alarm_days])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument(
        "--kinds", nargs="*", default=["none", "sudden", "gradual", "one cluster", "recurring"]
    )
    parser.add_argument("--predictors", nargs="*", default=["gridcast", "catboost"])
    options = parser.parse_args()
    prepare_environment()
    target = TARGETS["walltime"]
    print("change       predictor  noticed   median days   alarms a month before")
    for kind in options.kinds:
        alarm_days: dict[str, list[np.ndarray]] = {}
        for seed in range(options.seeds):
            jobs = generate(JOBS, DAYS, seed, changes=changes(kind, seed)).jobs
            jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
            seen = read_history(jobs, target)
            start = int(seen.submitted_at[0] + TRAINED * DAY)
            first = int(np.searchsorted(seen.submitted_at, start))
            measure = make_delayed_labels(seen, first)
            for name in options.predictors:
                learner = (
                    RetrainedEngine(jobs, target, first)
                    if name == "gridcast"
                    else PlainCatBoost(seen)
                )
                alarm_days.setdefault(name, []).append(
                    alarms(learner, measure, seen.submitted_at, start)
                )
            print(
                f"{kind}, seed {seed}: "
                + "; ".join(
                    f"{name} {days_by_seed[-1].round(1)}"
                    for name, days_by_seed in alarm_days.items()
                ),
                file=sys.stderr,
            )
        for name, days_by_seed in alarm_days.items():
            changed = DAYS if kind == "none" else CHANGED
            late = [
                days[days >= changed].min() - changed
                for days in days_by_seed
                if (days >= changed).any()
            ]
            early = sum(int((days < changed).sum()) for days in days_by_seed) / (
                len(days_by_seed) * (changed - TRAINED) / 30
            )
            took = f"{np.median(late):11.1f}" if late else "          –"
            print(f"{kind:12} {name:10} {len(late):3d} of {len(days_by_seed)} {took} {early:18.3f}")


if __name__ == "__main__":
    main()
