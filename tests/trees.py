"""Quickly trained models, for tests whose assertions are not about errors of prediction."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from models.refiner import boosting, selection

TREES = 15
REFINER_TREES = (3, 6, 9, 12)
"""How many trees of a refiner may answer, a fifth of the usual ones: fitting them takes the most."""


@contextmanager
def few_trees() -> Iterator[None]:
    """Let CatBoost's models that are fitted in this process have few trees."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in boosting.TREES:
            patch.setitem(boosting.TREES, kind, TREES)
        patch.setitem(boosting.BOOSTING, "iterations", REFINER_TREES[-1])
        shares = dict.fromkeys(share for share, _ in selection.REACHES)
        patch.setattr(selection, "TREES", REFINER_TREES)
        reaches = [(share, trees) for share in shares if share for trees in REFINER_TREES]
        patch.setattr(selection, "REACHES", ((0.0, REFINER_TREES[-1]), *reaches))
        yield


WITH_FEW_TREES = "import gridcast, tests.trees\nwith tests.trees.few_trees(): gridcast.main()"
"""A program for ``python -c``: the command line with few trees."""
