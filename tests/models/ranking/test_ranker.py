"""The ranker on records whose truth is known: short queues, near data and what is unknown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jobs.schema import JOB, conform
from jobs.transfers import TRANSFER, derive_transfer_fields
from models.engine.forecaster import Forecaster
from models.ranking.candidates import Candidates
from models.ranking.load_forecaster import LoadForecaster
from models.ranking.order import RankingError, Rule
from models.ranking.ranker import Ranker
from models.ranking.speeds import Speeds

START = pd.Timestamp("2026-01-01", tz="UTC")


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    """Jobs at site near wait for a minute and far for an hour; copies to far take ten times as
    long; runs take 1,000 s anywhere."""
    rng = np.random.default_rng(0)
    count = 600
    at = START + pd.to_timedelta(np.sort(rng.integers(0, 86400 * 5, count)), unit="s")
    far = rng.random(count) < 0.5
    wait, run = (
        np.where(far, 3600.0, 60.0) * rng.uniform(0.9, 1.1, count),
        1000.0 * rng.uniform(0.9, 1.1, count),
    )
    begun = at + pd.to_timedelta(wait, unit="s")
    fields = {
        "job_id": np.arange(count).astype(str),
        "source": "g",
        "user": "ann",
        "site": np.where(far, "far", "near"),
    }
    jobs = conform(
        pd.DataFrame(
            fields
            | {
                "submitted_at": at,
                "started_at": begun,
                "ended_at": begun + pd.to_timedelta(run, unit="s"),
                "walltime": run,
            }
        ),
        JOB,
    )
    copies = {
        "transfer_id": fields["job_id"],
        "source": "fts",
        "from_endpoint": "store",
        "to_endpoint": fields["site"],
        "submitted_at": at,
    }
    transfers = derive_transfer_fields(
        conform(
            pd.DataFrame(copies | {"bytes": 1e9, "duration": np.where(far, 200.0, 20.0)}), TRANSFER
        )
    )
    runs = Forecaster(None, ("walltime",))
    runs.learn(jobs)
    return Ranker(
        runs,
        LoadForecaster.learned_from(jobs, "wait"),
        LoadForecaster.learned_from(transfers, "transfer_time"),
    )


NOW = START + pd.Timedelta(6, "D")


def candidates(*rows: dict[str, object]) -> pd.DataFrame:
    return pd.DataFrame([{"job_id": "j", "source": "g", "user": "ann"} | row for row in rows])


def ranked(ranker: Ranker, queries: pd.DataFrame, rule: Rule | None = None) -> pd.DataFrame:
    return ranker.rank(Candidates.from_frame(queries), rule or Rule(), NOW).frame()


def test_each_part_is_predicted_and_the_sooner_site_stands_first(ranker: Ranker) -> None:
    queries = candidates(
        *(
            {"site": site, "input_at": "store", "input_bytes": 1e9, "deadline": 2000.0}
            for site in ("far", "near")
        )
    )
    rows = ranked(ranker, queries)
    assert rows["site"].tolist() == ["near", "far"]
    near, far = rows.to_dict("records")
    assert near["wait"] == pytest.approx(60, rel=0.5) and far["wait"] == pytest.approx(
        3600, rel=0.3
    )
    assert near["transfer_in"] == pytest.approx(20, rel=0.5) and far[
        "transfer_in"
    ] == pytest.approx(200, rel=0.5)
    assert near["run"] == pytest.approx(1000, rel=0.2)
    assert near["first"] > 0.9 and near["in_time"] > 0.9 and far["in_time"] < 0.1
    assert near["total_low"] < near["total_mean"] < near["total_high"]


def test_jobs_that_are_alike_get_the_same_answer_each_under_its_name(ranker: Ranker) -> None:
    job = candidates({"site": "near"}, {"site": "far"})
    second = job.assign(user="bob", job_id="second")
    queries = pd.concat([job, second, job.assign(job_id="twin")], ignore_index=True)
    rows = ranked(ranker, queries).set_index("job_id")
    assert list(dict.fromkeys(rows.index)) == ["j", "second", "twin"]
    pd.testing.assert_frame_equal(
        rows.loc["j"].reset_index(drop=True), rows.loc["twin"].reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(
        rows.loc["second"].reset_index(drop=True),
        ranked(ranker, second).drop(columns="job_id").reset_index(drop=True),
    )


def test_replicas_are_ranked_by_their_transfer_alone(ranker: Ranker) -> None:
    rows = (
        {"input_at": endpoint, "output_at": "near", "input_bytes": 1e9}
        for endpoint in ("store", "elsewhere")
    )
    rows = ranked(ranker, candidates(*rows), Rule("conservative"))
    assert "run" not in rows
    assert rows["input_at"].tolist()[0] == "store"
    assert rows["unknown"].tolist() == ["", ""], "where a copy goes needs no size of an output"
    assert rows["first"].notna().all()


def test_what_is_not_known_is_named_and_stands_behind_what_is(ranker: Ranker) -> None:
    no_links = Ranker(ranker.runs, ranker.waits, None)
    moved, local = (
        {"site": "near", "input_at": "store", "input_bytes": 1e9},
        {"site": "far", "input_at": "far", "input_bytes": 1e9},
    )
    rows = ranked(no_links, candidates(moved, local))
    assert rows["site"].tolist() == ["far", "near"], (
        "near is sooner, as far as is known, but its transfer is not"
    )
    assert rows["unknown"].tolist() == ["", "transfer_in"]
    assert rows["first"].isna().all()
    alone = ranked(Ranker(ranker.runs, None, None), candidates(moved))
    assert alone["unknown"].tolist() == ["wait, transfer_in"]


def test_a_link_never_seen_is_predicted_by_what_all_links_do(ranker: Ranker) -> None:
    rows = (
        {"site": "near", "input_at": endpoint, "input_bytes": 1e9}
        for endpoint in ("nowhere", "store")
    )
    rows = ranked(ranker, candidates(*rows))
    assert rows["input_at"].tolist() == ["store", "nowhere"]
    assert 0 < rows["transfer_in"][0] < rows["transfer_in"][1]
    assert (rows["unknown"] == "").all()


def test_what_cannot_be_ranked_is_a_sentence(ranker: Ranker) -> None:
    for rows, sentence in (
        (candidates().assign(job_id=[]), "there is no candidate"),
        (candidates({"site": "near"}, {"input_at": "store"}), "rank sites and replicas apart"),
        (
            candidates({"input_at": "store", "output_at": "near"}),
            "some candidates have nothing to rank",
        ),
    ):
        with pytest.raises(RankingError, match=sentence):
            ranked(ranker, rows)


def test_replicas_of_which_nothing_is_known_are_named_and_not_refused(ranker: Ranker) -> None:
    nothing = Ranker(ranker.runs, ranker.waits, None)
    rows = ranked(
        nothing,
        candidates(*({"input_at": endpoint, "input_bytes": 1e9} for endpoint in ("store", "tape"))),
    )
    assert rows["unknown"].tolist() == ["transfer_in", "transfer_in"]
    assert rows["total_mean"].tolist() == [0.0, 0.0]


def test_input_of_unknown_size_is_named_unknown_and_stands_behind(ranker: Ranker) -> None:
    queries = candidates(
        {"site": "near", "input_at": "store", "input_bytes": np.nan},
        {"site": "far", "input_at": "store", "input_bytes": 1e9},
    )
    rows = ranked(ranker, queries).set_index("site")
    assert rows["unknown"].to_dict() == {"near": "transfer_in", "far": ""}
    assert rows["rank"].to_dict() == {"far": 1, "near": 2}


def test_a_site_without_any_record_is_marked_unknown_and_stands_behind(ranker: Ranker) -> None:
    rated = Ranker(ranker.runs, ranker.waits, ranker.transfers, Speeds({"near": 1.0, "far": 1.0}))
    queries = candidates(*({"site": site} for site in ("atlantis", "far", "near")))
    rows = ranked(rated, queries).set_index("site")
    assert rows["rank"].to_dict() == {"near": 1, "far": 2, "atlantis": 3}
    assert rows.loc["atlantis", "total_mean"] < rows.loc["far", "total_mean"]
    assert rows["unknown"].to_dict() == {"near": "", "far": "", "atlantis": "wait, run"}
    assert rows["never_seen"].to_dict() == {"near": "", "far": "", "atlantis": "site"}
    assert rows["first"].notna().all()  # its parts are estimated from those of all sites


def test_sites_of_which_none_has_a_record_are_all_marked_and_still_ranked(ranker: Ranker) -> None:
    queries = candidates({"site": "atlantis"}, {"site": "utopia"})
    rows = ranked(ranker, queries)
    assert rows["rank"].tolist() == [1, 2]
    assert rows["unknown"].str.contains("wait").all()


def test_a_replica_at_an_endpoint_without_any_record_stands_behind(ranker: Ranker) -> None:
    slow = {"output_at": "far", "input_bytes": 1e9, "input_at": "store"}
    rows = ranked(ranker, candidates(slow | {"input_at": "nowhere"}, slow)).set_index("input_at")
    assert rows["rank"].to_dict() == {"store": 1, "nowhere": 2}
    assert rows["never_seen"].to_dict() == {"store": "", "nowhere": "input_at"}


def test_what_was_seen_earlier_is_still_known_when_only_later_records_are_read() -> None:
    at = START + pd.to_timedelta(np.arange(4) * 600.0, unit="s")
    begun = at + pd.Timedelta(60, "s")
    jobs = conform(
        pd.DataFrame(
            {
                "job_id": list("abcd"),
                "source": "g",
                "site": ["near", "near", "far", "far"],
                "submitted_at": at,
                "started_at": begun,
                "ended_at": begun + pd.Timedelta(60, "s"),
                "walltime": 60.0,
            }
        ),
        JOB,
    )
    before = LoadForecaster.learned_from(jobs.iloc[:2], "wait")
    after = LoadForecaster.learned_from(jobs.iloc[2:], "wait", before)
    assert after is not None
    assert after.places == {"near", "far"}
