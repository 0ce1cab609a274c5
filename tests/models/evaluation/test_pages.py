"""The page of a backtest: what it shows, that it loads nothing, and how a browser shows it."""

import re
from pathlib import Path
from typing import Any

import pytest

from jobs.workload import generate
from models.evaluation.backtest import Evaluation, evaluate
from models.evaluation.pages import allocation_page, evaluation_page, task_page
from models.quantities.targets import TARGETS

SENTENCE = "Gridcast's error is <less>."


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    jobs = generate(1500, 40, 3).jobs
    return evaluate(jobs, TARGETS["walltime"], predictors=["gridcast", "request", "median-10"])


@pytest.fixture(scope="module")
def page(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "new"
    return evaluation_page(folder / "page.html", "walltime of a <log>", SENTENCE, evaluation)


def test_the_page_has_its_charts_and_tables_and_loads_nothing(
    page: Path, evaluation: Evaluation
) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<h1>walltime of a &lt;log&gt;</h1>" in text
    assert '<p class="lead">Gridcast&#x27;s error is &lt;less&gt;.</p>' in text
    assert text.count("<svg ") == text.count("</svg>") == 6
    assert not re.search(r"https?://|<script|src=", text)
    names = {row["predictor"] for row in evaluation.rows}
    assert all(f"<td>{name}</td>" in text for name in names)
    assert f"<td>{evaluation.rows[0]['jobs']:,}</td>" in text


def test_charts_have_no_name_twice(page: Path) -> None:
    names = re.findall(r' id="([^"]+)"', page.read_text(encoding="utf-8"))
    assert len(names) == len(set(names))


def test_other_backtests_have_pages_too(tmp_path: Path) -> None:
    rows = [
        {"policy": name, "waste_gbh": waste, "failures": 2, "failed_jobs": 1, "cold_waste_gbh": 0.5}
        for name, waste in (("request", 4000.0), ("gridcast", 2000.0))
    ]
    text = allocation_page(tmp_path / "a.html", "Memory", "Half.", rows).read_text()
    assert text.count("<svg ") == 2 and "<td>4,000</td>" in text
    rows = [
        {
            "predictor": name,
            "progress": share,
            "tasks": 9,
            "mae_hours": 3.0 - share,
            "median_ae_hours": 1.0,
            "coverage_90": 0.9 if name == "gridcast" else None,
        }
        for name in ("rate", "gridcast")
        for share in (0.1, 0.5)
    ]
    text = task_page(tmp_path / "t.html", "Tasks", "Well.", rows, []).read_text()
    assert text.count("<svg ") == 2 and "<td>50.0%</td>" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_a_browser_shows_it_at_its_width_and_axe_finds_no_fault(
    page: Path, browser: Any, scheme: str, width: int
) -> None:
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed"
    ).Axe()
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    tab = context.new_page()
    requests = list[str]()
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(page.as_uri())
    assert {url.partition(":")[0] for url in requests} <= {"file", "data"}
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    ink, paper = (
        int(tab.evaluate(f"getComputedStyle(document.body).{name}.match(/[0-9]+/)[0]"))
        for name in ("color", "backgroundColor")
    )
    assert (ink < paper) == (scheme == "light")
    assert [fault["id"] for fault in axe.run(tab).response["violations"]] == []
    context.close()
