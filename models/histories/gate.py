"""The gate adjusts component weights by what each level's history looks like, learned online.

A long history of repeated values deserves more weight, one without news less. The gate multiplies
weights by the exponential of a linear function of five facts and follows the gradient of the log
score (Adagrad; Duchi, Hazan and Singer 2011). Silence is measured between outcomes, not by the
clock, so a prediction changes only when something was learned.
"""

from __future__ import annotations

import numpy as np

from infra.compiled import compiled_in_place
from models.histories.blend import View
from models.histories.components import FACTS, Shape
from models.histories.outcome_index import OutcomeIndex, available_at
from models.histories.weights import WeightTables

LENGTH, SILENCE, SPREAD, REPEATS, SINGLE = range(FACTS)
"""Positions of the facts of a level."""
_PAIRS = 7
"""How many of the latest steps between outcomes are read."""
_MINUTE = 6e7
_MAX_EXPONENT = 8.0


@compiled_in_place
def compute_facts(index: OutcomeIndex, shape: Shape, view: View) -> None:
    """Compute the facts of each level's window into ``view.facts``.

    Args:
        index: The outcomes per key.
        shape: The sizes of the arrays.
        view: The working arrays of one job.
    """
    newest_of_all = view.ends[shape.everyone] - 1
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.starts[level], view.ends[level] - 1
        if count <= 0:
            continue
        facts = view.facts[level]
        pairs = min(count - 1, _PAIRS)
        distance, repeats = 0.0, 0.0
        for age in range(pairs):
            position = newest - age
            step = abs(index.log_bin_position[position] - index.log_bin_position[position - 1])
            distance += step
            repeats += 1.0 if step < 1.0 else 0.0
        silence = available_at(index, newest_of_all) - available_at(index, newest)
        facts[LENGTH] = np.log2(1.0 + count) / 6.0
        facts[SILENCE] = np.log2(1.0 + silence / _MINUTE) / 10.0
        facts[SPREAD] = np.log2(1.0 + distance / pairs / shape.steps) / 2.0 if pairs else 1.0
        facts[REPEATS] = repeats / pairs if pairs else 0.0
        facts[SINGLE] = 0.0 if pairs else 1.0


@compiled_in_place
def gate(tables: WeightTables, shape: Shape, view: View) -> None:
    """Multiply ``view.weights`` by what the gate has learned of histories with these facts.

    Args:
        tables: The learned tables.
        shape: The sizes of the arrays.
        view: The working arrays of one job; ``prior`` is scratch space.
    """
    per_level, exponents = len(shape.ages) * len(shape.spread), view.prior
    for level in range(len(view.slots)):
        has_outcomes, facts = view.ends[level] > view.starts[level], view.facts[level]
        for c in range(level * per_level, (level + 1) * per_level):
            exponent = 0.0
            if has_outcomes:
                for f in range(FACTS):
                    exponent += tables.slopes[c, f] * facts[f]
            exponents[c] = exponent
    for c in range(len(exponents)):
        # The exponential as (1 + t + t²/2! + … + t⁶/6!)^64, to 1e-8: this loop can be vectorised.
        t = min(max(exponents[c], -_MAX_EXPONENT), _MAX_EXPONENT) / 64.0
        rest = 1.0 / 6.0 + t * (1.0 / 24.0 + t * (1.0 / 120.0 + t * (1.0 / 720.0)))
        power = 1.0 + t * (1.0 + t * (0.5 + t * rest))
        power *= power
        power *= power
        power *= power
        power *= power
        power *= power
        view.weights[c] *= power * power


@compiled_in_place
def update_gate(tables: WeightTables, shape: Shape, view: View) -> None:
    """Take one gradient step: ``view.weights`` are responsibilities, ``view.prior`` the weights.

    Args:
        tables: The learned tables.
        shape: The sizes of the arrays.
        view: The working arrays of one job.
    """
    per_level = len(shape.ages) * len(shape.spread)
    for c in range(len(view.weights)):
        level = c // per_level
        if view.ends[level] > view.starts[level]:
            difference = view.weights[c] - view.prior[c]
            for f in range(FACTS):
                gradient = difference * view.facts[level, f]
                tables.squares[c, f] += gradient * gradient
                tables.slopes[c, f] += shape.gate * gradient / np.sqrt(tables.squares[c, f])
