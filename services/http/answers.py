"""The answers of the HTTP contract, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from jobs.schema import COLUMNS, QUERY_FIELDS
from services.http.contract import Count

Natural = Annotated[int, Meta(ge=0)]
Moment = Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None
OutcomeField = Annotated[
    str, Meta(extra_json_schema={"enum": [name for name in COLUMNS if name not in QUERY_FIELDS]})
]


class Problem(Struct, forbid_unknown_fields=True):
    """Every refusal (RFC 9457): one sentence, for callers of version 0.1 as ``error`` too."""

    title: str
    status: int
    detail: str
    error: str


class Prediction(Struct):
    """The numbers of one job, and which model gave them."""

    job_id: str
    cluster: str
    model_version: str
    cold_start: bool


class History(Struct, forbid_unknown_fields=True):
    """A history that took part in a prediction."""

    history: str
    weight: float | None
    jobs: Natural
    median: Annotated[float | None, Meta(description="of its latest outcomes; null of shares")]


class SimilarJob(Struct, forbid_unknown_fields=True):
    """A past job close to the predicted one."""

    source: str | None
    job_id: str | None
    ended_at: str
    value: float | None
    alike: Annotated[list[str], Meta(description="the fields that it shares")]


class Contribution(Struct, forbid_unknown_fields=True):
    """What one input added to the refiner's logarithm (SHAP value)."""

    input: str
    value: float | None
    contribution: float | None


class Allocation(Struct, forbid_unknown_fields=True):
    """The amount to set aside, and the rule that set it."""

    value: float | None
    rule: str


class Explanation(Struct, forbid_unknown_fields=True):
    """Why one target of one job was predicted so."""

    histories: list[History]
    similar: list[SimilarJob]
    contributions: list[Contribution]
    allocation: Allocation


class CanaryShare(Struct, forbid_unknown_fields=True):
    """How many of the jobs a canary answered, the challenger; their rows name it."""

    model_version: str
    jobs: Natural


class _AboutPredictions(Struct, kw_only=True, forbid_unknown_fields=True):
    model_version: str
    coverage: float
    canary: CanaryShare | UnsetType = UNSET
    unread: list[OutcomeField]
    explanations: list[dict[str, Explanation]] | UnsetType = UNSET


class Predictions(_AboutPredictions, kw_only=True, forbid_unknown_fields=True):
    """A prediction for each job."""

    rows: list[Prediction]


class PredictionColumns(_AboutPredictions, kw_only=True, forbid_unknown_fields=True):
    """The same as a list of values for each name."""

    columns: dict[str, list[Any]]


class RejectedJob(Struct, forbid_unknown_fields=True):
    """A job that was not stored, or not whole: its index in the request, and why."""

    index: Natural
    reason: str


class Reported(Struct, forbid_unknown_fields=True):
    """The jobs of a report, counted by what became of them."""

    added: Natural
    updated: Natural
    unchanged: Natural
    rejected: list[RejectedJob]
    left_out: list[RejectedJob] = []


class JobOfTask(Struct):
    """The numbers of one job of a task."""

    cold_start: bool
    cluster: str


class TaskTotals(Struct):
    """The numbers of a whole task."""

    jobs: Count
    at_once: Count


class ScoutPrediction(Struct):
    """A message in PanDA's names and units."""

    msg_type: Literal["scout_prediction"]
    coreCount: int  # noqa: N815


class TaskNeeds(Struct, forbid_unknown_fields=True):
    """The needs of one job and of the whole task."""

    per_job: JobOfTask
    task: TaskTotals
    scout_prediction: ScoutPrediction
    model_version: str


class Ranking(Struct, forbid_unknown_fields=True):
    """A row a candidate, those of each job best first."""

    rows: list[dict[str, Any]]
    model_version: str


class MatchedJob(Struct, forbid_unknown_fields=True):
    """One waiting job, or kind of job, in the slot."""

    job_id: str
    p_ends: float
    p_fits: float | None
    core_seconds_used: float
    core_seconds_lost: float
    gain: float
    chosen: Natural


class _AboutMatching(Struct, kw_only=True, forbid_unknown_fields=True):
    cores_chosen: Natural
    gain_of_choice: float
    gain_bound: float
    model_version: str
    unread: list[OutcomeField]


class Matching(_AboutMatching, kw_only=True, forbid_unknown_fields=True):
    """A row a waiting job, best first."""

    rows: list[MatchedJob]


class MatchingColumns(_AboutMatching, kw_only=True, forbid_unknown_fields=True):
    """The same as a list of values for each name."""

    columns: dict[str, list[Any]]


class BackgroundThread(Struct, forbid_unknown_fields=True):
    """A background thread of the predictor: its failures since the start, and the present one."""

    alive: bool
    failures: Natural
    failing_since: Moment
    error: str


class SetAside(Struct, forbid_unknown_fields=True):
    """Answers that are not in the prediction log, since no retry can store them."""

    answers: Natural
    last_reason: str


class Canary(Struct, forbid_unknown_fields=True):
    """The challenger that answers a share of the jobs before it may be promoted."""

    model_version: str
    share: float


class Model(Struct, forbid_unknown_fields=True):
    """The model that answers, its history, and what is wrong."""

    model_version: Annotated[str, Meta(description='"none" while only the histories answer')]
    state: Annotated[
        Literal["starting", "serving", "degraded"],
        Meta(description="degraded: something in troubles is wrong; it still answers"),
    ]
    serving_since: Moment
    trained_until: Annotated[Moment, Meta(description="end of the training window")]
    stale: Annotated[bool, Meta(description="the training window ended more than 30 days ago")]
    shard: Annotated[
        str | None, Meta(description="whose users' histories it has, as 2/4; null: everybody's")
    ]
    card: Annotated[
        dict[str, Any],
        Meta(description="How the model set came to be: its training window, clusters and errors"),
    ]
    history: dict[str, Any]
    troubles: dict[str, str]
    threads: Annotated[
        dict[str, BackgroundThread], Meta(description="how each background thread does")
    ]
    set_aside: Annotated[
        SetAside, Meta(description="answers that the store refused for good, and why the last one")
    ]
    canary: Annotated[Canary | None, Meta(description="null while no challenger answers")] = None


NUMBERS_BESIDE = (Prediction, JobOfTask, TaskTotals)
"""Answers with further members, one for each number of each target: a number or null."""
