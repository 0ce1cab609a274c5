"""The drift report: no alarm without change, the right one with it, unknown with few jobs."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jobs.schema import OF_KIND, conform
from jobs.workload import Change, generate
from monitoring.drift.effect_sizes import Sampling
from monitoring.drift.report import DriftReport, report
from monitoring.drift.verdict import judge, plain_text
from monitoring.drift.windows import comparable, compare_clusters, compare_columns, ended_jobs

Grid = Callable[..., pd.DataFrame]


def compare(reference: pd.DataFrame, current: pd.DataFrame) -> tuple[str, str, set[str]]:
    """The verdict, its sentence and what moved (columns, clusters), without drawing a page."""
    reference, current, sampling = ended_jobs(reference), ended_jobs(current), Sampling()
    columns = list(comparable(reference, current, sampling))
    findings = compare_columns(reference, current, columns, sampling) + compare_clusters(
        reference, current, sampling
    )
    moved = {finding.cluster or finding.column for finding in findings if finding.moved}
    return *judge(len(reference), len(current), findings), moved


@pytest.mark.parametrize("seed", range(3))
def test_identical_populations_of_100_000_jobs_do_not_cry_wolf(grid: Grid, seed: int) -> None:
    verdict, sentence, moved = compare(grid(100_000, seed), grid(100_000, seed + 100, day=20))
    assert (verdict, moved) == ("none", set())
    assert (
        sentence
        == "100,000 recent jobs differ from the training window by no more than is ordinary."
    )


@pytest.mark.parametrize("jobs", [100, 300, 2000])
def test_small_windows_of_the_same_population_do_not_either(grid: Grid, jobs: int) -> None:
    verdicts = [compare(grid(20_000, seed), grid(jobs, seed + 100, day=20))[0] for seed in range(4)]
    assert verdicts.count("none") == 4


def test_a_program_that_became_twice_as_slow_is_named(grid: Grid) -> None:
    recent = grid(20_000, 2, day=20)
    recent.loc[recent["program"] == "merge", "walltime"] *= 2
    verdict, sentence, moved = compare(grid(60_000, 1), recent)
    assert verdict == "local"
    assert moved == {"program=merge"}
    assert sentence.startswith(
        "1 single cluster moved, the whole did not: program=merge walltime has median 10"
    )
    assert "instead of 5" in sentence


def test_a_new_site_is_named(grid: Grid) -> None:
    recent = grid(20_000, 2, day=20)
    recent.loc[np.random.default_rng(0).random(len(recent)) < 0.15, "site"] = "newcomer"
    verdict, sentence, moved = compare(grid(60_000, 1), recent)
    assert (verdict, moved) == ("drift", {"site"})
    assert "newcomer has 15% instead of 0%" in sentence


def test_a_users_switch_of_program_shows_in_that_user(grid: Grid) -> None:
    recent = grid(60_000, 2, day=20)
    switched = recent["user"] == "u2"
    recent.loc[switched, "program"] = "simulate"
    recent.loc[switched, "walltime"] = np.random.default_rng(0).lognormal(
        8.5, 0.5, int(switched.sum())
    )
    assert "user=u2" in compare(grid(60_000, 1), recent)[2]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_generated_grid_is_quiet_until_a_site_is_planted(seed: int) -> None:
    # Tasks of hundreds of similar jobs: without permuting whole bursts every such log alarms.
    found = []
    for changes in ([], [Change("new_site", 20.0)]):
        jobs = generate(20_000, 30.0, seed, changes=changes).jobs
        day = (jobs["ended_at"] - jobs["submitted_at"].min()).dt.total_seconds() / 86400
        found.append(compare(jobs[day <= 20], jobs[(day > 22) & (day <= 29)]))
    assert found[0][0] == "none"
    assert found[1][0] == "drift"
    assert "site" in found[1][2]


def test_slower_everywhere_is_drift_of_the_walltime(grid: Grid) -> None:
    recent = grid(20_000, 2, day=20)
    recent["walltime"] *= 3
    verdict, _, moved = compare(grid(60_000, 1), recent)
    assert verdict == "drift"
    assert "walltime" in moved
    assert not moved & {"site", "group", "user", "program", "status", "requested_memory"}


def test_a_column_that_went_missing_is_named(grid: Grid) -> None:
    recent = grid(20_000, 2, day=20)
    recent["requested_memory"], recent["site"] = np.nan, None
    verdict, sentence, moved = compare(grid(60_000, 1), conform(recent))
    assert (verdict, moved) == ("drift", {"requested_memory", "site"})
    assert "requested_memory is missing in 100% of the jobs instead of 0%" in sentence


def test_an_outcome_is_compared_only_between_jobs_that_ended(grid: Grid) -> None:
    reference, recent = grid(20_000, 1), grid(5_000, 2, day=20)
    running = grid(5_000, 3, day=20).assign(
        ended_at=pd.NaT, walltime=np.nan, cpu_time=np.nan, status="running"
    )
    assert compare(reference, pd.concat([recent, running])) == compare(reference, recent)


@pytest.mark.parametrize(
    ("reference", "current", "sentence"),
    [
        (1000, 0, "Too few jobs to tell: 0 have ended since, and 100 are needed."),
        (1000, 1, "Too few jobs to tell: 1 have ended since, and 100 are needed."),
        (0, 1000, "Too few jobs to tell: the training window has 0, and 100 are needed."),
        (0, 0, "Too few jobs to tell: 0 have ended since, and 100 are needed."),
    ],
    ids=["nothing recent", "one recent job", "no training window", "nothing at all"],
)
def test_what_cannot_be_compared_gets_a_clear_verdict(
    grid: Grid, reference: int, current: int, sentence: str, tmp_path: Path
) -> None:
    found = report(grid(reference, 1), grid(current, 2, day=20), folder=tmp_path)
    assert (found.verdict, found.sentence, found.drifted, found.pages) == (
        "unknown",
        sentence,
        (),
        (),
    )
    assert found.measurements["name"].tolist() == ["verdict"]


def test_windows_with_every_column_missing_get_one_too(grid: Grid, tmp_path: Path) -> None:
    bare = [
        conform(grid(500, seed)[["job_id", "source", "submitted_at", "ended_at"]])
        for seed in (1, 2)
    ]
    found = report(*bare, folder=tmp_path)
    assert (found.verdict, found.sentence) == (
        "unknown",
        "No column holds enough values in both windows to be compared.",
    )


def test_constant_and_lopsided_columns_do_not_stop_the_report(grid: Grid, tmp_path: Path) -> None:
    reference, recent = grid(1000, 1), grid(1000, 2, day=20)
    reference["requested_cores"], recent["requested_cores"] = 1.0, 1.0
    reference["read_bytes"], recent["read_bytes"] = (
        0.0,
        np.where(np.arange(1000) < 30, 1e18, np.nan),
    )
    found = report(reference, recent, folder=tmp_path)
    assert found.drifted == ("read_bytes",)
    assert "read_bytes is missing in 97% of the jobs instead of 0%" in found.sentence


@pytest.fixture(scope="module")
def hostile(grid: Grid, tmp_path_factory: pytest.TempPathFactory) -> DriftReport:
    """A report on jobs whose names try to run as script, with predictions of two targets."""
    attack = "</script><script>document.title='taken over'</script><img src=http://127.0.0.1:9/x>"
    reference, recent = grid(30_000, 1), grid(15_000, 2, day=20)
    for jobs in (reference, recent):
        jobs["program"] = jobs["program"].replace("simulate", attack)
    recent.loc[recent["program"] == attack, "walltime"] *= 8
    random = np.random.default_rng(0)
    point = random.lognormal(6, 1, 400)
    answers = pd.DataFrame(
        {
            "target": ["walltime", "walltime", "walltime", "peak_memory"] * 100,
            "cluster": ["global", attack] * 200,
            "point": point,
            "low": point / 2,
            "high": point * 2,
            "actual": point * random.lognormal(0, 0.3, 400),
        }
    )
    folder = tmp_path_factory.mktemp("reports")
    return report(reference, recent, folder=folder, predictions=answers, about=attack)


def test_the_pages_load_nothing_and_hold_no_name_as_markup(hostile: DriftReport) -> None:
    assert [page.name.split("Z-")[1] for page in hostile.pages] == ["data.html", "predictions.html"]
    for page in hostile.pages:
        html = page.read_text(encoding="utf-8")
        assert not re.findall(
            r"<(?:script|img|iframe)[^>]*\ssrc=|<link\b[^>]*href=|@import|url\(\s*['\"]?(?!data:)",
            html.split("<body>")[0],
        )
        assert html.count("</script><script>document.title") == 0


def test_the_pages_open_in_a_browser_without_a_network(hostile: DriftReport) -> None:
    browser_path = shutil.which("chromium") or shutil.which("google-chrome")
    if browser_path is None:
        pytest.skip("no chromium here to open the pages with")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        context = browser.new_context(offline=True)
        for path, words in zip(
            hostile.pages,
            ("Dataset Drift is detected", "Regression Model Performance"),
            strict=True,
        ):
            page = context.new_page()
            asked: list[str] = []
            errors: list[str] = []
            page.on("request", lambda request, asked=asked: asked.append(request.url))
            page.on("pageerror", lambda error, errors=errors: errors.append(str(error)))
            page.goto(path.as_uri())
            page.get_by_text(words).first.wait_for()
            assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
            assert errors == []
            assert page.title() == ""
            assert hostile.sentence[:40] in page.inner_text(
                "body"
            ) or "beside their outcomes" in page.inner_text("body")
        browser.close()


def test_the_numbers_on_the_page_are_the_numbers_in_the_store(hostile: DriftReport) -> None:
    html = hostile.pages[0].read_text(encoding="utf-8")
    columns = hostile.measurements[
        (hostile.measurements["kind"] == "drift") & (hostile.measurements["segment"] == "all")
    ]
    columns = columns[columns["name"] != "verdict"]
    assert len(columns) >= 7
    for value in columns["value"]:
        assert f"{value:.6f}".rstrip("0") in html or f"{value:.4g}" in html


def test_predictions_are_measured_beside_their_outcomes(hostile: DriftReport) -> None:
    accuracy = hostile.measurements[hostile.measurements["kind"] == "accuracy"].set_index(
        ["name", "segment"]
    )["value"]
    assert accuracy["walltime answers", "all"] == 300
    assert 0.9 < accuracy["walltime coverage_90", "all"] <= 1
    assert 0.3 < accuracy["walltime under", "all"] < 0.7


def test_only_the_newest_pages_are_kept(grid: Grid, tmp_path: Path) -> None:
    other = tmp_path / "mine.html"
    other.write_text("a person's own page stays")
    for hour in (1, 2, 3):
        measured_at = pd.Timestamp("2026-01-01", tz="UTC") + pd.Timedelta(hours=hour)
        report(
            grid(300, 1),
            grid(300, 2, day=20),
            folder=tmp_path,
            measured_at=measured_at,
            keep=2,
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "2026-01-01T020000Z-data.html",
        "2026-01-01T030000Z-data.html",
        "mine.html",
    ]


def test_a_name_that_is_not_unicode_or_very_long_is_shown_all_the_same() -> None:
    assert plain_text("caf\udce9") == "caf?"
    assert plain_text("\x1b[31mred\nline") == "?[31mred?line"
    assert plain_text("x" * 500) == "x" * 59 + "…"


def test_every_number_of_the_schema_is_looked_at(grid: Grid) -> None:
    jobs = grid(300, 1)
    for name in OF_KIND["number"]:
        jobs[name] = np.random.default_rng(0).lognormal(5, 1, 300)
    assert {column.name for column in comparable(jobs, jobs, Sampling())} >= set(OF_KIND["number"])
