"""Model sets: what training makes, as one folder that can be checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.checksums import digest
from infra.errors import GridcastError
from models.engine.model_card import ModelCard
from models.histories.calibration import Calibration
from models.histories.components import MixtureSettings
from models.histories.features import Levels
from models.histories.weights import LearnedWeights
from models.quantities.targets import TARGETS
from models.refiner.clusters import Clusters, answering_clusters
from models.refiner.refinement import Refiner

FORMAT = 2
MANIFEST = "manifest.json"
NO_MODEL = "none"


class ModelError(GridcastError):
    """A model set cannot be used; the message is one sentence that says why."""


class FormatError(ModelError):
    """A model set is of another version of Gridcast, which wrote another format."""


@dataclass(frozen=True)
class TargetModel:
    """One target of a model set: the mixture's weights, refiners by cluster, and calibration.

    ``sample`` has the refiners' inputs of some training jobs (float32[n, m]), of which a training
    explains its refiners; it is not saved.
    """

    target: str
    settings: MixtureSettings
    learned: LearnedWeights
    calibration: Calibration
    refiners: Mapping[str, Refiner] = field(default_factory=dict)
    sample: Array | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ModelSet:
    """The models of all targets, the levels and clusters they share, and their card."""

    card: ModelCard
    levels: Levels
    clusters: Clusters
    targets: dict[str, TargetModel]

    @property
    def version(self) -> str:
        """The version under which the set is registered, or when it was made."""
        return self.card.version or self.card.created_at or NO_MODEL

    def answering_clusters(self, clusters: Array) -> Array:
        """Whose refiner answers jobs of ``clusters`` (object[n]): their own, or the global one."""
        own = {name for model in self.targets.values() for name in model.refiners}
        return answering_clusters(clusters, own)

    def save(self, folder: Path) -> None:
        """Write JSON, Parquet and .cbm files into ``folder``, and a manifest with their SHA-256."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, model in self.targets.items():
            learned = pd.DataFrame({"key": model.learned.keys, "shares": list(model.learned.rows)})
            learned.to_parquet(folder / f"{name}.weights.parquet", compression="zstd", index=False)
            parts = {
                "settings": model.settings.__dict__,
                "facts": model.learned.facts.tolist(),
                "gate": [model.learned.slopes.tolist(), model.learned.squares.tolist()],
                "calibration": model.calibration.to_json(),
                "refiners": {
                    cluster: {"file": f"{name}.{number}.cbm", "share": refiner.share}
                    for number, (cluster, refiner) in enumerate(model.refiners.items())
                },
            }
            (folder / f"{name}.json").write_text(json.dumps(parts))
            for number, refiner in enumerate(model.refiners.values()):
                refiner.save(folder / f"{name}.{number}.cbm")
        head = {
            "format": FORMAT,
            "levels": self.levels.to_json(),
            "clusters": self.clusters.to_json(),
            "targets": list(self.targets),
        }
        (folder / "model_set.json").write_text(json.dumps(head))
        (folder / "card.json").write_text(json.dumps(self.card.to_json(), indent=1))
        files = sorted(
            path for path in folder.iterdir() if path.is_file() and path.name != MANIFEST
        )
        (folder / MANIFEST).write_text(
            json.dumps({path.name: digest(path) for path in files}, indent=1)
        )

    @staticmethod
    def load(folder: Path) -> ModelSet:
        """Read a set; raises ModelError when a file is missing, changed or of another format."""
        check_manifest(folder)
        try:
            head = json.loads((folder / "model_set.json").read_text())
            if head["format"] != FORMAT:
                raise FormatError(
                    f"the model in {folder} has format {head['format']}, "
                    f"this Gridcast reads format {FORMAT}"
                )
            card = ModelCard.from_json(json.loads((folder / "card.json").read_text()))
            targets = {name: _load_target(folder, name) for name in head["targets"]}
            return ModelSet(
                card,
                Levels.from_json(head["levels"]),
                Clusters.from_json(head["clusters"]),
                targets,
            )
        except (KeyError, ValueError, TypeError, OSError) as error:
            raise ModelError(f"the model in {folder} cannot be read: {error!r}") from None


def check_manifest(folder: Path) -> None:
    """Raise ModelError unless each file of ``folder`` is as its manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        raise ModelError(f"there is no model in {folder}: it has no readable {MANIFEST}") from None
    for name, expected in manifest.items():
        if not (folder / name).is_file():
            raise ModelError(f"the model in {folder} lacks its file {name}")
        if digest(folder / name) != expected:
            raise ModelError(
                f"the file {name} of the model in {folder} is not the one that was saved: "
                "its SHA-256 differs"
            )


def _load_target(folder: Path, name: str) -> TargetModel:
    from models.refiner.boosting import load_refiner

    if name not in TARGETS:
        raise ModelError(
            f"the model in {folder} predicts {name}, which this Gridcast does not know"
        )
    parts = json.loads((folder / f"{name}.json").read_text())
    table = pd.read_parquet(folder / f"{name}.weights.parquet")
    rows = np.array(table["shares"].tolist(), dtype=np.float32)
    learned = LearnedWeights(
        table["key"].to_numpy(np.uint64),
        rows,
        np.array(parts["facts"], dtype=np.float64),
        *np.array(parts["gate"]),
    )
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in parts["settings"].items()
    }
    refiners: dict[str, Refiner] = {
        cluster: load_refiner(folder / entry["file"], float(entry["share"]))
        for cluster, entry in parts["refiners"].items()
    }
    return TargetModel(
        name,
        MixtureSettings(**fields),
        learned,
        Calibration.from_json(parts["calibration"]),
        refiners,
    )
