"""Quickly trained models, for tests whose assertions are not about errors of prediction."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from models.refiner import boosting

TREES = 15


@contextmanager
def few_trees() -> Iterator[None]:
    """Let CatBoost's models that are fitted in this process have few trees."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in boosting.TREES:
            patch.setitem(boosting.TREES, kind, TREES)
        yield
