"""A canary answers its share, the same jobs in every replica, and its outcomes decide about it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from infra.settings import Settings
from jobs.coded_jobs import encode_jobs
from jobs.schema import OUTCOMES
from jobs.store import read_audit, read_predictions
from jobs.workload import generate
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.engine.predictions import Predictions
from models.releases import registry
from models.releases.champion import challenge
from models.releases.versions import Version
from monitoring import canary as monitored
from services.http.bodies import read_body
from services.http.contract import JSON_TYPE, Options
from services.http.metrics import Metrics
from services.http.requests import read_jobs_to_predict
from services.live.active_model import ActiveModel, load_active_model
from services.live.canary import canary_rows
from services.live.live_predictor import LivePredictor
from tests.monitoring.test_alerts import Hook, Receiver
from tests.services.conftest import as_rows, new_home, publish

SHARE = 0.05


class TenTimes(Forecaster):
    """A bad version: all its predictions are ten times as large."""

    def predict_encoded(self, *arguments: Any, **options: Any) -> Predictions:
        """Predict, times ten."""
        answers = super().predict_encoded(*arguments, **options)
        numbers = {name: 10 * values for name, values in answers.numbers.items()}
        return Predictions(
            numbers, answers.cluster, answers.cold_start, answers.context_of_row, "bad"
        )


@dataclass
class Site:
    """Two replicas on one store and registry, with a champion and a version beside it."""

    settings: Settings
    replicas: list[LivePredictor]
    rival: Version
    jobs: pd.DataFrame

    def look(self) -> None:
        """Let both replicas ask the registry and learn, as their threads do every few seconds."""
        for replica in self.replicas:
            replica.watcher.look()
            replica.watcher.look_for_challenger()
            replica.catch_up()
            replica.shadow.step()

    def predict(
        self, jobs: pd.DataFrame, replica: int = 0, keep: bool = True
    ) -> tuple[pd.DataFrame, dict[str, Any]]:
        """Predict jobs as a caller does, a row a job, and wait until the answers are logged."""
        live = self.replicas[replica]
        body = pd.io.json.ujson_dumps({"jobs": as_rows(jobs.drop(columns=list(OUTCOMES)))})
        request = read_jobs_to_predict(read_body(JSON_TYPE, body.encode()))
        answers, about = live.predict(request, Options(keep=keep))
        while live.log.waiting:
            live.log._write_next()
        return answers.frame(jobs["job_id"].to_numpy()), about

    def follow(self, **later: float) -> monitored.CanaryEvidence | None:
        """Judge the canary as the page's process does."""
        now = datetime.now(UTC) + timedelta(**later)
        return monitored.follow_canary(self.replicas[0].engine, self.settings, now)


StartSite = Callable[..., Site]


@pytest.fixture
def start_site(
    tmp_path: Path,
    metrics: Metrics,
    model_set: ModelSet,
    grid_jobs: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[StartSite]:
    """Starts a site of two replicas, one of whose two versions is bad: ``start_site(bad=2)``."""
    replicas: list[LivePredictor] = []

    def start(bad: int, **options: Any) -> Site:
        def load(version: Version | None, settings: Settings, _: bool = False) -> ActiveModel:
            model = load_active_model(version, settings, verified=True)
            if version is None or version.version != bad:
                return model
            return replace(model, forecaster=TenTimes(model.forecaster.model_set))

        for module in ("live_predictor", "champion_watcher"):
            monkeypatch.setattr(f"services.live.{module}.load_active_model", load)
        home = new_home(tmp_path / "site", grid_jobs.head(1200))
        publish(model_set, home)
        rival = publish(model_set, home, promote=False)
        settings = Settings(home=home, **options)
        shared = {"database_url": settings.store_url, "mlflow_url": settings.tracking_url}
        second = settings.model_copy(update={"home": tmp_path / "second", **shared})
        replicas.extend(LivePredictor(one, metrics) for one in (settings, second))
        later = generate(jobs=4000, days=25, seed=7, sites=3, users=8).jobs.tail(2400)
        return Site(settings, replicas, rival, later.reset_index(drop=True))

    yield start
    for replica in replicas:
        replica.engine.dispose()


def by_version(rows: pd.DataFrame) -> dict[str, int]:
    return rows["model_version"].value_counts().to_dict()


def test_a_version_that_predicts_ten_times_too_much_reaches_a_twentieth_and_is_withdrawn(
    start_site: StartSite,
) -> None:
    site = start_site(bad=2, canary=SHARE)
    site.look()
    challenger = challenge(site.rival.version, site.settings, by="ada", why="a try")
    assert "challenger" in challenger.aliases
    changes = read_audit(site.replicas[0].engine)
    assert ("challenger", "a try") in {*zip(changes["action"], changes["why"], strict=True)}
    site.look()
    answered = []
    for start in range(0, 2400, 400):
        jobs = site.jobs.iloc[start : start + 400]
        # Either replica gives a job the same version.
        first, about = site.predict(jobs, 0)
        second, _ = site.predict(jobs, 1)
        assert first["model_version"].tolist() == second["model_version"].tolist()
        own = first["model_version"] == "gridcast-2"
        assert about.get("canary", {"jobs": 0})["jobs"] == own.sum()
        answered.append(first)
        site.replicas[0].report(jobs)
        site.look()
        evidence = site.follow()
        assert evidence is not None
        if evidence.judgement.verdict != "wait":
            break
        assert evidence.outcomes < monitored.FIRST_LOOK, "enough outcomes decide"
    rows = pd.concat(answered)
    counts = by_version(rows)
    assert monitored.FIRST_LOOK <= counts["gridcast-2"] <= SHARE * len(rows)
    withdrawn = registry.get(2, site.settings)
    assert registry.challenger(site.settings) is None
    assert withdrawn.state == "refused" and withdrawn.tags["refused_by"] == "the canary's outcomes"
    assert "higher" in withdrawn.tags["refused_why"]
    assert registry.champion(site.settings).version == 1  # type: ignore[union-attr]

    # The champion alone answers from now on, in both replicas.
    site.look()
    for replica in (0, 1):
        after, about = site.predict(site.jobs.tail(500), replica)
        assert by_version(after) == {"gridcast-1": 500} and "canary" not in about

    # The log says of each job who answered, and what the champion would have.
    logged = read_predictions(site.replicas[0].engine, target="walltime")
    own = logged["model_version"] == "gridcast-2"
    assert not logged.loc[own, "shadow"].any()
    pair = logged[own].merge(logged[logged["shadow"].eq(True)], on=["source", "job_id", "asked_at"])
    assert len(pair) == own.sum() and set(pair["model_version_y"]) == {"gridcast-1"}
    assert np.median(pair["point_x"] / pair["point_y"]) > 5
    pd.testing.assert_frame_equal(
        rows.set_index("job_id")[["walltime"]],
        logged[~logged["shadow"].eq(True)]
        .drop_duplicates("job_id")
        .set_index("job_id")[["point"]]
        .loc[rows["job_id"]]
        .rename(columns={"point": "walltime"}),
    )


def test_a_share_of_the_jobs_is_chosen_by_hash_and_by_the_version() -> None:
    names = [f"job-{number}" for number in range(40_000)]
    coded = encode_jobs(pd.DataFrame({"source": ["a"] * 40_000}), ["source"])
    ids = pa.chunked_array([pa.array(names)])
    first, second = (canary_rows(ids, coded, number, SHARE) for number in (2, 3))
    assert abs(len(first) / 40_000 - SHARE) < 0.005 and abs(len(second) / 40_000 - SHARE) < 0.005
    assert len(np.intersect1d(first, second)) < 0.1 * len(first)
    # Wherever a job is in a request, it is chosen or not.
    half = canary_rows(
        ids[20_000:], encode_jobs(pd.DataFrame({"source": ["a"] * 20_000}), ["source"]), 2, SHARE
    )
    np.testing.assert_array_equal(half + 20_000, first[first >= 20_000])
    assert not len(canary_rows(ids, coded, 2, 0.0))


def test_a_better_version_is_promoted_by_its_outcomes_or_waits_for_a_person(
    start_site: StartSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = Receiver(Hook)
    asking = start_site(bad=1, canary=0.3, promotion="ask", alerts=f"json://127.0.0.1:{hook.port}")
    asking.look()
    registry.set_challenger(asking.rival, asking.settings)
    asking.look()
    for start in range(0, 1200, 400):
        jobs = asking.jobs.iloc[start : start + 400]
        asking.predict(jobs)
        asking.replicas[0].report(jobs)
        asking.look()
    for _ in range(2):
        evidence = asking.follow()
    assert evidence is not None and evidence.judgement.verdict == "promote"
    assert evidence.judgement.judged == monitored.PROMOTION_LOOK
    assert registry.champion(asking.settings).version == 1  # type: ignore[union-attr]
    [alert] = hook.got
    assert alert["message"].startswith(f"gridcast-2 waits for a person. {evidence.sentence}")
    assert "scope approve" in alert["message"] and "/models" in alert["message"]
    assert registry.get(2, asking.settings).tags["who_may_decide"] in alert["message"]

    own = asking.settings.model_copy(update={"promotion": "auto"})
    monitored.follow_canary(asking.replicas[0].engine, own, datetime.now(UTC))
    champion = registry.champion(own)
    assert champion is not None and champion.version == 2 and registry.challenger(own) is None
    assert champion.tags["promoted_by"] == "the canary's outcomes"
    assert champion.tags["promoted_why"] == evidence.sentence
    assert hook.got[-1]["title"] == "Gridcast gridcast: approval is over"
    hook.stop()

    asking.look()
    answers, about = asking.predict(asking.jobs.tail(200), replica=1)
    assert by_version(answers) == {"gridcast-2": 200} and "canary" not in about


def test_a_canary_that_fails_answers_nothing_and_no_caller_notices(
    start_site: StartSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = start_site(bad=0, canary=0.3)
    site.look()
    registry.set_challenger(site.rival, site.settings)
    site.look()
    jobs = site.jobs.head(100)
    before, about = site.predict(jobs)
    assert about["canary"]["jobs"] == by_version(before)["gridcast-2"] > 10
    # Answers that are not logged are not judged either: all are the champion's.
    hypothetical, about = site.predict(jobs, keep=False)
    assert by_version(hypothetical) == {"gridcast-1": 100} and "canary" not in about
    assert site.replicas[0].describe()["canary"] == {"model_version": "gridcast-2", "share": 0.3}

    def fail(*arguments: Any, **options: Any) -> Predictions:
        raise ValueError("a planted fault")

    canary = site.replicas[0].shadow.challenger
    assert canary is not None
    monkeypatch.setattr(canary.forecaster, "predict_encoded", fail)
    after, about = site.predict(jobs)
    assert by_version(after) == {"gridcast-1": 100} and "canary" not in about

    # One that does not predict all targets answers none either; nor does one that lasts too long.
    monkeypatch.setattr(canary.forecaster, "names", ("walltime",))
    assert site.replicas[0].describe()["canary"] is None
    evidence = site.follow(days=15)
    assert evidence is not None and evidence.judgement.verdict == "withdraw"
    assert "within 14 days" in registry.get(2, site.settings).tags["refused_why"]
    site.look()
    assert site.follow() is None
