"""Snapshots of all that a forecaster learned, as plain arrays, for a quick restart."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from infra.aliases import Array
from infra.mapped_arrays import StoredArray
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelError
from models.histories.calibration import Calibration
from models.histories.features import Levels
from models.histories.mixture import MixtureState
from models.histories.outcome_index import OutcomeIndex, stored_sizes
from models.histories.point_levels import PointLevels
from models.histories.weights import WeightTables

ROOMS = ("engine", "histories", "quantities", "refiner", "past")

SUMS = "sums"
"""Before the names of arrays of what shards exchange."""


@cache
def code_hash(root: Path = Path(__file__).parents[2]) -> str:
    """Hash the code that gives the arrays their meaning; snapshots of other code are not read."""
    files = [path for room in ROOMS for path in (root / "models" / room).glob("*.py")]
    files += [root / "jobs" / "coded_jobs.py", root / "jobs" / "schema.py"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files))).hexdigest()[:16]


def describe_snapshot(forecaster: Forecaster) -> dict[str, Any] | None:
    """Return whose a snapshot is, as JSON; None while the forecaster's levels are not final."""
    if not forecaster.levels_final:
        return None
    return {
        "form": code_hash(),
        "version": forecaster.model_version,
        "shard": str(forecaster.shard or ""),
        "levels": forecaster.levels.to_json(),
    }


def snapshot_target(forecaster: Forecaster, name: str) -> dict[str, StoredArray]:
    """Copy what the predictor of one target learned.

    Nothing may be learned meanwhile. Between two targets it may: what is learned again after a
    restart changes nothing.
    """
    predictor = forecaster.predictors[name]
    calibration, (index, tables) = predictor.calibration, predictor.mixture.state
    sizes = stored_sizes(index)
    arrays = {
        f"lists.{field}": (values, *sizes.get(field, (len(values), len(values))))
        for field, values in index._asdict().items()
    }
    for field, values in tables._asdict().items():
        used = int(tables.used[0]) if field in ("row_key", "rows", "updates") else len(values)
        arrays[f"tables.{field}"] = values, used, len(values)
    for field, values in {
        "sources": calibration.sources,
        "upto": calibration.upto,
        "below": calibration.below,
        "point_sources": calibration.points.sources,
        "point_sums": calibration.points.sums,
        "latest": np.array([predictor.mixture.latest_outcome_at]),
    }.items():
        arrays[field] = values, len(values), len(values)
    if name in forecaster.sums:
        for field, values in forecaster.sums[name].to_arrays().items():
            arrays[f"{SUMS}.{field}"] = values, len(values), len(values)
    return {
        f"{name}.{field}": StoredArray(values[:used].copy(), rows)
        for field, (values, used, rows) in arrays.items()
    }


def restore_snapshot(
    forecaster: Forecaster, about: dict[str, Any], arrays: Mapping[str, Array]
) -> None:
    """Let a forecaster that has learned nothing yet resume from a snapshot.

    Args:
        forecaster: Of the same model.
        about: Whose it is.
        arrays: With the unused room; they are used, not copied.

    Raises:
        ModelError: Where they do not fit; nothing is changed then.
    """
    try:
        own = (code_hash(), forecaster.model_version, str(forecaster.shard or ""))
        if (about["form"], about["version"], about["shard"]) != own:
            raise ModelError("the snapshot is of another model, version of Gridcast or shard")
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
        read_sums = {
            name: {
                field.removeprefix(f"{name}.{SUMS}."): values
                for field, values in arrays.items()
                if field.startswith(f"{name}.{SUMS}.")
            }
            for name in forecaster.sums
        }
        latest = {name: int(arrays[f"{name}.latest"][0]) for name in forecaster.names}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ModelError(f"the snapshot cannot be read: {error!r}") from None
    forecaster.resume(levels, states, calibrations, latest)
    for name, sums in forecaster.sums.items():
        sums.resume(read_sums[name])


def _state(arrays: Mapping[str, Array], name: str) -> MixtureState:
    index = OutcomeIndex(
        **{field: arrays[f"{name}.lists.{field}"] for field in OutcomeIndex._fields}
    )
    return MixtureState(
        index,
        WeightTables(**{field: arrays[f"{name}.tables.{field}"] for field in WeightTables._fields}),
    )
