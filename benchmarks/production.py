"""Classes of generated production tasks, beside those that the paper on PanDA's learned resource prediction publishes of real ones.

    uv run python benchmarks/production.py [--tasks 20000] [--json]

Tasks are generated (jobs/workload/scouts.py), so only the comparison within the table means anything: the same tasks in the order of time,
trained on the past and asked about later ones, and dealt at random as the paper's were, where tasks of one request lie on both sides.
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
    "average_accuracy": 0.8603, "at_least_1": 0.998, "at_least_2": 0.979, "at_least_3": 0.891, "at_least_4": 0.574,
}  # fmt: skip
"""The paper's equation for the average and its Table 4: about 100,000 tasks of its test environment."""
TRAINED = 0.85
"""The paper's share."""


def main() -> None:
    """Generate, live through, print."""
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
        {"split": "the paper's own tasks (dealt at random)", "predictor": "neural network", **PAPER}
    ]
    rows += shown(
        "in the order of time",
        evaluate_classes(tasks, TARGETS_OF_TASKS, warm_up=TRAINED, refit_every=0.05),
    )
    rows += shown(
        "dealt at random",
        evaluate_classes(dealt(tasks), TARGETS_OF_TASKS, warm_up=TRAINED, refit_every=1.0),
    )
    if options.json:
        print(json.dumps({"rows": rows, "tasks": options.tasks}))
        return
    print(pd.DataFrame(rows).to_string(index=False, float_format=lambda value: f"{value:.3f}"))


def shown(split: str, found: ClassEvaluation) -> list[dict[str, object]]:
    """A row a predictor: accuracy of each target, the average, and how often so many are right at once."""
    rows = []
    for joint in found.joint_rows:
        each = {
            row["target"]: row["accuracy"]
            for row in found.rows
            if row["predictor"] == joint["predictor"]
        }
        rows.append(
            {"split": f"{split} (generated)", "predictor": joint["predictor"], **each}
            | {k: joint[k] for k in joint if k in PAPER}
        )
    return rows


def dealt(tasks: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """The same tasks in another order: the first part had ended when the rest is submitted, all of it before any of that ends."""
    tasks = tasks.iloc[np.random.default_rng(seed).permutation(len(tasks))].reset_index(drop=True)
    at = START + pd.to_timedelta(np.arange(len(tasks)) * 60.0, unit="s")
    trained = np.arange(len(tasks)) < int(len(tasks) * TRAINED)
    ended = at.where(trained, at[-1]) + pd.Timedelta(1, "s")
    return tasks.assign(
        submitted_at=at.as_unit("us"), started_at=at.as_unit("us"), ended_at=ended.as_unit("us")
    )


if __name__ == "__main__":
    main()
