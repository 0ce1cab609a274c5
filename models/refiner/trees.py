"""CatBoost's oblivious trees as arrays, evaluated with softmax and factors in one pass a row.

An oblivious tree asks the same question, whether an input exceeds a border, at all nodes of a
depth, so the answers are the bits of the leaf's number (Prokhorenkova et al. 2018).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled
from infra.lanes import load_8, multiply_add, repeat_8, store, zeros

_LANES, _ROWS = 8, 16
"""Numbers of a vector, and rows whose leaves are found at once."""
_NEGLIGIBLE = 1e-300
_LEAST_EXPONENT = -50.0


class Trees(NamedTuple):
    """A classifier's trees."""

    missing: Array  # float32[inputs], what stands for NaN
    column: Array  # int64[splits], the input of each
    border: Array  # float32[splits]
    step: Array  # int32[splits], how far the leaf moves in ``leaves`` where the border is exceeded
    first_split: Array  # int64[trees + 1]
    first_leaf: Array  # int32[trees], the position in ``leaves`` of each tree's first
    leaves: Array  # float64[leaves, classes rounded up to whole vectors]
    bias: Array  # float64[classes rounded up to whole vectors]


def read_trees(model: Any, classes: int) -> Trees | None:
    """Return the trees of a CatBoost classifier, None for a model of another kind.

    Args:
        model: A fitted CatBoost model.
        classes: How many classes it has.
    """
    with tempfile.TemporaryDirectory(prefix="gridcast-trees-") as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        text = json.loads(path.read_text(encoding="utf-8"))
    trees = text.get("oblivious_trees")
    if not trees:
        return None
    splits = [split for tree in trees for split in tree["splits"] or ()]
    if any(split["split_type"] != "FloatFeature" for split in splits):
        return None
    scale, bias = text["scale_and_bias"]
    if len(bias) != classes or classes < 3:
        return None
    width = -(-classes // _LANES) * _LANES
    values = [np.reshape(tree["leaf_values"], (-1, classes)) for tree in trees]
    depths = [len(tree["splits"] or ()) for tree in trees]
    leaves, padded_bias = zeros(sum(1 << depth for depth in depths), width), zeros(width)
    leaves[:, :classes] = scale * np.concatenate(values)
    padded_bias[:classes] = bias
    first_leaf = width * np.cumsum([0, *(1 << depth for depth in depths[:-1])])
    features = text["features_info"]["float_features"]
    missing = [np.inf if item["nan_value_treatment"] == "AsTrue" else -np.inf for item in features]
    return Trees(
        missing=np.array(missing, np.float32),
        column=np.array([split["float_feature_index"] for split in splits], np.int64),
        border=np.array([split["border"] for split in splits], np.float32),
        step=np.concatenate([width << np.arange(depth) for depth in depths]).astype(np.int32),
        first_split=np.cumsum([0, *depths]),
        first_leaf=first_leaf.astype(np.int32),
        leaves=leaves,
        bias=padded_bias,
    )


def first_trees(trees: Trees, count: int) -> Trees:
    """Return the first ``count`` trees, as of a model that was shrunk to them."""
    splits, end = trees.first_split[count], len(trees.leaves)
    if count < len(trees.first_leaf):
        end = int(trees.first_leaf[count]) // len(trees.bias)
    return trees._replace(
        column=trees.column[:splits],
        border=trees.border[:splits],
        step=trees.step[:splits],
        first_split=trees.first_split[: count + 1],
        first_leaf=trees.first_leaf[:count],
        leaves=trees.leaves[:end],
    )


@compiled
def ratios(
    trees: Trees, inputs: Array, coarse: Array, classes: Array, share: float, out: Array
) -> None:
    """Compute the factors of coarse masses; see ``CatBoostRefiner.ratio``.

    Args:
        trees: The trees.
        inputs: float32[n, inputs].
        coarse: float64[n, coarse bins].
        classes: The coarse bin of each class (int64[classes]).
        share: As in ``CatBoostRefiner``.
        out: Receives the factors (float64[n, coarse bins]).
    """
    count, width = len(trees.first_leaf), len(trees.bias)
    values = np.empty((len(trees.missing), _ROWS), np.float32)
    leaf, raw = np.empty((count, _ROWS), np.int32), np.empty(width)
    for start in range(0, len(inputs), _ROWS):
        rows = min(_ROWS, len(inputs) - start)
        for row in range(rows):
            for i in range(len(values)):
                value = inputs[start + row, i]
                values[i, row] = trees.missing[i] if np.isnan(value) else value
        _find_leaves(trees, values, leaf)
        for row in range(rows):
            for lane in range(0, width, _LANES):
                total = load_8(trees.bias, lane)
                for tree in range(count):
                    leaves = load_8(trees.leaves, leaf[tree, row] + lane)
                    total = multiply_add(leaves, repeat_8(1.0), total)
                store(raw, lane, total)
            _factors(raw, coarse[start + row], classes, share, out[start + row])


@compiled
def _find_leaves(trees: Trees, values: Array, leaf: Array) -> None:
    """Find the position of each tree's leaf in ``Trees.leaves`` for _ROWS rows at once.

    Args:
        trees: The trees.
        values: float32[inputs, _ROWS].
        leaf: Receives the positions (int32[trees, _ROWS]).
    """
    for tree in range(len(leaf)):
        leaf[tree, :] = trees.first_leaf[tree]
        for split in range(trees.first_split[tree], trees.first_split[tree + 1]):
            column, border, step = trees.column[split], trees.border[split], trees.step[split]
            for row in range(_ROWS):
                leaf[tree, row] += step if values[column, row] > border else np.int32(0)


@compiled
def _factors(raw: Array, coarse: Array, classes: Array, share: float, out: Array) -> None:
    """Compute the factors of one row from its classes' logarithmic factors, which it changes."""
    most = raw[0]
    for c in range(1, len(classes)):
        most = max(most, raw[c])
    for c in range(len(raw)):
        # The exponential as (1 + t + t²/2! + … + t⁶/6!)^1024, to 1e-9: it can be vectorised.
        t = max(raw[c] - most, _LEAST_EXPONENT) / 1024.0
        rest = 1.0 / 6.0 + t * (1.0 / 24.0 + t * (1.0 / 120.0 + t * (1.0 / 720.0)))
        power = 1.0 + t * (1.0 + t * (0.5 + t * rest))
        for _ in range(10):
            power *= power
        raw[c] = power
    before, after = 0.0, 0.0
    for c in range(len(classes)):
        mass = coarse[classes[c]]
        before += mass
        after += mass * raw[c]
    scale = share * before / max(after, _NEGLIGIBLE)
    for k in range(len(out)):
        out[k] = 1.0
    for c in range(len(classes)):
        if coarse[classes[c]] > 0:
            out[classes[c]] = raw[c] * scale + 1.0 - share
