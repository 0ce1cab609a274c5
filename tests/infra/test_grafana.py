"""The boards query the metrics that there are, and show each of them."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from monitoring.tasks.latest_tasks import LatestTasks
from services.dashboard.metrics import metrics

BOARDS = Path(__file__).parents[2] / "infra" / "grafana"
PREDICTOR, SITE = BOARDS / "predictor.json", BOARDS / "site.json"


def expressions(board: Path) -> list[str]:
    content = json.loads(board.read_text())
    queries = [target["expr"] for panel in content["panels"] for target in panel["targets"]]
    return queries + [item["expr"] for item in content.get("annotations", {}).get("list", ())]


def queried(board: Path) -> set[str]:
    names = re.findall(r"gridcast_\w+", " ".join(expressions(board)))
    return {re.sub(r"_bucket$", "", name) for name in names}


def test_every_metric_of_the_predictor_is_shown_and_no_other_is_asked_for() -> None:
    declared = (Path(__file__).parents[2] / "services" / "http" / "metrics.py").read_text()
    assert queried(PREDICTOR) == set(re.findall(r'"(gridcast_\w+)"', declared))


def test_every_metric_of_the_page_is_shown_and_no_other_is_asked_for(tmp_path: Path) -> None:
    text = metrics(LatestTasks(Settings(home=tmp_path).folder("tasks"))).decode()
    assert queried(SITE) == set(re.findall(r"# TYPE (\w+)", text))


@pytest.mark.parametrize("board", [PREDICTOR, SITE], ids=lambda board: board.stem)
def test_every_expression_is_of_the_chosen_predictors(board: Path) -> None:
    for expression in expressions(board):
        series = re.findall(r"gridcast_\w+(\{[^}]*\})?", expression)
        assert all('instance=~"$instance"' in labels for labels in series), expression


@pytest.mark.parametrize("board", [PREDICTOR, SITE], ids=lambda board: board.stem)
def test_no_two_panels_overlap(board: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(board.read_text())["panels"]:
        position = panel["gridPos"]
        cells = {
            (position["x"] + x, position["y"] + y)
            for x in range(position["w"])
            for y in range(position["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_promotions_are_annotations() -> None:
    (annotation,) = json.loads(SITE.read_text())["annotations"]["list"]
    assert "gridcast_promoted_timestamp_seconds" in annotation["expr"]
    assert annotation["useValueForTime"] == "on" and annotation["enable"]


def test_each_board_has_an_address_of_its_own() -> None:
    boards: list[dict[str, Any]] = [json.loads(path.read_text()) for path in (PREDICTOR, SITE)]
    assert len({board["uid"] for board in boards}) == 2
    for board in boards:
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
