"""Snapshots of all that a forecaster learned, as plain arrays, for a quick restart."""

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
from models.histories.outcome_index import POOL, OutcomeIndex
from models.histories.point_levels import PointLevels
from models.histories.weights import WeightTables

ROOMS = ("engine", "histories", "quantities", "refiner", "past")
_POOL = ("available_at", "outcome_id", "log_bin_position", "value")
"""The arrays that have room to grow; only their used part is kept."""


@cache
def code_hash(root: Path = Path(__file__).parents[2]) -> str:
    """Hash the code that gives the arrays their meaning; snapshots of other code are not read."""
    files = [path for room in ROOMS for path in (root / "models" / room).glob("*.py")]
    files += [root / "jobs" / "coded_jobs.py", root / "jobs" / "schema.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


def snapshot_arrays(forecaster: Forecaster) -> dict[str, Array] | None:
    """Copy what ``forecaster`` learned; None while its levels are not final.

    The caller sees to it that nothing is learned meanwhile; predictions change nothing.
    """
    if not forecaster.levels_final:
        return None
    about = {
        "form": code_hash(),
        "version": forecaster.model_version,
        "levels": forecaster.levels.to_json(),
    }
    arrays = {"about": _as_bytes(about)}
    for name, predictor in forecaster.predictors.items():
        mixture, calibration = predictor.mixture, predictor.calibration
        index, tables = mixture.state
        for field, values in index._asdict().items():
            used = values[: index.used[POOL]] if field in _POOL else values
            arrays[f"{name}.lists.{field}"] = used.copy()
        for field, values in tables._asdict().items():
            arrays[f"{name}.tables.{field}"] = values.copy()
        arrays[f"{name}.sources"] = calibration.sources.copy()
        arrays[f"{name}.upto"] = calibration.upto.copy()
        arrays[f"{name}.below"] = calibration.below.copy()
        arrays[f"{name}.point_sources"] = calibration.points.sources.copy()
        arrays[f"{name}.point_sums"] = calibration.points.sums.copy()
        arrays[f"{name}.latest"] = np.array([mixture.latest_outcome_at])
    return arrays


def restore_snapshot(forecaster: Forecaster, arrays: Mapping[str, Array]) -> None:
    """Let a forecaster that has learned nothing yet resume from ``arrays``.

    Raises:
        ModelError: Where they do not fit; nothing is changed then.
    """
    try:
        about = json.loads(arrays["about"].tobytes())
        if (about["form"], about["version"]) != (code_hash(), forecaster.model_version):
            raise ModelError("the snapshot is another model's, or of another version of Gridcast")
        levels = Levels.from_json(about["levels"])
        states = {name: _state(arrays, name) for name in forecaster.names}
        calibrations = {
            name: Calibration(
                arrays[f"{name}.sources"],
                arrays[f"{name}.upto"],
                arrays[f"{name}.below"],
                points=PointLevels(arrays[f"{name}.point_sources"], arrays[f"{name}.point_sums"]),
            )
            for name in forecaster.names
        }
        latest = {name: int(arrays[f"{name}.latest"][0]) for name in forecaster.names}
    except (KeyError, ValueError, IndexError) as error:
        raise ModelError(f"the snapshot cannot be read: {error!r}") from None
    forecaster.resume(levels, states, calibrations, latest)


def _state(arrays: Mapping[str, Array], name: str) -> MixtureState:
    index = OutcomeIndex(
        **{field: arrays[f"{name}.lists.{field}"] for field in OutcomeIndex._fields}
    )
    return MixtureState(
        index,
        WeightTables(**{field: arrays[f"{name}.tables.{field}"] for field in WeightTables._fields}),
    )


def _as_bytes(value: dict[str, Any]) -> Array:
    return np.frombuffer(json.dumps(value).encode(), np.uint8)
