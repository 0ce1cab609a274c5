"""The ``MLmodel`` file of a version: signature, input example, and a loader for ``mlflow.pyfunc``.

Any program with Gridcast installed loads a version by
``mlflow.pyfunc.load_model("models:/gridcast@champion")`` and predicts a frame of jobs without a
server. The version names this module as its loader and holds neither code nor pickles.
"""

from __future__ import annotations

from pathlib import Path
from platform import python_version
from typing import TYPE_CHECKING, Any

import pandas as pd

from jobs.schema import FIELDS, conform
from models.engine.backtest import predict_in_time
from models.engine.model_set import ModelSet
from models.engine.predictions import DECIMALS

if TYPE_CHECKING:
    from models.releases.versions import Evidence

LOADER = "models.releases.logged_model"
"""This module's name, which versions store: it must not change."""
TYPES = {"text": "string", "number": "double", "time": "datetime"}
"""MLflow's type of each kind of field."""


class LoadedVersion:
    """A version as MLflow's python function."""

    def __init__(self, model_set: ModelSet) -> None:
        self.model_set = model_set

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Predict jobs, each by those of the frame that had ended at its submission.

        Args:
            model_input: Jobs in the fields of ``jobs.schema``; outcomes may be missing.
            params: None are known.

        Returns:
            A row a job in the same order: job_id, the columns of each target, the answering
            cluster, and whether nothing of its owner had ended (``cold_start``).
        """
        jobs = conform(model_input.reset_index(drop=True))
        answers = predict_in_time(self.model_set, jobs[jobs["ended_at"].notna()], jobs)
        return answers.loc[jobs.index].round(DECIMALS).drop(columns="model_version")


def _load_pyfunc(path: str) -> LoadedVersion:
    """Load a version's folder, as ``mlflow.pyfunc`` calls it."""
    return LoadedVersion(ModelSet.load(Path(path)))


def write_mlmodel(folder: Path, evidence: Evidence) -> None:
    """Write ``MLmodel`` and ``input_example.json`` into the folder of a model set."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    # MLflow's type of times refuses those with a time zone.
    types = {**TYPES, "time": AnyType()}
    inputs = Schema(
        [ColSpec(types[field.kind], field.name, required=field.required) for field in FIELDS]
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
