"""The model card: what a training was of, as it is stored, and as it was stored before."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pandas as pd
import pytest

from jobs.schema import conform
from jobs.workload import generate
from models.engine.model_card import CARD_VERSION, CardError, ModelCard
from models.engine.training import train


def test_a_card_survives_json_and_says_what_each_source_gave() -> None:
    jobs = generate(900, 6, 2).jobs
    old = jobs["submitted_at"] < jobs["submitted_at"].quantile(0.5)
    jobs.loc[old, "source"] = "old"
    card = train(conform(jobs), targets=("walltime", "cpu_time")).card

    text = json.dumps(card.to_json())
    assert json.dumps(ModelCard.from_json(json.loads(text)).to_json()) == text
    assert card.card_version == CARD_VERSION
    assert card.targets == ("walltime", "cpu_time")
    assert {name: data.jobs for name, data in card.by_source.items()} == {
        "generated": int((~old).sum()),
        "old": int(old.sum()),
    }
    assert card.trained_until("old") == jobs.loc[old, "ended_at"].max()
    assert card.trained_until("generated") == card.window.until
    assert card.trained_until("elsewhere") is None
    with pytest.raises(FrozenInstanceError):
        card.rows = 0  # type: ignore[misc]


def test_a_card_from_before_it_had_a_number_is_still_read() -> None:
    window = {"from": "2026-01-01T00:00:00", "until": "2026-01-09T00:00:00", "until_us": 10**15}
    card = ModelCard.from_json(
        {
            "created_at": "2026-02-01",
            "rows": 7,
            "window": window,
            "sources": ["grid"],
            "levels": ["user"],
            "cluster_by": None,
            "clusters": {"walltime": []},
            "no longer": "read",
        }
    )
    assert (card.card_version, card.rows, card.targets) == (1, 7, ("walltime",))
    assert card.trained_until("grid") == pd.Timestamp(10**15, unit="us", tz="UTC")
    assert card.trained_until("elsewhere") is None


@pytest.mark.parametrize("broken", [{}, {"window": None}, {"window": {"from": "", "until": ""}}])
def test_a_card_without_a_training_window_is_refused(broken: dict[str, object]) -> None:
    with pytest.raises(CardError, match="names no training window"):
        ModelCard.from_json(broken)
