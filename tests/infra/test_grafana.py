"""The dashboard asks for the metrics that there are, and shows each of them."""

import json
import re
from pathlib import Path

import pytest

DASHBOARD = Path(__file__).parents[2] / "infra" / "grafana" / "predictor.json"


@pytest.fixture(scope="module")
def expressions() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_every_metric_of_the_predictor_is_shown_and_no_other_is_asked_for(
    expressions: list[str],
) -> None:
    declared = (Path(__file__).parents[2] / "services" / "http" / "metrics.py").read_text()
    metrics = set(re.findall(r'"(gridcast_\w+)"', declared))
    queries = {
        re.sub(r"_bucket$", "", name)
        for expression in expressions
        for name in re.findall(r"gridcast_\w+", expression)
    }
    assert queries == metrics


def test_every_expression_is_of_the_chosen_predictors(expressions: list[str]) -> None:
    for expression in expressions:
        series = re.findall(r"gridcast_\w+(\{[^}]*\})?", expression)
        assert all('instance=~"$instance"' in labels for labels in series), expression


def test_no_two_panels_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        position = panel["gridPos"]
        cells = {
            (position["x"] + x, position["y"] + y)
            for x in range(position["w"])
            for y in range(position["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
