"""What the page shows of one user's jobs, and of one job: predictions, and why they are so."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

import pandas as pd

from infra.errors import InputError
from infra.settings import Settings
from jobs.labels import parse_labels
from jobs.owners import Owners, select_owned
from jobs.schema import COLUMNS, QUERY_FIELDS
from jobs.store import read_attempts, read_jobs, read_predictions_of
from models.quantities.targets import TARGETS
from monitoring.advising import advise, sentences
from services.client import Gridcast, RefusedError, UnavailableError
from services.dashboard.values import records
from services.http.callers import own_token
from services.http.errors import HTTPError
from services.http.explanations import hide_others

if TYPE_CHECKING:
    from sqlalchemy import Engine

HISTORY = timedelta(days=60)
"""Open jobs that were submitted longer ago are not listed."""
MAX_OPEN = 300
ADVICE_DAYS = 28
PATIENCE = 10.0
"""Seconds that the predictor has to answer."""
TIMES = ("submitted_at", "started_at", "ended_at")
ALMOST_ALL = 0.75
"""Similar jobs are summed up as one number where so many of them are alike."""


def user(
    engine: Engine,
    tasks: pd.DataFrame,
    name: str,
    now: datetime,
    owners: Owners | None = None,
) -> dict[str, Any]:
    """List the open jobs of a user with their predicted start and end.

    The predictions are those that were logged; a start needs one of the wait.

    Args:
        engine: The store.
        tasks: The tasks as of the latest update.
        name: The user.
        now: The present.
        owners: Whose jobs are listed; None: all.

    Returns:
        ``jobs``: rows with the job, ``state``, ``waits_for``, the open task that its task waits
        for if it has not begun, and ``start`` and ``end`` as low, median and high times (None:
        unknown, or already exceeded); ``count`` of each state, ``ended`` and
        ``failed`` of the last day.
    """
    columns = (
        "source",
        "job_id",
        "task_id",
        "after_task_id",
        "site",
        "queue",
        "program",
        "job_name",
        "user",
        "group",
        *TIMES,
    )
    since, having = now - HISTORY, {"user": name}
    open_jobs = read_jobs(
        engine, since=since, until=now, ended=False, columns=columns, having=having, limit=5000
    )
    open_jobs = select_owned(open_jobs, owners)
    started = open_jobs["started_at"] <= now
    state = started.map({True: "running", False: "waiting"})
    jobs = open_jobs.assign(state=state).tail(MAX_OPEN)
    logged = [
        read_predictions_of(engine, str(source), own["job_id"].tolist(), ("walltime", "wait"))
        for source, own in jobs.groupby("source")
    ]
    rows = records(jobs)
    predictions = pd.concat(logged) if logged else pd.DataFrame(columns=["source"])
    latest: dict[tuple[str, str], dict[str, Any]] = {}
    logged_rows: list[dict[str, Any]] = predictions.to_dict("records")  # type: ignore[assignment]
    for prediction in logged_rows:
        key = prediction["source"], prediction["job_id"]
        latest.setdefault(key, {})[prediction["target"]] = prediction
    begun = set(zip(open_jobs["source"][started], open_jobs["task_id"][started], strict=True))
    open_tasks = set[tuple[Any, Any]]()
    for task in tasks[tasks["kind"] == "task"].to_dict("records"):
        key = task["source"], task["task"]
        begun |= {key} if task["ended"] else set()
        open_tasks |= {key} if task["state"] != "done" else set()
    for row in rows:
        source, before = row["source"], row["after_task_id"]
        is_blocked = (source, before) in open_tasks and (source, row["task_id"]) not in begun
        row["waits_for"] = before if is_blocked else None
        logged_of_job = {} if is_blocked else latest.get((source, row["job_id"]), {})
        row |= start_and_end(row, logged_of_job, now)
    return {
        "user": name,
        "count": {str(key): int(jobs) for key, jobs in state.value_counts().items()},
        "jobs": rows,
    }


def start_and_end(
    job: dict[str, Any], logged: dict[str, dict[str, Any]], now: datetime
) -> dict[str, Any]:
    """Predict when an open job starts and ends: low, median and high as ISO times.

    Args:
        job: Its ``submitted_at`` and ``started_at`` (ISO times).
        logged: Its latest predictions, by target.
        now: The present; a time before it is None.
    """
    times: dict[str, Any] = {"start": None, "end": None}
    begin = {"low": 0.0, "median": 0.0, "high": 0.0}
    origin = datetime.fromisoformat(job["started_at"] or job["submitted_at"])
    if not job["started_at"]:
        # A job that has waited longer than any before it has a range of no width: no prediction.
        if "wait" not in logged or not logged["wait"]["low"] < logged["wait"]["high"]:
            return times
        begin = {name: float(logged["wait"][name]) for name in begin}
        times["start"] = {name: _later(origin, begin[name], now) for name in begin}
    if "walltime" in logged:
        times["end"] = {
            name: _later(origin, begin[name] + float(logged["walltime"][name]), now)
            for name in begin
        }
    return times


def _later(origin: datetime, seconds: float, now: datetime) -> str | None:
    if not 0 <= seconds < 1e9:
        return None
    moment = origin + timedelta(seconds=round(seconds))
    return moment.isoformat() if moment > now else None


def advice(
    engine: Engine, settings: Settings, name: str, now: datetime, owners: Owners | None = None
) -> dict[str, Any]:
    """Advise a user what to request instead, from the jobs of the last ADVICE_DAYS.

    Args:
        engine: The store.
        settings: Where the predictor is.
        name: The user.
        now: The present.
        owners: By whose jobs; None: all of the user.

    Raises:
        HTTPError: No job of the user has ended (404), or the predictor does not answer (503).
    """
    since = now - timedelta(days=ADVICE_DAYS)
    with _predictor(settings) as predictor:
        try:
            advised = advise(
                engine, _predict(predictor), name, since, now, by="user", owners=owners
            )
        except InputError as error:
            raise HTTPError(404, str(error)) from None
    return {"sentences": sentences(advised, "UTC"), "rows": advised.rows}


def _predictor(settings: Settings) -> Gridcast:
    return Gridcast(settings.predictor_address, own_token(settings, "predict"), timeout=PATIENCE)


def _predict(
    predictor: Gridcast,
) -> Callable[[list[dict[str, Any]], Iterable[float]], list[dict[str, Any]]]:
    def predict(rows: list[dict[str, Any]], quantiles: Iterable[float]) -> list[dict[str, Any]]:
        named = [{"job_id": str(number), **row} for number, row in enumerate(rows)]
        answers = predictor.predict(named, quantiles=quantiles, keep=False)
        if any("fallback" in answer for answer in answers):
            raise HTTPError(503, f"the predictor does not answer: {answers[0]['fallback']}")
        return answers

    return predict


def job(
    engine: Engine, settings: Settings, source: str, job_id: str, owners: Owners | None = None
) -> dict[str, Any]:
    """Describe one job: its record and earlier attempts, its logged predictions, and their reasons.

    Args:
        engine: The store.
        settings: Where the predictor is.
        source: The source of the job.
        job_id: The job.
        owners: Whose jobs are described and named; None: all.

    Raises:
        HTTPError: The store has no such job of theirs (404).
    """
    stored = read_jobs(engine, having={"source": source, "job_id": job_id}, limit=1)
    stored = select_owned(stored, owners)
    if stored.empty:
        of_source = f" of {source}" if source else ""
        raise HTTPError(404, f"the store has no job {job_id}{of_source}")
    [record] = records(stored)
    logged = read_predictions_of(engine, source, [job_id])
    actual = {
        name: float(TARGETS[name].value(stored)[0])
        for name in TARGETS.keys() & set(logged["target"])
        if stored["ended_at"].notna().iloc[0]
    }
    columns = ["asked_at", "target", "model_version", "point", "median", "low", "high", "cluster"]
    answer = {
        "job": {name: record[name] for name in COLUMNS if record[name] is not None},
        "attempts": records(read_attempts(engine, stored)),
        "predictions": [
            {**row, "actual": actual.get(row["target"]), "unit": TARGETS[row["target"]].unit}
            for row in records(logged[columns])
        ],
    }
    try:
        explained = _explain(settings, record)
        similar = hide_others(explained["similar"], engine, owners)
        return {**answer, **explained, "similar": similar}
    except (UnavailableError, RefusedError) as error:
        reason = f"The predictor explains it, and it does not answer: {error}"
        return {**answer, "sentences": [], "similar": [], "trouble": reason}


def _explain(settings: Settings, record: dict[str, Any]) -> dict[str, Any]:
    """Explain the walltime of a job as of its submission, in sentences."""
    query = {name: record[name] for name in QUERY_FIELDS if record[name] is not None}
    query = {"job_id": record["job_id"], "source": record["source"], **query}
    if "labels" in query:
        query["labels"] = parse_labels(query["labels"])
    with _predictor(settings) as predictor:
        [explanation] = predictor.explain([query], at=record["submitted_at"], keep=False)
        [answer] = predictor.predict([query], at=record["submitted_at"], keep=False)
    of_target = explanation.get("walltime") or {}
    return {
        "sentences": explain_in_words(of_target, answer),
        "similar": of_target.get("similar", []),
        "histories": of_target.get("histories", []),
        "contributions": of_target.get("contributions", []),
        "trouble": "",
    }


def explain_in_words(explanation: dict[str, Any], answer: dict[str, Any]) -> list[str]:
    """Say in English where a prediction of the walltime comes from.

    Args:
        explanation: Of the walltime, as ``POST /predict`` gives it.
        answer: The predicted numbers.

    >>> explain_in_words(
    ...     {"histories": [{"history": "user+program", "weight": 0.7, "jobs": 58, "median": 5040}]},
    ...     {},
    ... )
    ['58 jobs of the same user and program had ended before; half of the latest took under 1.4 h.']
    """
    words = []
    for number, history in enumerate(explanation.get("histories", ())[:2]):
        count, usual = history["jobs"], history.get("median")
        fields = _in_words(history["history"])
        text = f"{count:,} job{'s' * (count != 1)} {fields} had ended before"
        if usual is not None:
            text += f"; half of the latest took under {duration(usual)}"
        words.append(f"{text}." if not number else f"Less weight has this: {text}.")
    similar = [row["value"] for row in explanation.get("similar", ()) if row["value"] is not None]
    if similar:
        words.append(_alike(similar))
    if answer.get("walltime_median") is not None:
        low, high, median = (answer[f"walltime_{end}"] for end in ("low", "high", "median"))
        words.append(
            "Predicted from all its histories, not only these: half of such jobs should take "
            f"under {duration(median)}, and nine of ten {duration(low)} to {duration(high)}."
        )
    rule = explanation.get("allocation", {})
    if rule.get("value") is not None:
        words.append(f"To set aside: {duration(rule['value'])}, {rule['rule']}.")
    return words


def _in_words(history: str) -> str:
    """A history's name as words: its fields, joined by plus signs."""
    names = history.removesuffix(" over limit").split("+")
    fields = [name.replace("_", " ") for name in names if name not in ("source", "all")]
    if not fields:
        return "of anyone"
    first, last = ", ".join(fields[:-1]), fields[-1]
    return f"of the same {first} and {last}" if first else f"of the same {last}"


def _alike(values: list[float]) -> str:
    """Sum up what the most similar jobs took."""
    count = len(values)
    if count == 1:
        return f"The most similar job took {duration(values[0])}."
    groups = [
        [close for close in values if abs(close - value) <= 0.1 * max(value, 60.0)]
        for value in values
    ]
    alike = max(groups, key=len)
    if len(alike) >= ALMOST_ALL * count:
        share = f"All {count}" if len(alike) == count else f"{len(alike)} of the {count}"
        return f"{share} most similar jobs took about {duration(median(alike))}."
    return f"The {count} most similar took {duration(min(values))} to {duration(max(values))}."


def duration(seconds: float) -> str:
    """A time in the unit that a person would say it in.

    >>> duration(45), duration(300), duration(86400)
    ('45 s', '5 min', '24 h')
    """
    if seconds < 60:
        return f"{seconds:.3g} s"
    if seconds < 3600:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h" if seconds < 72 * 3600 else f"{seconds / 86400:.3g} days"
