"""The Python interface: read a log, backtest it, and predict jobs, as the commands do.

Import it as ``from gridcast import Forecaster, backtest, read_log``. These names, their arguments
and the columns of predictions are stable; the modules beneath may change.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from models.engine.model_set import ModelSet
    from models.evaluation.backtest import Evaluation


def read_log(
    path: str | Path,
    *,
    format: str | None = None,
    mapping: Sequence[str] = (),
    timezone: str = "UTC",
) -> pd.DataFrame:
    """Read the jobs of a log file, of any format that ``gridcast ingest`` reads.

    Args:
        path: The file, compressed or not.
        format: Name of its format; None: recognised from the file.
        mapping: Column map of a table, as entries COLUMN=FIELD[:UNIT].
        timezone: Zone of times that carry none.

    Returns:
        A row a valid job, by submission, with the fields of docs/reference/fields.md as columns.

    Raises:
        InputError: The file cannot be read, or is no log of jobs.
    """
    from jobs.ingest import read_arguments
    from jobs.ingest import read_log as read

    return read(path, **read_arguments(format, mapping, timezone=timezone))[0]


def backtest(
    jobs: pd.DataFrame,
    target: str = "walltime",
    *,
    warm_up: float = 0.1,
    predictors: Sequence[str] | None = None,
) -> Evaluation:
    """Predict each job of a log at its submission by what had ended, as ``gridcast evaluate``.

    Args:
        jobs: The log.
        target: What is predicted: walltime, peak_memory, cpu_time, …
        warm_up: The share of the jobs, by submission, that is not counted.
        predictors: Names of the predictors, such as gridcast; None: Gridcast and all baselines.

    Returns:
        ``rows`` (a dict a predictor with its errors), ``jobs`` (a row a counted job: actual,
        gridcast, low, high), ``reliability`` (of each of QUANTILE_LEVELS the share of outcomes not
        above it) and ``deciles`` (the histogram of the probability integral transform).

    Raises:
        InputError: There is no such target or predictor, or no outcome to compare with.
    """
    from models.engine.training import find_target
    from models.evaluation.backtest import evaluate

    return evaluate(jobs, find_target(target), warm_up, predictors)


class Forecaster:
    """Predicts jobs by the outcomes it has learned, from the first outcome on.

    ``Forecaster()`` predicts by the histories alone, ``Forecaster.train`` adds CatBoost models,
    and ``Forecaster.champion`` answers as the predictor of a data folder does. It may be called
    from several threads.

    Args:
        targets: What to predict, the most important first: walltime, peak_memory, cpu_time, …
        model_set: A trained version, whose targets are predicted instead.

    Raises:
        InputError: There is no such target.
    """

    def __init__(
        self, targets: Sequence[str] = ("walltime",), model_set: ModelSet | None = None
    ) -> None:
        from models.engine.forecaster import Forecaster as Engine
        from models.engine.training import find_target

        self._engine = Engine(model_set, tuple(find_target(name).name for name in targets))
        self._sources: set[str] = set()

    @classmethod
    def train(
        cls, jobs: pd.DataFrame, targets: Sequence[str] = ("walltime",), **options: Any
    ) -> Forecaster:
        """Train CatBoost models on the jobs of a log, and learn their outcomes.

        Args:
            jobs: The log.
            targets: What to predict, the most important first.
            options: Further arguments of ``models.engine.training.train``, such as cluster_by.

        Raises:
            InputError: There is no such target, or nothing to train on.
        """
        from models.engine.training import train

        model_set = train(jobs, targets=tuple(targets), **options)
        return cls(model_set=model_set).learn(jobs)

    @classmethod
    def champion(cls, home: str | Path | None = None) -> Forecaster:
        """Load the champion of a data folder, with all ended jobs of its store learned.

        Without a champion the histories of the stored jobs predict alone.

        Args:
            home: The data folder, which becomes this process's ``GRIDCAST_HOME``; None: the one of
                the settings.

        Raises:
            GridcastError: The store or the registry cannot be read, or the version does not load.
        """
        from infra.settings import prepare_environment, use_home
        from jobs.store import open_store, read_jobs
        from models.engine.advice import Advice
        from models.releases import registry
        from models.releases.verification import load_model_set

        settings = prepare_environment() if home is None else use_home(home)
        version, model_set = registry.champion(settings), None
        if version:
            loaded = load_model_set(version, settings)
            model_set = replace(loaded, card=replace(loaded.card, version=version.label))
        forecaster = cls(model_set=model_set)
        forecaster._engine.advice = Advice.of(settings.failure_price, settings.left_alone)
        store = open_store(settings.store_url)
        try:
            return forecaster.learn(read_jobs(store, ended=True))
        finally:
            store.dispose()

    @property
    def version(self) -> str:
        """The version that predicts, or ``none`` for the histories alone."""
        return self._engine.model_version

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the quantities that are predicted."""
        return self._engine.names

    def learn(self, jobs: pd.DataFrame) -> Forecaster:
        """Learn the outcomes of jobs that ended, in any order; those learned before change nothing.

        Returns:
            This forecaster.
        """
        self._engine.learn(jobs[jobs["ended_at"].notna()])
        self._sources |= set(jobs["source"].dropna())
        return self

    def predict(
        self,
        jobs: pd.DataFrame | Iterable[Mapping[str, Any]],
        *,
        quantiles: Sequence[float] = (),
        at: datetime | None = None,
    ) -> pd.DataFrame:
        """Predict jobs by the outcomes available at each submission; their own are not read.

        A job without ``submitted_at`` is submitted now, one without ``job_id`` gets its position,
        and one without ``source`` the learned jobs' source, if they have only one.

        Args:
            jobs: The jobs: a frame, or a mapping each, with the fields of docs/reference/fields.md.
            quantiles: Levels of further quantiles, between 0 and 1.
            at: As of when, instead of each submission.

        Returns:
            A row a job, in order: job_id; for each target t the columns t (best single value),
            t_median, t_mean, t_sd, t_low and t_high (90 % range), t_allocation (95 % quantile; the
            first rung of the ladder for peak_memory), t_kill_limit (99 %) and t_q<level>; then
            cluster, model_version and cold_start.

        Raises:
            InputError: A job has no source, and more than one or none was learned.
        """
        import pandas as pd

        from infra.errors import InputError
        from jobs.schema import QUERY_FIELDS, conform

        queries = pd.DataFrame(jobs if isinstance(jobs, pd.DataFrame) else list(jobs))
        position = pd.Series(range(len(queries)), index=queries.index).astype(str)
        queries = conform(queries[[name for name in QUERY_FIELDS if name in queries]])
        if queries["source"].isna().any() and len(self._sources) != 1:
            raise InputError(
                "each job needs a source: the learned jobs come from "
                f"{', '.join(sorted(self._sources)) or 'nowhere'}"
            )
        queries = queries.fillna({"submitted_at": pd.Timestamp(at or datetime.now(UTC))})
        queries["source"] = queries["source"].fillna(next(iter(self._sources), None))
        queries["job_id"] = queries["job_id"].fillna(position)
        return self._engine.predict(queries, tuple(quantiles), at).set_axis(queries.index)
