"""What is done with the champion: promote a version to it, and let it predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from infra.aliases import Progress
from infra.errors import InputError
from infra.settings import Settings
from jobs.store import read_jobs
from models.engine.backtest import fields_of_replay, predict_in_time
from models.engine.forecaster import Forecaster
from models.engine.predictions import DECIMALS
from models.releases import registry
from models.releases.audited_changes import recording_refusal
from models.releases.noted_champion import find_champion
from models.releases.verification import load_model_set, verify
from models.releases.versions import Version

if TYPE_CHECKING:
    from sqlalchemy import Engine


def promote(version: int | None, settings: Settings, *, by: str, why: str) -> Version:
    """Make a version that a person chose champion, if it loads and answers.

    Args:
        version: Its number; None: the challenger.
        settings: Whose registry.
        by: Who promotes.
        why: The reason, kept with the version.

    Raises:
        InputError: No challenger waits, or there is no such version.
        ModelError: The version does not load or answer; the champion stays.
        RegistryError: MLflow cannot be reached.
    """
    with recording_refusal(settings, "promote", by):
        if version is None:
            chosen = registry.challenger(settings)
            if chosen is None:
                raise InputError(
                    "no challenger waits: name a version (gridcast history shows them)"
                )
        else:
            chosen = _find(version, settings)
        verify(chosen, settings)
    return registry.promote(chosen.version, by=by, why=why, settings=settings)


def challenge(version: int, settings: Settings, *, by: str, why: str) -> Version:
    """Make a version that a person chose challenger, if it loads and answers.

    Args:
        version: Its number.
        settings: Whose registry.
        by: Who chose it.
        why: The reason, for the audit log.

    Raises:
        InputError: There is no such version, it is champion, or there is no champion.
        ModelError: The version does not load or answer.
        RegistryError: MLflow cannot be reached.
    """
    with recording_refusal(settings, registry.CHALLENGER, by):
        chosen, champion = _find(version, settings), registry.champion(settings)
        if champion is None or champion.version == chosen.version:
            reason = "there is no champion" if champion is None else f"{chosen.label} is champion"
            raise InputError(f"{reason}: a challenger needs another version as champion")
        verify(chosen, settings)
    registry.set_challenger(chosen, settings, by=by, why=why)
    return _find(version, settings)


def _find(version: int, settings: Settings) -> Version:
    """The version of a number; InputError where there is none."""
    chosen = registry.find(version, settings)
    if chosen is None:
        raise InputError(f"there is no version {version}: gridcast history shows which there are")
    return chosen


def predict_jobs(
    engine: Engine,
    settings: Settings,
    jobs: pd.DataFrame,
    quantiles: tuple[float, ...] = (),
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Predict ``jobs`` with the champion, by the histories as they were at each submission.

    Args:
        engine: The store, whose ended jobs make the histories.
        settings: Whose champion; without one the histories alone predict.
        jobs: The jobs, whose outcomes are not read.
        quantiles: Quantiles to add.
        progress: Told of the progress.

    Returns:
        The rows of ``Forecaster.predict`` under the index of ``jobs``, with the version's label
        and ``in_training``: whether the job was submitted before the latest outcome of its source
        in the champion's training, so that the prediction is no measure of the champion.
    """
    champion = find_champion(settings)
    model_set = load_model_set(champion, settings) if champion else None
    until, columns = jobs["submitted_at"].max(), fields_of_replay(model_set)
    history = read_jobs(engine, until=until, ended=True, columns=columns)
    answers = predict_in_time(model_set, history, jobs, quantiles, progress)
    answers = answers.loc[jobs.index].round(DECIMALS)
    if champion is None or model_set is None:
        return answers.assign(in_training=False)
    trained_until = jobs["source"].map(model_set.card.trained_until)
    in_training = jobs["submitted_at"] <= pd.to_datetime(trained_until, utc=True)
    return answers.assign(model_version=champion.label, in_training=in_training.to_numpy())


def load_forecaster(engine: Engine, settings: Settings) -> Forecaster:
    """Return the champion's forecaster (or the bare histories) with all that has ended learned."""
    champion = find_champion(settings)
    forecaster = Forecaster(load_model_set(champion, settings) if champion else None)
    forecaster.learn(read_jobs(engine, ended=True))
    return forecaster
