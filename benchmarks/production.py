"""Classes of generated production tasks, beside the published ones of PanDA's predictions.

    uv run python benchmarks/production.py [--tasks 20000] [--json]

The tasks are generated (jobs/workload/scouts.py), so that only rows of the table can be compared:
the same tasks split by time, and split at random as in the paper, where tasks of one request are in
both parts.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from jobs.workload.scouts import START, generate_scouts
from models.evaluation.class_backtest import ClassEvaluation, evaluate_classes
from models.tasks.scouting import TARGETS_OF_TASKS, label_tasks

PAPER = {
    "memory_per_core": 0.805, "cpu_per_event": 0.858, "io_per_core": 0.939, "walltime": 0.839,
    "average_accuracy": 0.8603,
    "at_least_1": 0.998, "at_least_2": 0.979, "at_least_3": 0.891, "at_least_4": 0.574,
}  # fmt: skip
"""The paper's average and its Table 4: about 100,000 tasks of its test environment."""
TRAINED = 0.85
"""The paper's share of training tasks."""


def main() -> None:
    """Generate, evaluate, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args()
    tasks = label_tasks(generate_scouts(options.tasks))
    tasks = tasks.drop(columns=["task_id"]).assign(task_id=None)[
        list(tasks.columns)
    ]  # a task is no kind of task
    rows = [
        {"split": "the paper's own tasks (split at random)", "predictor": "neural network", **PAPER}
    ]
    rows += result_rows(
        "split by time",
        evaluate_classes(tasks, TARGETS_OF_TASKS, warm_up=TRAINED, refit_every=0.05),
    )
    rows += result_rows(
        "split at random",
        evaluate_classes(shuffled(tasks), TARGETS_OF_TASKS, warm_up=TRAINED, refit_every=1.0),
    )
    if options.json:
        print(json.dumps({"rows": rows, "tasks": options.tasks}))
        return
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def result_rows(split: str, evaluation: ClassEvaluation) -> list[dict[str, object]]:
    """One row per predictor: accuracy by target, average, and how many are right at once."""
    rows = []
    for joint in evaluation.joint_rows:
        accuracies = {
            row["target"]: row["accuracy"]
            for row in evaluation.rows
            if row["predictor"] == joint["predictor"]
        }
        rows.append(
            {"split": f"{split} (generated)", "predictor": joint["predictor"], **accuracies}
            | {k: joint[k] for k in joint if k in PAPER}
        )
    return rows


def shuffled(tasks: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The tasks in random order: training tasks end before the others are submitted."""
    tasks = tasks.iloc[np.random.default_rng(seed).permutation(len(tasks))].reset_index(drop=True)
    at = START + pd.to_timedelta(np.arange(len(tasks)) * 60.0, unit="s")
    trained = np.arange(len(tasks)) < int(len(tasks) * TRAINED)
    ended = at.where(trained, at[-1]) + pd.Timedelta(1, "s")
    return tasks.assign(
        submitted_at=at.as_unit("us"), started_at=at.as_unit("us"), ended_at=ended.as_unit("us")
    )


if __name__ == "__main__":
    main()
