"""Facts planted in a generated log: labels of known effect on the work, and GPUs with their use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.errors import InputError
from jobs.labels import write_labels
from jobs.workload.population import Grid

LABELS_STREAM, GPU_STREAM = 30, 31
GPUS = np.array([1.0, 2.0, 4.0])
GPU_TYPES = ("a100", "h100", "v100")
WATTS_PER_CORE, WATTS_PER_GPU = 8.0, 300.0
GPU_PROGRAMS = ("training", "analysis")
"""The kinds of program that use GPUs."""


@dataclass(frozen=True)
class PlantedLabel:
    """A label of jobs that multiplies their work.

    A text has so many ``values``, the work with each is ``factor`` times that with the one before.
    A label of no values is a number, and ``factor`` is for each doubling. A factor of 1 makes a
    label that says nothing of the work.
    """

    name: str
    values: int = 4
    factor: float = 1.0


def read_planted_label(text: str) -> PlantedLabel:
    """Read a label from the command line: ``NAME=VALUESxFACTOR`` or ``NAME=numberxFACTOR``.

    >>> read_planted_label("release=4x3")
    PlantedLabel(name='release', values=4, factor=3.0)
    >>> read_planted_label("reads=numberx1").values
    0
    """
    match = re.fullmatch(r"([^=]+)=(number|[1-9]\d{0,2})x(\d+(?:\.\d+)?)", text.strip())
    if not match or float(match[3]) <= 0:
        raise InputError(f"the label {text!r} is not NAME=VALUESxFACTOR or NAME=numberxFACTOR")
    return PlantedLabel(match[1], 0 if match[2] == "number" else int(match[2]), float(match[3]))


def draw_labels(
    grid: Grid, jobs: int, labels: Sequence[PlantedLabel]
) -> tuple[pd.DataFrame, Array]:
    """Draw the labels of each job, a column a label, and the factor on its work (float64[jobs]).

    Args:
        grid: The grid.
        jobs: The number of jobs.
        labels: The planted labels.
    """
    columns: dict[str, Array] = {}
    factor = np.ones(jobs)
    for number, label in enumerate(labels):
        rng = np.random.default_rng([grid.seed, LABELS_STREAM, number])
        if label.values:
            value = rng.integers(0, label.values, jobs)
            columns[label.name] = np.array([f"v{k + 1}" for k in range(label.values)])[value]
            doublings: Array = value - (label.values - 1) / 2
        else:
            doublings = rng.normal(0, 1.5, jobs)
            columns[label.name] = np.round(1e6 * 2.0**doublings)
        factor = factor * label.factor**doublings
    return pd.DataFrame(columns, index=range(jobs)), factor


def add_labels(frame: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """Return generated jobs with their labels."""
    return frame.assign(labels=write_labels(labels)[0]) if len(labels.columns) else frame


def add_gpus(grid: Grid, frame: pd.DataFrame) -> pd.DataFrame:
    """Return generated jobs with GPUs for some programs, their use, and each job's energy.

    A program keeps a share of its GPUs busy and uses memory of each; both vary by 3 %.
    """
    rng = np.random.default_rng([grid.seed, GPU_STREAM])
    count = len(frame)
    programs = pd.Series(grid.programs.names)
    busy = pd.Series(rng.uniform(0.3, 0.95, len(programs)), programs)
    memory = pd.Series(rng.uniform(4e9, 60e9, len(programs)), programs)
    uses = frame["program"].str.endswith(GPU_PROGRAMS).to_numpy(bool)
    gpus = np.where(uses, GPUS[rng.integers(0, len(GPUS), count)], 0.0)
    site = pd.factorize(frame["site"])[0]
    kind = pd.Series(np.array(GPU_TYPES)[site % len(GPU_TYPES)], frame.index, dtype="str")
    ran, program = frame["walltime"], frame["program"]
    noise = np.exp(rng.normal(0, 0.03, (3, count)))
    used = np.minimum(program.map(busy) * noise[0], 1.0)
    watts = WATTS_PER_CORE * frame["cores"] + WATTS_PER_GPU * gpus * used.where(uses, 0.0)
    return frame.assign(
        requested_gpus=gpus,
        gpu_type=kind.where(uses),
        gpu_time=(ran * gpus * used).round(),
        peak_gpu_memory=(gpus * program.map(memory) * noise[1]).where(ran.notna()).round(),
        energy=(ran * watts * noise[2]).round(),
    )
