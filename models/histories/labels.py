"""Labels of jobs as columns: ``label:NAME`` has the values of one label, texts or numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from jobs.coded_jobs import Coded, CodedJobs
from jobs.labels import parse_labels, read_labels
from models.quantities.subjects import Subject

LABELS = "labels"
"""The field of a job that has all of its labels."""
_PREFIX = "label:"


def is_label(name: str) -> bool:
    """Whether a column is that of a label."""
    return name.startswith(_PREFIX)


def with_label_columns(jobs: pd.DataFrame, subject: Subject) -> pd.DataFrame:
    """Return jobs with a column for each of their labels, where the subject has labels."""
    if not subject.labels or LABELS not in jobs or not jobs[LABELS].notna().any():
        return jobs
    labels = read_labels(jobs[LABELS])
    return jobs.assign(**{_PREFIX + str(name): labels[name].array for name in labels})


def add_label_columns(
    jobs: CodedJobs, names: Collection[str], numbers: Collection[str]
) -> CodedJobs:
    """Return jobs with the columns of some labels, as far as they lack them.

    Args:
        jobs: The jobs.
        names: Names of columns; those that are no labels are passed over.
        numbers: Which labels are numbers; a text is missing there.
    """
    wanted = [name for name in names if is_label(name) and name not in jobs]
    if not wanted or LABELS not in jobs:
        return jobs
    coded: Coded = jobs[LABELS]
    # The last object is for the code -1: no labels.
    objects = [*(parse_labels(text) or {} for text in coded.values), {}]
    columns: dict[str, Any] = {}
    for name in wanted:
        values = [labels.get(name.removeprefix(_PREFIX)) for labels in objects]
        if name in numbers:
            floats = [np.nan if isinstance(value, str | None) else value for value in values]
            columns[name] = np.array(floats, dtype=np.float64)[coded.codes]
        else:
            texts = [f"{value:g}" if isinstance(value, float) else value for value in values]
            codes, distinct = pd.factorize(np.array(texts, dtype=object))
            columns[name] = Coded(codes[coded.codes], [str(text) for text in distinct])
    return CodedJobs({**jobs.columns, **columns}, jobs.rows)
