"""Labels and GPUs of generated jobs, whose effect is known: what they are worth, and targets of GPUs."""

import numpy as np
import pandas as pd
import pytest

from jobs.workload import PlantedLabel, generate
from models.engine.backtest import Backtest, backtest
from models.engine.forecaster import Forecaster
from models.engine.level_selection import select_levels
from models.engine.training import train
from models.quantities.targets import TARGETS

RELEASE = PlantedLabel("release", values=4, factor=4.0)
USELESS = (PlantedLabel("shift", values=3), PlantedLabel("temperature", values=0))
JOBS, DAYS, SEED = 3000, 12.0, 2
GPU_TARGETS = ("energy", "gpu_time", "peak_gpu_memory")


def predicted(jobs: pd.DataFrame, target: str = "walltime") -> Backtest:
    return backtest(jobs, target, warm_up=0.4, refined=False)


def octaves(tested: Backtest, rows: np.ndarray | None = None) -> float:
    """The mean error in octaves, of some rows of the log."""
    errors = np.abs(np.log2((tested.point + 1) / (tested.truth + 1)))
    return float(errors[rows[tested.rows]].mean() if rows is not None else errors.mean())


@pytest.fixture(scope="module")
def with_gpus() -> pd.DataFrame:
    return generate(JOBS, DAYS, SEED, gpus=True).jobs


def test_a_label_of_known_effect_lowers_the_error_by_a_third() -> None:
    labelled = generate(JOBS, DAYS, SEED, labels=[RELEASE, *USELESS]).jobs
    without = octaves(predicted(labelled.assign(labels=None)))
    assert octaves(predicted(labelled)) < 0.7 * without
    first = labelled.iloc[: int(0.4 * JOBS)]
    gains = select_levels(first, [TARGETS["walltime"]]).gains["walltime"]
    assert [gain.field for gain in gains if gain.used] == ["label:release"]


def test_labels_without_effect_change_no_prediction() -> None:
    plain = predicted(generate(JOBS, DAYS, SEED).jobs)
    labelled = predicted(generate(JOBS, DAYS, SEED, labels=USELESS).jobs)
    np.testing.assert_array_equal(labelled.point, plain.point)
    np.testing.assert_array_equal(labelled.quantiles, plain.quantiles)


def test_gpu_memory_is_predicted_to_within_its_own_noise(with_gpus: pd.DataFrame) -> None:
    """It is the number of GPUs times what the program needs of each, to within 3 %."""
    tested = predicted(with_gpus, "peak_gpu_memory")
    noise = 0.03 * np.sqrt(2 / np.pi) / np.log(2)
    assert octaves(tested) < 1.5 * noise
    assert ((tested.low <= tested.truth) & (tested.truth <= tested.high)).mean() > 0.85
    without = with_gpus.drop(columns=["requested_gpus", "gpu_type"])
    assert octaves(tested) < 0.2 * octaves(predicted(without, "peak_gpu_memory"))


@pytest.mark.parametrize("name", ["energy", "gpu_time"])
def test_energy_and_gpu_time_are_predicted_as_closely_as_the_walltime(
    with_gpus: pd.DataFrame, name: str
) -> None:
    """Both are the walltime times what program, cores and GPUs decide, to within 3 %."""
    uses_gpus = with_gpus["requested_gpus"].to_numpy() > 0
    rows = uses_gpus if name == "gpu_time" else np.ones(len(with_gpus), dtype=bool)
    by_walltime = octaves(predicted(with_gpus), rows)
    tested = predicted(with_gpus, name)
    assert octaves(tested, rows) < 1.5 * by_walltime
    assert 0.85 < ((tested.low <= tested.truth) & (tested.truth <= tested.high)).mean() < 0.97


def test_jobs_without_gpus_are_predicted_to_use_no_gpu_time(with_gpus: pd.DataFrame) -> None:
    tested = predicted(with_gpus, "gpu_time")
    without = (with_gpus["requested_gpus"] == 0).to_numpy()[tested.rows]
    assert np.median(tested.point[without]) <= 1.0


def test_one_model_set_predicts_all_three_with_units_and_explanations(
    with_gpus: pd.DataFrame,
) -> None:
    past, queries = with_gpus.iloc[:2400], with_gpus.iloc[2400:2420]
    model_set = train(past, targets=("walltime", *GPU_TARGETS))
    assert model_set.card.targets == ("walltime", *GPU_TARGETS)
    assert any(row["used"] for row in model_set.card.optional_fields["peak_gpu_memory"])
    forecaster = Forecaster(model_set)
    forecaster.learn(past)
    predictions = forecaster.predict(queries)
    for name in GPU_TARGETS:
        assert (predictions[f"{name}_low"] <= predictions[f"{name}_high"]).all()
        assert np.isfinite(predictions[f"{name}_allocation"]).all()
    assert [TARGETS[name].unit for name in GPU_TARGETS] == ["J", "s", "bytes"]
