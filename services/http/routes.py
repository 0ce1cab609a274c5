"""The endpoints of the HTTP contract: one table for the router, the guard and the document."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import Struct

from services.http.answers import (
    Matching,
    MatchingColumns,
    Model,
    PredictionColumns,
    Predictions,
    Ranking,
    Reported,
    TaskNeeds,
)
from services.http.contract import (
    MATCH_BODIES,
    OUTCOMES_BODIES,
    PREDICT_BODIES,
    MatchOptions,
    NoOptions,
    Options,
    RankBody,
    RankOptions,
    TaskBody,
)

STATUSES_OF_READING = (400, 408, 413, 415, 422, 429, 503)
"""Refusals of an endpoint that reads a body, beside 401 and 403."""
STATUSES_OF_PREDICTING = (*STATUSES_OF_READING, 421)
"""The same where histories of users answer."""


@dataclass(frozen=True)
class Endpoint:
    """One address: the scope that a token needs ("" for any), its bodies, options and answers.

    Only where ``for_owners`` is set is a token bound to owners answered, about their jobs alone.
    What is ``for_router`` is asked for by the router of shards, and not in the document.
    """

    path: str
    name: str
    summary: str
    description: str = ""
    scope: str = ""
    bodies: tuple[type[Struct], ...] = ()
    options: type[Struct] = NoOptions
    answers: tuple[type[Struct], ...] = ()
    arrow: bool = False
    text: bool = False
    served_by_bentoml: bool = False
    for_owners: bool = False
    for_router: bool = False
    statuses: tuple[int, ...] = (400,)

    @property
    def arrow_answer(self) -> bool:
        """Whether a request as an Arrow stream is answered by one."""
        return self.arrow and self.name != "outcomes"

    @property
    def method(self) -> str:
        """POST where there is a body, else GET."""
        return "POST" if self.bodies else "GET"


ENDPOINTS = (
    Endpoint(
        "/predict",
        "predict",
        "Predict jobs",
        """Predicts each job from its description at submission; one row a job, in the same order.

For every target t of the model (walltime in s, peak_memory in bytes, cpu_time in s, io in
bytes/s, energy in J, gpu_time in s, peak_gpu_memory in bytes): `t` the best single value,
`t_median`, `t_mean`, `t_sd`, the range `t_low` to `t_high` (90 % unless `coverage` differs),
`t_allocation`, the amount to set aside (19 jobs of 20 need no more;
of memory the first rung of the ladder that wastes least, `peak_memory_allocation_2` and
`_3` for the attempts after a failure and `peak_memory_risk` the probability of one),
`t_kill_limit`, where to stop it (99 of 100 need no more), and `t_q<level>` for each quantile.
With `within`, `walltime_within` is the probability that the walltime is at most so many seconds;
of a job with `started_at`, given that it still runs.
With `classes`, `t_class` (from 1; thresholds in the card of `GET /model`, null while there is
no model) and `t_class_probability`. Then `cluster`, `model_version` ("none" while only the
histories answer), `cold_start`.

With `explain`, for at most 100 jobs, `explanations` has for each job and target: the
`histories` that took part, with their weight and number of ended jobs; the `similar` past jobs,
the closest first, with their outcome; the `contributions` of inputs to the CatBoost refiner
(SHAP values, logarithms); and the `rule` that set the `allocation`. This takes some hundred
times as long.

A job is predicted from the outcomes that were available when it was submitted (`submitted_at`,
default now), or at `at` for jobs that still wait. Weights of histories and widths of ranges are
today's, so predictions of past jobs do not measure Gridcast (`gridcast evaluate` and `gridcast
predict` backtest a log for that). Fields that only an outcome has are ignored and named in
`unread`. As an Arrow IPC stream: the same columns in, the same columns out, options as query
parameters, and the rest of the answer as JSON under `gridcast` in the schema's metadata.""",
        scope="predict",
        bodies=PREDICT_BODIES,
        options=Options,
        answers=(Predictions, PredictionColumns),
        arrow=True,
        statuses=STATUSES_OF_PREDICTING,
        for_owners=True,
    ),
    Endpoint(
        "/outcomes",
        "outcomes",
        "Report finished jobs",
        """Takes finished jobs. An answer of 200 means that they are stored durably and in the
history; sending the same again changes nothing.

A job that cannot be true is rejected with its index and the reason; the others are kept.""",
        scope="report",
        bodies=OUTCOMES_BODIES,
        answers=(Reported,),
        arrow=True,
        statuses=STATUSES_OF_READING,
        for_owners=True,
    ),
    Endpoint(
        "/task",
        "task",
        "Predict the needs of a task",
        """Predicts the needs of a task before any of its jobs has run: `per_job` as a prediction
with classes, `task` its CPU time (s, all jobs taken to be equal) and `span` (s from the first start
to the last end, median and 95th percentile, `at_once` jobs running at a time, waiting left
out), and `scout_prediction`, a message in PanDA's names and units.""",
        scope="predict",
        bodies=(TaskBody,),
        answers=(TaskNeeds,),
        statuses=STATUSES_OF_PREDICTING,
        for_owners=True,
    ),
    Endpoint(
        "/rank",
        "rank",
        "Rank where jobs would be done first",
        """Orders the candidates of each job (site, queue, where its input lies) by when it is done;
without a site, replicas.""",
        scope="predict",
        bodies=(RankBody,),
        options=RankOptions,
        answers=(Ranking,),
        arrow=True,
        statuses=STATUSES_OF_PREDICTING,
        for_owners=True,
    ),
    Endpoint(
        "/match",
        "match",
        "Choose waiting jobs for a slot",
        """Orders waiting jobs for the slot that a pilot advertises, best first by the broker's own
order, and chooses those to start. A row is a job or, with `count`, a kind of job:
`p_ends`, the probability that it ends within `seconds_left` (given that it exceeds `ran`, where a
killed attempt has shown that); `p_fits`, that it needs no more than `memory` (null while the model
predicts no memory, or `memory` is not given); `core_seconds_used`, expected of jobs that end in
time, and `core_seconds_lost`, expected of jobs that are killed; `gain`, the former less the latter
and less `kill_price` times the probability of a kill; `chosen`, how many of the row to start.

`policy` is the order. `alice`: AliEn's, 50 · (2 − quota_used) · priority, or 1 where the quota
is used up, less the place in the queue as a share of all, with `quota_weight` before quota_used,
`priority_weight` the exponent of the priority, `wait_weight` before the place, and
`gain_weight` times the gain per core second of the slot added. `wait`: the longest wait first.
`gain`: the largest gain per core first. A job may be chosen
whose probability of not ending, or of not fitting, is at most `risk` and whose gain is positive.
Chosen jobs never need more than `cores` and `memory` together; a job's
memory is its request, else the 95 % quantile of its prediction. In the order given each job that
still fits is chosen; with `gain` it is the filling of most gain (bounded knapsack) where that fits
into memory. `gain_of_choice` and `gain_bound` are the expected gain of the choice, and the most
that any could have. As Arrow: the slot and the options are query parameters, and what is no column
is JSON under `gridcast` in the schema's metadata.""",
        scope="predict",
        bodies=MATCH_BODIES,
        options=MatchOptions,
        answers=(Matching, MatchingColumns),
        arrow=True,
        statuses=STATUSES_OF_PREDICTING,
        for_owners=True,
    ),
    Endpoint(
        "/outlook",
        "outlook",
        "What /match needs of the histories: its bodies and options; always Arrow, a row a job",
        scope="predict",
        bodies=MATCH_BODIES,
        options=MatchOptions,
        arrow=True,
        statuses=STATUSES_OF_PREDICTING,
        for_owners=True,
        for_router=True,
    ),
    Endpoint(
        "/model",
        "model",
        "The model that answers, its history, and what is wrong.",
        answers=(Model,),
        for_owners=True,
    ),
    Endpoint("/metrics", "metrics", "Prometheus metrics.", text=True),
    Endpoint("/docs.json", "docs", "This document.", for_owners=True),
    Endpoint(
        "/livez",
        "livez",
        "200 while the process runs; needs no token.",
        text=True,
        served_by_bentoml=True,
        statuses=(),
    ),
    Endpoint(
        "/readyz",
        "readyz",
        "200 once a model or the bare histories answer; needs no token.",
        text=True,
        served_by_bentoml=True,
        statuses=(400, 503),
    ),
)
DOCUMENTED = tuple(endpoint for endpoint in ENDPOINTS if not endpoint.for_router)
"""The endpoints for callers."""
DOCUMENT_PATHS = ("/", "/docs", "/docs.js", "/openapi.json")
"""The page of the endpoints' document."""
SCOPE_OF_PATH = {endpoint.path: endpoint.scope for endpoint in ENDPOINTS if endpoint.scope}
OWNER_PATHS = frozenset(
    (*(endpoint.path for endpoint in ENDPOINTS if endpoint.for_owners), *DOCUMENT_PATHS)
)


def answers_owners(path: str) -> bool:
    """Whether an address answers a token bound to owners."""
    return path in OWNER_PATHS or path.startswith("/static_content/")
