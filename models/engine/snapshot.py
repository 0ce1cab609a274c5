"""Snapshots: all that a forecaster learned from ended jobs as plain arrays, so that a restart need not learn a whole log again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from infra.aliases import Array
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelError
from models.histories.calibration import Calibration
from models.histories.features import Levels
from models.histories.mixture import MixtureState
from models.histories.outcome_index import OutcomeIndex
from models.histories.weights import WeightTables

_POOL = ("available_at", "outcome_id", "log_bin_position", "value")


ROOMS = ("engine", "histories", "quantities", "refiner", "past")


@cache
def form(root: Path = Path(__file__).parents[2]) -> str:
    """What the arrays mean, as a hash of the code that makes them: those of another version of Gridcast are not read."""
    files = [path for room in ROOMS for path in (root / "models" / room).glob("*.py")]
    files += [root / "jobs" / "coded_jobs.py", root / "jobs" / "schema.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


def arrays_of(forecaster: Forecaster) -> dict[str, Array] | None:
    """A copy of what ``forecaster`` learned; None while it has seen too few jobs to choose its levels for good.

    Who calls it sees to it that nothing is learned meanwhile; answers change nothing, and go on.
    """
    if not forecaster.levels_final:
        return None
    found = {
        "about": _text(
            {
                "form": form(),
                "version": forecaster.model_version,
                "levels": forecaster.levels.to_json(),
            }
        )
    }
    for name, mixture in forecaster.mixtures.items():
        lists, tables = mixture.state
        for field, values in lists._asdict().items():
            found[f"{name}.lists.{field}"] = (
                values[: lists.used[1]].copy() if field in _POOL else values.copy()
            )
        found |= {
            f"{name}.tables.{field}": values.copy() for field, values in tables._asdict().items()
        }
        calibration = forecaster.predictors[name].calibration
        found |= {
            f"{name}.upto": calibration.upto.copy(),
            f"{name}.below": calibration.below.copy(),
        }
        found[f"{name}.latest"] = np.array([mixture.latest_outcome_at])
    return found


def put_back(forecaster: Forecaster, arrays: Mapping[str, Array]) -> None:
    """Let a forecaster that has learned nothing yet go on from ``arrays``; raises ModelError where they do not fit, and changes nothing."""
    try:
        about = json.loads(arrays["about"].tobytes())
        if (about["form"], about["version"]) != (form(), forecaster.model_version):
            raise ModelError("the snapshot is another model's, or of another version of Gridcast")
        levels = Levels.from_json(about["levels"])
        states = {name: _state(arrays, name) for name in forecaster.names}
        calibrations = {
            name: Calibration(arrays[f"{name}.upto"], arrays[f"{name}.below"])
            for name in forecaster.names
        }
        latest = {name: int(arrays[f"{name}.latest"][0]) for name in forecaster.names}
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"the snapshot cannot be read: {error!r}") from None
    forecaster.resume(levels, states, calibrations, latest)


def _state(arrays: Mapping[str, Array], name: str) -> MixtureState:
    lists = OutcomeIndex(
        **{field: arrays[f"{name}.lists.{field}"] for field in OutcomeIndex._fields}
    )
    return MixtureState(
        lists,
        WeightTables(**{field: arrays[f"{name}.tables.{field}"] for field in WeightTables._fields}),
    )


def _text(value: dict[str, Any]) -> Array:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
