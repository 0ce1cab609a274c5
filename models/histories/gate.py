"""The gate: what each level's history looks like, and how far its components are trusted for it, learned as jobs end (compiled).

A long history whose values repeat deserves trust, one that has heard nothing for long does not. The gate multiplies the weights
of components by the exponential of a linear function of such facts, which follows the gradient of the log score (Adagrad; Duchi,
Hazan and Singer 2011). Time is told by news: how long a history has been silent while others heard of jobs that ended, so that a
prediction changes only when something was learned.
"""

from __future__ import annotations

import numpy as np

from infra.compiled import compiled
from models.histories.blend import View
from models.histories.components import FACTS, Shape
from models.histories.outcome_index import OutcomeIndex
from models.histories.weights import WeightTables

_PAIRS = 7
"""How many of the latest steps from outcome to outcome are looked at."""
_MINUTE = 6e7
_STEEPEST = 8.0
"""The gate changes a weight by no more than this power of e."""


@compiled
def note_facts(lists: OutcomeIndex, shape: Shape, view: View) -> None:
    """Into view.facts, a level: its length, its silence, how far its outcomes lie apart, how often they repeat, whether it is one alone."""
    now = view.ends[shape.everyone] - 1
    for level in range(len(view.slots)):
        count, newest, facts = (
            view.ends[level] - view.firsts[level],
            view.ends[level] - 1,
            view.facts[level],
        )
        if count <= 0:
            continue
        pairs = min(count - 1, _PAIRS)
        moved, same = 0.0, 0.0
        for age in range(pairs):
            step = abs(
                lists.log_bin_position[newest - age] - lists.log_bin_position[newest - age - 1]
            )
            moved += step
            same += 1.0 if step < 1.0 else 0.0
        facts[0] = np.log2(1.0 + count) / 6.0
        facts[1] = (
            np.log2(1.0 + (lists.available_at[now] - lists.available_at[newest]) / _MINUTE) / 10.0
        )
        facts[2] = np.log2(1.0 + moved / pairs / shape.steps) / 2.0 if pairs else 1.0
        facts[3] = same / pairs if pairs else 0.0
        facts[4] = 0.0 if pairs else 1.0


@compiled
def gate(tables: WeightTables, shape: Shape, view: View) -> None:
    """Multiply view.weights by what the gate has learned about histories like these."""
    each = len(shape.ages) * len(shape.spread)
    for c in range(len(view.weights)):
        level = c // each
        if view.ends[level] > view.firsts[level]:
            total = 0.0
            for f in range(FACTS):
                total += tables.slopes[c, f] * view.facts[level, f]
            view.weights[c] *= np.exp(min(max(total, -_STEEPEST), _STEEPEST))


@compiled
def learn_gate(tables: WeightTables, shape: Shape, view: View) -> None:
    """One step up the log score of an outcome: view.weights are the components' shares in it, view.prior their weights before."""
    each = len(shape.ages) * len(shape.spread)
    for c in range(len(view.weights)):
        level = c // each
        if view.ends[level] > view.firsts[level]:
            gap = view.weights[c] - view.prior[c]
            for f in range(FACTS):
                steep = gap * view.facts[level, f]
                tables.travelled[c, f] += steep * steep
                tables.slopes[c, f] += shape.gate * steep / np.sqrt(tables.travelled[c, f])
