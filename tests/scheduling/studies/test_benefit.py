"""What a person sees of replays: the command, its table, its page, its run in MLflow, and what it
refuses."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import gridcast
from infra.settings import Settings, prepare_environment
from jobs.store import add_jobs, open_store
from jobs.workload import generate
from models.engine.training import train
from models.releases import registry
from models.releases.versions import Evidence
from scheduling.machine import processors
from scheduling.policies import PolicyError
from scheduling.studies.benefit import combinations, record_replays, replay_each, trained_version

KEYS = {
    "policy", "predictor", "corrector", "mean_bounded_slowdown", "p95_bounded_slowdown", "mean_wait", "median_wait", "p95_wait", "p99_wait", "max_wait",
    "utilisation", "makespan", "fairness", "killed", "corrected", "jobs", "seconds",
}  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four jobs on four cores, as in the stories of test_replay: EASY starts the third at once and
    the fourth at 150 s."""
    file = tmp_path_factory.mktemp("logs") / "story.csv"
    rows = [(0, 100, 100, 3), (1, 50, 50, 4), (2, 90, 90, 1), (3, 200, 200, 1)]
    lines = ["job_id,source,user,submitted_at,walltime,requested_walltime,cores"]
    lines += [
        f"{n},story,ada,2026-01-01T00:00:0{at}Z,{ran},{chosen},{cores}"
        for n, (at, ran, chosen, cores) in enumerate(rows)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    run = CliRunner().invoke(gridcast.app, ["replay", *arguments, "--json"])
    assert run.exit_code == 0, run.output
    return list(json.loads(run.stdout)["rows"])


def test_the_command_prints_a_row_a_way_in_the_order_asked_and_leaves_a_page_and_a_run(
    log: Path,
) -> None:
    rows = rows_of(
        str(log), "--policy", "easy", "--policy", "fcfs", "--predictor", "request", "--machine", "4"
    )
    assert [(row["policy"], row["predictor"], row["corrector"]) for row in rows] == [
        ("easy", "request", "request"),
        ("fcfs", "request", "request"),
    ]
    assert set(rows[0]) >= KEYS
    assert rows[0]["mean_wait"] == pytest.approx((0 + 99 + 0 + 147) / 4)
    assert rows[1]["mean_wait"] == pytest.approx((0 + 99 + 148 + 147) / 4)
    assert rows[0]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(
        rows[1]["mean_bounded_slowdown"] / rows[0]["mean_bounded_slowdown"]
    )
    settings = prepare_environment()
    page = settings.folder("reports") / "replay-story.csv.html"
    assert page.read_text(encoding="utf-8").count("<tr>") == 3

    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_url, settings.tracking_url)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    run = client.search_runs(
        experiments, "attributes.run_name = 'replay of story.csv'", max_results=1
    )[0]
    assert run.data.metrics["easy.request.request.mean_wait"] == pytest.approx(61.5)
    assert run.data.params["processors"] == "4"


def test_the_recommended_way_stands_in_the_first_row_when_it_is_asked_for(log: Path) -> None:
    (row,) = rows_of(
        str(log),
        "--policy",
        "gridcast",
        "--predictor",
        "gridcast",
        "--machine",
        "4",
        "--bound",
        "1",
        "--day",
        "2026-01-01",
    )
    assert (row["policy"], row["predictor"], row["bound"], row["jobs"]) == (
        "gridcast",
        "gridcast",
        3600.0,
        4,
    )


def test_what_is_not_named_is_compared_with_what_sites_do_today() -> None:
    assert [(way.policy.name, way.predictor, way.corrector) for way in combinations()] == [
        ("easy", "request", "request"),
        ("easy", "gridcast", "request"),
        ("gridcast", "request", "request"),
        ("gridcast", "gridcast", "request"),
    ]
    with pytest.raises(PolicyError, match="bound"):
        combinations(bound=-1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--policy", "magic"], "no policy 'magic'; there are fcfs, easy"),
        (["--predictor", "oracle"], "no predictor 'oracle'"),
        (["--corrector", "hope"], "no corrector 'hope'"),
        (["--machine", "0"], "at least one host"),
        (["--machine", "nowhere.toml"], "no number of processors"),
        (["--machine", "1"], "no job of the log can be replayed"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_code_2(
    log: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    wide = log.with_name("wide.csv")
    wide.write_text("\n".join(log.read_text(encoding="utf-8").splitlines()[:2]), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["gridcast", "replay", str(wide), *arguments])
    with pytest.raises(SystemExit) as exit_:
        gridcast.main()
    assert exit_.value.code == 2
    messages = [
        line for line in capsys.readouterr().err.splitlines() if line.startswith("gridcast:")
    ]
    assert len(messages) == 1
    assert words in messages[0]


def test_a_log_that_is_nowhere_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gridcast", "replay", "nowhere.swf"])
    with pytest.raises(SystemExit) as exit_:
        gridcast.main()
    assert exit_.value.code == 2
    assert "no file and no stored source called nowhere.swf" in capsys.readouterr().err


def test_pools_are_read_from_a_file(log: Path, tmp_path: Path) -> None:
    for name, text in (
        ("pools.toml", "[all]\ncores = 2\nhosts = 2\n"),
        ("pools.json", '{"all": {"cores": 2, "hosts": 2}}'),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (row,) = rows_of(
            str(log),
            "--policy",
            "easy",
            "--predictor",
            "request",
            "--machine",
            str(tmp_path / name),
        )
        assert (row["jobs"], row["left_out"]) == (2, 2)  # two jobs are wider than a host


def test_a_version_of_the_model_answers_by_what_it_learned_before_the_log_began(
    tmp_path: Path,
) -> None:
    settings = Settings(home=tmp_path)
    engine = open_store(settings.store_url)
    jobs = generate(jobs=1500, days=10, seed=1).jobs.sort_values("submitted_at", ignore_index=True)
    later = jobs.iloc[1200:].reset_index(drop=True)
    earlier = jobs[jobs["ended_at"] < later["submitted_at"].min()]
    with engine.begin() as connection:
        add_jobs(connection, earlier)
    folder = tmp_path / "model"
    train(earlier).save(folder)
    registry.publish(folder, Evidence(card="# a card"), run_name="a test", settings=settings)
    version = trained_version(1, later, engine, settings)
    assert len(version.past) == len(earlier)
    # On a machine with room for all, each job is predicted at once: only what was learned before
    # tells the two apart.
    (chosen,) = combinations(["easy"], ["gridcast"])
    (knowing,), (anew,) = (
        replay_each(later, processors(10_000), [chosen], version=trained)
        for trained in (version, None)
    )
    assert knowing.accuracy > anew.accuracy
    with pytest.raises(PolicyError, match="trained on jobs that ended after the log begins"):
        replay_each(earlier, processors(10_000), [chosen], version=version)
    with pytest.raises(PolicyError, match="answers as the predictor gridcast"):
        replay_each(later, processors(10_000), combinations(["easy"], ["last"]), version=version)
    from mlflow import MlflowClient

    run = record_replays([knowing], "later", settings, version)
    assert (
        MlflowClient(settings.tracking_url).get_run(run).data.tags["model_version"]
        == version.model.version
    )


def test_recorded_waits_are_the_last_row_of_a_log_that_has_them_and_of_no_other(
    log: Path, tmp_path: Path
) -> None:
    lines = log.read_text(encoding="utf-8").splitlines()
    waited = [7, 0, 30, 61]
    recorded = [
        f"{line},2026-01-01T00:0{(n + wait) // 60}:{(n + wait) % 60:02d}Z"
        for n, (line, wait) in enumerate(zip(lines[1:], waited, strict=True))
    ]
    with_starts = tmp_path / "starts.csv"
    with_starts.write_text("\n".join([f"{lines[0]},started_at", *recorded]), encoding="utf-8")
    options = ("--policy", "easy", "--predictor", "request", "--machine", "4")
    easy, row = rows_of(str(with_starts), *options)
    assert easy["policy"] == "easy" and easy["mean_wait"] == pytest.approx(61.5)
    assert (row["policy"], row["predictor"], row["jobs"]) == ("recorded", None, 4)
    assert row["mean_wait"] == pytest.approx(np.mean(waited))
    assert row["median_wait"] == pytest.approx(18.5)
    assert row["p95_wait"] == pytest.approx(np.percentile(waited, 95))
    ran = np.array([100, 50, 90, 200])
    assert row["mean_bounded_slowdown"] == pytest.approx(((waited + ran) / ran).mean())
    assert row["ratio"] is None and set(row) == set(easy)
    table = CliRunner().invoke(gridcast.app, ["replay", str(with_starts), *options])
    assert "recorded" in table.output
    assert " 61.5 s" in table.output and "waits in s" not in table.output
    assert "predictor: whose run times" in " ".join(table.output.split())
    assert "easy: first come, first served; jobs that do not" in " ".join(table.output.split())
    assert [row["policy"] for row in rows_of(str(log), *options)] == ["easy"]


def test_a_log_without_users_is_replayed_with_its_predictions_and_drawn(
    log: Path, tmp_path: Path
) -> None:
    nameless = tmp_path / "nameless.csv"
    nameless.write_text(
        log.read_text(encoding="utf-8").replace("story,ada", "story,"), encoding="utf-8"
    )
    rows = rows_of(str(nameless), "--machine", "4")
    assert {(row["policy"], row["predictor"]) for row in rows} == {
        (policy, predictor)
        for policy in ("easy", "gridcast")
        for predictor in ("request", "gridcast")
    }
