"""Four shards answer as one predictor does: exactly by trained weights, nearly by learned ones."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from infra.shards import SLOTS, Shard, ShardError, shard_of_slots
from jobs.coded_jobs import encode_jobs
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelError, ModelSet
from models.engine.snapshot import describe_snapshot, restore_snapshot
from models.quantities.metrics import point_errors
from models.quantities.targets import TARGETS
from services.http.errors import HTTPError
from services.http.ownership import refuse_others

COUNT = 4
WALLTIME = TARGETS["walltime"]


def shards_of(model_set: ModelSet | None, count: int = COUNT) -> list[Forecaster]:
    return [Forecaster(model_set, shard=Shard(number + 1, count)) for number in range(count)]


def predict(shards: Sequence[Forecaster], jobs: pd.DataFrame) -> pd.DataFrame:
    """Each job as the shard of its user predicts it, in the order of ``jobs``."""
    answers = [shard.predict(jobs[shard.owns(jobs)]) for shard in shards]
    together = pd.concat(answers).set_index("job_id").loc[jobs["job_id"]]
    return together.reset_index()


@pytest.fixture(scope="module")
def jobs(grid_jobs: pd.DataFrame) -> pd.DataFrame:
    """Jobs of which some report no user."""
    return grid_jobs.assign(user=grid_jobs["user"].where(np.arange(len(grid_jobs)) % 50 > 0))


def test_shards_with_trained_weights_answer_exactly_as_one_predictor(
    model_set: ModelSet, jobs: pd.DataFrame
) -> None:
    one, shards = Forecaster(model_set), shards_of(model_set)
    until = pd.Timestamp(model_set.card.window.until_us, unit="us", tz="UTC")
    trained = jobs[jobs["ended_at"] <= until]
    shuffled = trained.sample(frac=1.0, random_state=1)
    for forecaster in (one, *shards):
        # Some are reported twice.
        for start, stop in ((0, 700), (400, len(shuffled))):
            forecaster.learn(shuffled.iloc[start:stop])
    assert (sum(shard.owns(jobs).astype(int) for shard in shards) == 1).all()
    pd.testing.assert_frame_equal(predict(shards, jobs), one.predict(jobs), check_dtype=False)
    size = (one.mixtures["walltime"].state.outcomes.slots["total"]).sum()
    for shard in shards:
        assert shard.mixtures["walltime"].state.outcomes.slots["total"].sum() < size

    # Weights and ranges learn from the shard's own users alone.
    later = jobs.drop(trained.index)
    for forecaster in (one, *shards):
        forecaster.learn(later)
    truth, points = WALLTIME.value(jobs), [predict(shards, jobs), one.predict(jobs)]
    apa = [point_errors(truth, frame["walltime"].to_numpy())["apa"] for frame in points]
    assert apa[0] == pytest.approx(apa[1], rel=0.01)
    cold = [frame["cold_start"].tolist() for frame in points]
    assert cold[0] == cold[1]


def test_shards_without_a_model_learn_the_first_jobs_of_all(jobs: pd.DataFrame) -> None:
    one, shards = Forecaster(), shards_of(None)
    for forecaster in (one, *shards):
        for start in range(0, 600, 200):
            forecaster.learn(jobs.iloc[start : start + 200])
    assert all(shard.levels == one.levels for shard in shards)
    queries = jobs.iloc[600:900]
    truth = WALLTIME.value(queries)
    apa = [
        point_errors(truth, frame["walltime"].to_numpy())["apa"]
        for frame in (predict(shards, queries), one.predict(queries))
    ]
    assert apa[0] == pytest.approx(apa[1], rel=0.001)


def test_a_snapshot_is_of_one_shard(model_set: ModelSet, jobs: pd.DataFrame) -> None:
    shards = shards_of(model_set)
    shards[0].learn(jobs.head(200))
    about = describe_snapshot(shards[0])
    assert about is not None
    with pytest.raises(ModelError, match="shard"):
        restore_snapshot(shards[1], about, {})


def test_a_change_of_the_number_of_shards_moves_only_what_it_must() -> None:
    four, five = shard_of_slots(4), shard_of_slots(5)
    moved = four != five
    assert (five[moved] == 5).all()
    assert moved.mean() == pytest.approx(1 / 5, abs=0.05)
    for count in (1, 2, 3, 4, 8):
        sizes = np.bincount(shard_of_slots(count), minlength=count + 1)[1:]
        assert sizes.sum() == SLOTS
        assert sizes.min() > 0.75 * SLOTS / count


@pytest.mark.parametrize("text", ["0/4", "5/4", "2", "a/b", "1/65", "1/4/4", "-1/4", "²/4"])
def test_a_wrong_shard_is_refused(text: str) -> None:
    with pytest.raises(ShardError, match="2/4"):
        Shard.parse(text)


def test_a_request_of_another_shards_user_is_refused_and_the_shard_that_answers_is_named(
    model_set: ModelSet, jobs: pd.DataFrame
) -> None:
    shards, coded = shards_of(model_set), encode_jobs(jobs, ("user",))
    for shard in shards:
        own = shard.owns(jobs)
        refuse_others(encode_jobs(jobs[own], ("user",)), None, shard)
        with pytest.raises(HTTPError) as refused:
            refuse_others(coded, None, shard)
        first = int(np.flatnonzero(~own)[0])
        (holder,) = (n for n, other in enumerate(shards, 1) if other.owns(jobs)[first])
        assert refused.value.status == 421
        assert f"job {first}: its user's histories are those of shard {holder}/{COUNT}" in str(
            refused.value
        )
