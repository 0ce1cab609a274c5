"""Clusters are found by what was known before they are judged."""

import numpy as np

from models.refiner.selection import before_windows


def test_clusters_are_found_by_what_ended_before_their_windows():
    assert before_windows(np.arange(100), 100).tolist() == list(range(40))
    assert before_windows(np.arange(100), 50).tolist() == list(range(70))
    assert before_windows(np.arange(0), 50).tolist() == []
