"""What the page's views are made of: changes, slow jobs, errors, problems, words, and orders."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine

from infra.settings import Settings
from jobs.schema import conform
from jobs.store import add_jobs, add_measurements, add_predictions, open_store
from models.releases.benchmark import DIGEST_TAG, Benchmark
from models.releases.versions import Version
from monitoring.site_status import Accuracy, Collection, SiteStatus, Verdict
from services.dashboard import jobs, models_overview, overview, tasks
from services.dashboard.models_overview import Registered
from services.dashboard.values import hours_of, sort_rows
from services.http.errors import HTTPError

NOW = datetime(2026, 1, 2, tzinfo=UTC)
START = pd.Timestamp("2026-01-01", tz="UTC")


def hours(*numbers: float) -> list[pd.Timestamp]:
    return [START + pd.Timedelta(hours=number) for number in numbers]


def history(**columns: list[Any]) -> pd.DataFrame:
    count = len(columns["asked_at"])
    usual: dict[str, list[Any]] = {
        "median": hours(*[10.0] * count),
        "state": ["normal"] * count,
        "ended": [0.0] * count,
        "failed": [0.0] * count,
        "reasons": [[]] * count,
    }
    return pd.DataFrame({**usual, **columns})


def test_changes_are_named_with_their_cause_and_small_moves_are_not() -> None:
    rows = history(
        asked_at=hours(0, 1, 2, 3),
        median=[*hours(10, 10.5, 14), pd.NaT],
        state=["normal", "normal", "late", "stalled"],
        ended=[0.0, 2.0, 3.0, 3.0],
        failed=[0.0, 0.0, 1.0, 1.0],
        reasons=[[], [], ["site a: 1 of 1 jobs failed"], ["nothing has happened since noon"]],
    )
    latest, first = tasks.changes(rows)
    assert first["moved"] == 3.5 * 3600
    assert first["why"] == (
        "normal became late; 1 job ended in 1.0 h, 1 failed; site a: 1 of 1 jobs failed"
    )
    assert latest["moved"] is None and latest["why"].startswith("late became stalled")
    assert latest["why"].endswith("nothing has happened since noon")


def of_task(walltimes: list[float | None]) -> pd.DataFrame:
    """Jobs of a task on one host that all started at START; those without a walltime run."""
    ended = [pd.NaT if hour is None else START + pd.Timedelta(hours=hour) for hour in walltimes]
    return conform(
        pd.DataFrame(
            {
                "job_id": [f"j{number}" for number in range(len(walltimes))],
                "source": "made",
                "task_id": "t",
                "site": "a",
                "host": "a-1",
                "user": "ada",
                "submitted_at": START,
                "started_at": START,
                "ended_at": pd.Series(ended, dtype="datetime64[us, UTC]"),
                "status": ["running" if hour is None else "failed" for hour in walltimes],
            }
        )
    )


def store_task(engine: Engine, walltimes: list[float | None]) -> pd.Series:
    """Store such a task; the row that the task watch gives of it."""
    with engine.begin() as connection:
        add_jobs(connection, of_task(walltimes))
    row = {
        "kind": "task",
        "source": "made",
        "task": "t",
        "owner": "ada",
        "group": "",
        "members": None,
    }
    return pd.Series({**row, "defined_at": START, "asked_at": pd.Timestamp(NOW)})


def test_a_job_beyond_its_predicted_range_is_slow_and_without_one_beyond_its_siblings(
    sqlite_store: Engine,
) -> None:
    row = store_task(sqlite_store, [1.0, 1.0, 1.5, 5.0, None])
    frame = pd.DataFrame([row]).assign(state="normal")
    found = tasks.task(sqlite_store, frame, "t", {"sort": "-hours", "size": "2"})
    slow = {bar["job_id"]: bar["slow"] for bar in found["bars"]}
    assert slow["j0"] is None and slow["j2"] is None
    assert slow["j3"] == "ran 5.0 h; 1.2 h are usual here"
    assert slow["j4"] == "has run for 24.0 h; 1.2 h are usual here"
    logged = {"source": "made", "target": "walltime", "model_version": "gridcast-1"}
    with sqlite_store.begin() as connection:
        frame_of = pd.DataFrame({"job_id": ["j2", "j3"], "high": [3600.0, 6 * 3600.0]})
        add_predictions(connection, frame_of.assign(asked_at=START, known_revision=0, **logged))
    bars = tasks.task(sqlite_store, frame, "t", {})["bars"]
    slow = {bar["job_id"]: bar["slow"] for bar in bars}
    assert slow["j2"] == "ran 1.5 h; predicted at most 1.0 h"
    assert slow["j3"] == "ran 5.0 h; 1.2 h are usual here", "within its range, unlike the others"
    assert [bar["job_id"] for bar in bars[:3]] == ["j4", "j3", "j2"], "slow ones come first"


def test_the_jobs_of_a_task_are_paged_sorted_and_filtered(sqlite_store: Engine) -> None:
    frame = pd.DataFrame([store_task(sqlite_store, [1.0, 3.0, 2.0, None])]).assign(state="normal")
    two = tasks.task(sqlite_store, frame, "t", {"sort": "-hours", "size": "2"})
    assert [job["job_id"] for job in two["jobs"]] == ["j3", "j1"] and two["job_count"] == 4
    rest = tasks.task(sqlite_store, frame, "t", {"sort": "-hours", "size": "2", "page": "1"})
    assert [job["job_id"] for job in rest["jobs"]] == ["j2", "j0"]
    failed = tasks.task(sqlite_store, frame, "t", {"status": "failed"})
    assert failed["job_count"] == 3 and failed["statuses"] == {"failed": 3, "running": 1}
    assert failed["errors"] == [{"status": "failed", "jobs": 3, "site": "a (3)", "host": "a-1 (3)"}]
    assert failed["ended"]["ended"] == [1, 2, 3] == failed["ended"]["failed"]
    with pytest.raises(HTTPError, match="sort must be one of"):
        tasks.task(sqlite_store, frame, "t", {"sort": "user"})


def test_missing_values_come_last_in_either_order() -> None:
    frame = pd.DataFrame({"a": [2.0, None, 1.0]})
    assert sort_rows(frame, {"sort": "a"}, ("a",)).index.tolist() == [2, 0, 1]
    assert sort_rows(frame, {"sort": "-a"}, ("a",)).index.tolist() == [0, 2, 1]
    assert sort_rows(frame, {}, ("a",)) is frame


@pytest.mark.parametrize("text", ["25", "0", "x", "9" * 20])
def test_only_the_offered_ranges_are_taken(text: str) -> None:
    with pytest.raises(HTTPError):
        hours_of({"hours": text})


def test_levels_and_sums_have_the_same_columns() -> None:
    values = list(range(1, 338))
    for length, step in ((24, 1), (72, 2), (168, 3), (336, 6)):
        levels, sums = (f(values, length, step) for f in (overview.levels, overview.sums))
        assert len(levels) == len(sums) == length // step
        assert levels[-1] == 337 and sums[-1] == sum(range(338 - step, 338))


def test_what_the_doctor_finds_of_a_site_is_a_problem() -> None:
    status = SiteStatus(
        NOW - timedelta(hours=1),
        (Accuracy("walltime", 900.0, 600.0, 0.9), Accuracy("peak_memory", 1.0, 2.0, 0.9)),
        decay=Verdict(2, "worse since noon", NOW),
        drift=Verdict(0, "none", NOW),
        collections=(
            Collection("slurm", "all", NOW - timedelta(minutes=50)),
            Collection("panda", "all", NOW - timedelta(minutes=90)),
        ),
    )
    found = overview.site_problems(status, NOW)
    assert [problem["kind"] for problem in found] == [
        "accuracy of walltime",
        "decay",
        "collector panda",
    ]
    assert found[1]["text"].startswith("worse since noon") and found[1]["view"] == "models"
    assert "1.5 h ago" in found[2]["text"] and found[2]["view"] is None
    assert overview.site_problems(None, NOW) == []


def version(number: int, state: str, **tags: str) -> Version:
    return Version("gridcast", number, "", state, (), NOW - timedelta(days=90), "", tags)


def test_a_stale_champion_is_a_problem_and_none_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(days: float) -> list[dict[str, Any]]:
        until = (NOW - timedelta(days=days)).isoformat()
        champion = version(3, "champion", trained_until=until)
        monkeypatch.setattr(
            models_overview, "read_registry", lambda _: Registered("", [champion], champion)
        )
        return models_overview.problems(Settings(_env_file=None), NOW)

    assert found(29) == []
    [stale] = found(40)
    assert stale["kind"] == "stale champion" and "gridcast-3" in stale["text"]
    monkeypatch.setattr(models_overview, "read_registry", lambda _: Registered("train one", []))
    [absent] = models_overview.problems(Settings(_env_file=None), NOW)
    assert absent == {"kind": "no champion", "text": "train one", "view": "models"}


def test_a_button_that_cannot_work_says_why() -> None:
    tokens = Settings(tokens="0123456789abcdef:admin", _env_file=None)
    champion = version(1, "champion")
    unfinished, candidate = version(2, "unfinished"), version(3, "candidate")
    free = Registered("", [], champion)
    refusal = models_overview._promotion_refusal
    assert refusal(candidate, free, tokens) == ""
    assert "GRIDCAST_TOKENS" in refusal(candidate, free, Settings(_env_file=None))
    assert refusal(champion, free, tokens) == "it answers now"
    assert "stopped" in refusal(unfinished, free, tokens)
    pinned = Registered("", [], champion, "gridcast-1 is pinned by ada")
    assert refusal(candidate, pinned, tokens).startswith("gridcast-1 is pinned by ada")
    assert models_overview._refusals(free, tokens, is_training=False) == {
        "retrain": "",
        "pin": "",
        "unpin": "no version is pinned",
    }
    assert "a training runs" in models_overview._refusals(free, tokens, True)["retrain"]
    away = Registered("the registry is away", [], is_away=True)
    assert set(models_overview._refusals(away, tokens, False).values()) == {"the registry is away"}


def test_only_versions_tested_on_the_same_jobs_have_a_common_error() -> None:
    def tags(digest: str) -> dict[str, str]:
        later = pd.DataFrame(index=range(500))
        numbers = {
            "benchmark_mae_s": 912.5,
            "benchmark_baseline_mae_s": 1400.0,
            "benchmark_coverage_90": 0.91,
        }
        return Benchmark("walltime", later, digest, 1400.0).version_tags(numbers)

    newest = version(3, "candidate", **tags("abc"))
    assert models_overview.common_test(newest, newest.tags[DIGEST_TAG]) == {
        "mae": 912.5,
        "baseline": 1400.0,
        "coverage": 0.91,
        "jobs": 500.0,
        "unit": "s",
    }
    assert models_overview.common_test(version(2, "champion", **tags("old")), "abc") is None
    assert models_overview.common_test(version(1, "retired"), "") is None


def test_a_start_and_an_end_follow_from_the_logged_wait_and_walltime() -> None:
    hour = 3600.0
    wait = {"low": 0.0, "median": hour, "high": 4 * hour}
    walltime = {"low": hour, "median": 2 * hour, "high": 30 * hour}
    submitted = NOW - timedelta(hours=2)
    job = {"submitted_at": submitted.isoformat(), "started_at": None}
    found = jobs.start_and_end(job, {"wait": wait, "walltime": walltime}, NOW)
    assert found["start"] == {
        "low": None,
        "median": None,
        "high": (submitted + timedelta(hours=4)).isoformat(),
    }
    assert found["end"]["median"] == (submitted + timedelta(hours=3)).isoformat()
    assert jobs.start_and_end(job, {"walltime": walltime}, NOW) == {"start": None, "end": None}
    running = {**job, "started_at": submitted.isoformat()}
    found = jobs.start_and_end(running, {"walltime": walltime}, NOW)
    assert found["start"] is None and found["end"]["low"] is None
    assert found["end"]["high"] == (submitted + timedelta(hours=30)).isoformat()


def test_the_charts_of_error_follow_the_time_range(sqlite_store: Engine) -> None:
    times = [pd.Timestamp(NOW) - pd.Timedelta(days=day) for day in range(1, 10)]
    rows = pd.DataFrame({"measured_at": times, "kind": "accuracy", "name": "walltime mae"})
    with sqlite_store.begin() as connection:
        add_measurements(connection, rows.assign(segment="all", value=900.0))
    for hours, points in ((72, 3), (336, 9)):
        [chart] = overview.accuracy(sqlite_store, NOW, "walltime", hours)
        assert len(chart["lines"][0]["points"]) == points


def test_a_wait_without_a_width_is_no_prediction() -> None:
    """A job that has waited longer than any before it."""
    job = {"submitted_at": (NOW - timedelta(hours=2)).isoformat(), "started_at": None}
    wait = dict.fromkeys(("low", "median", "high"), 4 * 3600.0)
    logged = {"wait": wait, "walltime": {"low": 1.0, "median": 2.0, "high": 3.0}}
    assert jobs.start_and_end(job, logged, NOW) == {"start": None, "end": None}


def test_a_job_whose_task_waits_for_another_has_no_start_but_its_reason(
    sqlite_store: Engine,
) -> None:
    row = store_task(sqlite_store, [1.0, None])
    later = of_task([None, None]).assign(
        job_id=["w0", "w1"],
        task_id="next",
        after_task_id="t",
        started_at=pd.Series(pd.NaT, index=range(2), dtype="datetime64[us, UTC]"),
        status=None,
    )
    with sqlite_store.begin() as connection:
        add_jobs(connection, conform(later))
        times = {"low": 90_000.0, "median": 100_000.0, "high": 110_000.0}
        logged = pd.DataFrame(
            [
                {"job_id": job_id, "target": target, **times}
                for job_id in ("w0", "w1")
                for target in ("wait", "walltime")
            ]
        )
        asked = {"source": "made", "model_version": "gridcast-1", "asked_at": START}
        add_predictions(connection, logged.assign(known_revision=0, **asked))

    def waiting(state: str, begun: float = 0.0) -> list[dict[str, Any]]:
        first, second = {**row, "ended": 1.0, "state": state}, {**row, "task": "next"}
        frame = pd.DataFrame([first, {**second, "ended": begun, "state": "normal"}])
        found = jobs.user(sqlite_store, frame, "ada", NOW)["jobs"]
        return [job for job in found if job["job_id"].startswith("w")]

    for job in waiting("stalled"):
        assert (job["waits_for"], job["start"], job["end"]) == ("t", None, None)
    for job in [*waiting("done"), *waiting("stalled", begun=1.0)]:
        assert job["waits_for"] is None and job["start"] and job["end"]


def test_the_pages_links_and_their_login(tmp_path: Path) -> None:
    plain = Settings(home=tmp_path, _env_file=None)
    links = dict(models_overview._links(plain))
    assert links["Prefect: flows and their runs"].endswith(f":{plain.prefect_port}")
    engine = open_store(plain.store_url)
    assert models_overview.models(engine, plain)["login"] == ""
    with_token = Settings(home=tmp_path, tokens="0123456789abcdef:admin", _env_file=None)
    login = models_overview.models(engine, with_token)["login"]
    assert str(plain.token_path) in login and "0123456789abcdef" not in login
    engine.dispose()


def test_a_prediction_is_explained_in_english() -> None:
    hour = 3600.0
    explanation = {
        "histories": [
            {"history": "source+program", "weight": 0.6, "jobs": 58, "median": 1.4 * hour},
            {"history": "user over limit", "weight": 0.2, "jobs": 1, "median": None},
        ],
        "similar": [{"value": value * hour} for value in (24, 24, 23.9, 24.2, 1)],
        "allocation": {"value": 25 * hour, "rule": "the request, to which jobs keep"},
    }
    answer = {
        f"walltime_{end}": value * hour
        for end, value in (("median", 5), ("low", 0.5), ("high", 24))
    }
    assert jobs.explain_in_words(explanation, answer) == [
        "58 jobs of the same program had ended before; half of the latest took under 1.4 h.",
        "Less weight has this: 1 job of the same user had ended before.",
        "4 of the 5 most similar jobs took about 24 h.",
        "Predicted from all its histories, not only these: half of such jobs should take under 5 h, "
        "and nine of ten 30 min to 24 h.",
        "To set aside: 25 h, the request, to which jobs keep.",
    ]
    assert jobs.explain_in_words({"similar": [{"value": 60.0}, {"value": 600.0}]}, {}) == [
        "The 2 most similar took 1 min to 10 min."
    ]
    assert jobs.explain_in_words({}, {}) == []
