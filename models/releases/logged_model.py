"""The ``MLmodel`` file of a version: signature, input example, and a loader for ``mlflow.pyfunc``.

Any program with Gridcast installed loads a version by
``mlflow.pyfunc.load_model("models:/gridcast@champion")`` and predicts a frame of jobs without a
server. The version names this module as its loader and holds neither code nor pickles.

A version has no stored history: unlike the service, it knows of past jobs only those of the frame.
"""

from __future__ import annotations

from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import pandas as pd

from infra.errors import InputError
from jobs.schema import FIELDS, Field, conform
from models.engine.backtest import predict_in_time
from models.engine.model_set import ModelSet
from models.engine.predictions import DECIMALS

if TYPE_CHECKING:
    from models.releases.versions import Evidence

LOADER = "models.releases.logged_model"
"""This module's name, which versions store: it must not change."""
TYPES = {"text": "string", "number": "double", "time": "datetime", "labels": "string"}
"""MLflow's type of each kind of field."""
OPTIONAL = ("job_id", "submitted_at")
"""Required fields of a job record that the loader fills in where the frame lacks the column."""


class LoadedVersion:
    """A version as MLflow's python function."""

    def __init__(self, model_set: ModelSet) -> None:
        self.model_set = model_set

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Predict jobs, each by those of the frame that had ended at its submission.

        Args:
            model_input: Jobs in the fields of ``jobs.schema``; ``source`` is required. Without a
                column ``job_id`` it is the number of the row, from 0; without ``submitted_at`` all
                jobs are submitted now.
            params: None are known.

        Returns:
            A row a job in the same order: job_id, the columns of each target, the answering
            cluster, and whether nothing of its owner had ended (``cold_start``).

        Raises:
            InputError: A value cannot be read, or a required one is missing.
        """
        jobs = _read_jobs(model_input)
        answers = predict_in_time(self.model_set, jobs[jobs["ended_at"].notna()], jobs)
        return answers.loc[jobs.index].round(DECIMALS).drop(columns="model_version")


def _read_jobs(model_input: pd.DataFrame) -> pd.DataFrame:
    """Return the frame as job records, numbered from 0; raises InputError."""
    frame = model_input.reset_index(drop=True)
    if "submitted_at" not in frame and "ended_at" in frame and frame["ended_at"].notna().any():
        raise InputError("jobs that have ended need submitted_at, when they entered the queue")
    if "job_id" not in frame:
        frame["job_id"] = frame.index
    if "submitted_at" not in frame:
        frame["submitted_at"] = pd.Timestamp.now(tz="UTC")
    for name in frame.columns:
        # A column of whole numbers with gaps is one of floats: 7, not 7.0, is the name of a job.
        if str(name).endswith("_id") and pd.api.types.is_float_dtype(frame[name]):
            frame[name] = frame[name].convert_dtypes()
    jobs = conform(frame)
    for field in FIELDS:
        readable = jobs[field.name].notna()
        if not field.required and field.name in frame:
            readable |= frame[field.name].isna() | frame[field.name].eq("")
        if field.name in frame:
            _require(readable, field, frame)
    return jobs


def _require(readable: pd.Series, field: Field, frame: pd.DataFrame) -> None:
    if not readable.all():
        row = int(readable.to_numpy(bool).argmin())
        value = frame[field.name][row]
        problem = "missing" if pd.isna(value) else f"no {field.kind}: {value}"
        raise InputError(f"{field.name} of row {row} is {problem}")


def _load_pyfunc(path: str) -> LoadedVersion:
    """Load a version's folder, as ``mlflow.pyfunc`` calls it."""
    return LoadedVersion(ModelSet.load(Path(path)))


def write_mlmodel(folder: Path, evidence: Evidence) -> None:
    """Write ``MLmodel`` and ``input_example.json`` into the folder of a model set."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    # MLflow's type of times refuses those with a time zone, its "double" columns of 64-bit
    # integers, its "string" ids that are numbers: the loader reads and checks them itself.
    inputs = Schema(
        [
            ColSpec(
                "string" if field.kind == "text" and not field.name.endswith("_id") else AnyType(),
                field.name,
                required=field.required and field.name not in OPTIONAL,
            )
            for field in FIELDS
        ]
    )
    example = None
    if evidence.inputs is not None:
        columns = [field.name for field in FIELDS if field.name in evidence.inputs]
        text = evidence.inputs[columns].to_json(orient="split", index=False, date_format="iso")
        (folder / "input_example.json").write_text(text)
        example = {
            "artifact_path": "input_example.json",
            "type": "dataframe",
            "pandas_orient": "split",
        }
    outputs = None
    if evidence.outputs is not None:
        answers = evidence.outputs.drop(columns="model_version", errors="ignore")
        outputs = Schema([ColSpec(_output_type(answers[name]), str(name)) for name in answers])
    model = Model(signature=ModelSignature(inputs, outputs), saved_input_example_info=example)
    model.add_flavor("python_function", loader_module=LOADER, python_version=python_version())
    model.save(str(folder / "MLmodel"))


def _output_type(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "boolean"
    return "double" if pd.api.types.is_numeric_dtype(column) else "string"
