"""The OpenAPI document of the doors, made from the job schema, and the page that shows it without any other server's help."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jobs.schema import COLUMNS, EARLIEST, FIELDS, QUERY_FIELDS, STATUSES, Field
from models.ranking.order import POLICIES
from services.http.bodies import ARROW_TYPE, JSON_TYPE, MAX_JOBS
from services.http.columns import MAX_TEXT
from services.http.contract import MAX_QUANTILES, REQUIRED
from services.http.rank import OF_CANDIDATE
from services.http.task import MAX_TASK_JOBS

Schema = dict[str, Any]

PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Gridcast predictor</title><link rel="stylesheet" href="./static_content/swagger-ui.css"></head>
<body><div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script>window.onload = () => SwaggerUIBundle({url: "./docs.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null})</script>
</body></html>
"""
"""Swagger UI from the files that BentoML ships; its own page asks a foreign server for a tracker."""

PREDICTION = """Predicts each job from its raw description; one row a job, in the order asked.

For every target t that the model knows (walltime in s, peak_memory in bytes, cpu_time in s, io in bytes/s): `t` the best single
value, `t_median`, `t_mean`, `t_sd`, the range `t_low` to `t_high` (90 % unless `coverage` says otherwise), `t_allocation`, what to
set aside (19 jobs of 20 need no more; of memory the first rung of the ladder that wastes least, `peak_memory_allocation_2` and `_3` being
what to try after a failure and `peak_memory_risk` the probability of one), `t_kill_limit`, where to stop it (99 of 100 need no more),
and `t_q<level>` for each quantile asked for. With `classes`, `t_class` (from 1; thresholds in the card of `GET /model`, null while
there is no model) and `t_class_probability`. Then `cluster`, `model_version` ("none" while only the histories answer), `cold_start`.

With `explain`, for at most 100 jobs, `explanations` has for each job and target why: the `histories` that spoke, with their weight and how
many jobs of them had ended; the `similar` past jobs, the closest first, with their outcome; the `contributions` of inputs to the CatBoost
refiner (SHAP values, logarithms); and the `rule` that set the `allocation`. This takes some hundred times as long.

A job is answered by the outcomes that were known when it was submitted (`submitted_at`, default now), or at `at` for jobs that still wait.
How far each history is trusted, and how wide ranges must be, is what is known today: so the answers of past jobs are no measure of
Gridcast (`gridcast evaluate` and `gridcast predict` live through a log for that).
Fields that only an outcome has are left unread and named in `unread`. As an Arrow IPC stream: the same columns in, the same
columns out, options as query parameters, and the rest of the answer as JSON under `gridcast` in the schema's metadata."""

REPORT = """Takes finished jobs. When it says yes they are stored durably and in the history; saying the same again changes nothing.

A job that cannot be true is rejected with its index and the reason; the others are kept."""


@lru_cache(maxsize=1)
def describe() -> Schema:
    """The OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Gridcast predictor",
            "version": "1",
            "description": "Before a grid job runs: how long it will run and what it will use, with honest ranges.",
        },
        "security": [{}, {"bearer": []}],
        "paths": {
            "/predict": {"post": _predict()},
            "/outcomes": {"post": _outcomes()},
            "/task": {"post": _task()},
            "/rank": {"post": _rank()},
            "/model": {
                "get": _get(
                    "model",
                    "What answers, on what history, and what is wrong.",
                    JSON_TYPE,
                    _ref("Model"),
                )
            },
            "/metrics": {
                "get": _get("metrics", "Prometheus metrics.", "text/plain", {"type": "string"})
            },
            "/docs.json": {"get": _get("docs", "This document.", JSON_TYPE, {"type": "object"})},
            "/livez": {
                "get": _get(
                    "livez",
                    "Says that the process lives; needs no token.",
                    "text/plain",
                    {"type": "string"},
                )
            },
            "/readyz": {
                "get": _get(
                    "readyz",
                    "Says that a model or the bare histories answer.",
                    "text/plain",
                    {"type": "string"},
                    {"503": "It is starting."},
                )
            },
        },
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "JobToPredict": _job(REQUIRED),
                "FinishedJob": _job((*REQUIRED, "submitted_at")),
                "JobToPredictColumns": _columns(REQUIRED),
                "FinishedJobColumns": _columns((*REQUIRED, "submitted_at")),
                "Prediction": _prediction(),
                "Predictions": _predictions(),
                "Explanation": _explanation(),
                "OutcomeReport": _reported(),
                "Model": _model(),
                "Error": _object({"error": {"type": "string"}}),
            },
        },
    }


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(
    properties: Schema, required: tuple[str, ...] | None = None, others: Any = False
) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": others,
    }


def _value(field: Field) -> Schema:
    """What one field of a job may hold."""
    meaning = f"{field.meaning} ({field.unit})" if field.unit else field.meaning
    if field.kind == "number":
        return {
            "type": ["number", "null"],
            "minimum": field.lowest,
            "maximum": field.highest,
            "description": meaning,
        }
    if field.kind == "time":
        meaning += f"; ISO 8601 (UTC unless it has an offset) or Unix seconds, from {EARLIEST:%Y} to a day from now"
        return {
            "anyOf": [
                {"type": "string", "format": "date-time"},
                {"type": "number"},
                {"type": "null"},
            ],
            "description": meaning,
        }
    text: Schema = {
        "type": ["string", "null"],
        "maxLength": MAX_TEXT,
        "pattern": "^[^\\x00]*$",
        "description": meaning,
    }
    return text | {"enum": [*STATUSES, None]} if field.name == "status" else text


def _job(required: tuple[str, ...]) -> Schema:
    properties = {field.name: _value(field) for field in FIELDS}
    for name in ("job_id", "source"):
        properties[name] |= {"type": "string", "minLength": 1}
    if "submitted_at" in required:
        properties["submitted_at"] |= {"anyOf": properties["submitted_at"]["anyOf"][:2]}
    return _object(properties, required)


def _columns(required: tuple[str, ...]) -> Schema:
    columns = {
        name: {"type": "array", "items": value, "maxItems": MAX_JOBS}
        for name, value in _job(required)["properties"].items()
    }
    return _object(columns, required) | {"description": "All lists are of one length."}


def _body(job: str, options: Schema) -> Schema:
    rows = {"type": "array", "items": _ref(job), "maxItems": MAX_JOBS}
    shapes = [
        _object({"jobs": rows, **options}, ("jobs",)),
        _object({"columns": _ref(f"{job}Columns"), **options}, ("columns",)),
    ]
    arrow = {
        "type": "string",
        "format": "binary",
        "description": "An Arrow IPC stream with a column for each field; uncompressed",
    }
    return {
        "required": True,
        "content": {JSON_TYPE: {"schema": {"oneOf": shapes}}, ARROW_TYPE: {"schema": arrow}},
    }


def _options() -> Schema:
    share = {"type": "number", "minimum": 0.001, "maximum": 0.999}
    moment = {
        "anyOf": [{"const": "now"}, {"type": "string", "format": "date-time"}],
        "description": "from 1980 to now",
    }
    quantiles = {"type": "array", "items": share, "maxItems": MAX_QUANTILES}
    classes = {
        "type": "boolean",
        "default": False,
        "description": "the likeliest class of each target too",
    }
    explain = {"type": "boolean", "default": False, "description": "why, too; at most 100 jobs"}
    keep = {
        "type": "boolean",
        "default": True,
        "description": "false: jobs that are only thought of, left out of the log",
    }
    told = {"quantiles": quantiles, "coverage": {**share, "default": 0.9}, "at": moment}
    return {**told, "classes": classes, "explain": explain, "keep": keep}


def _predict() -> Schema:
    options = _options()
    query = [
        {
            "name": "quantiles",
            "in": "query",
            "style": "form",
            "explode": False,
            "schema": options["quantiles"],
        },
        *(
            {"name": name, "in": "query", "schema": options[name]}
            for name in ("coverage", "at", "classes", "explain", "keep")
        ),
    ]
    answer = {
        JSON_TYPE: {"schema": _ref("Predictions")},
        ARROW_TYPE: {"schema": {"type": "string", "format": "binary"}},
    }
    return {
        "operationId": "predict",
        "summary": "Predict jobs",
        "description": PREDICTION,
        "parameters": query,
        "requestBody": _body("JobToPredict", options),
        "responses": {
            "200": {"description": "A prediction for each job", "content": answer},
            **_errors("400", "408", "413", "415", "422", "429", "503"),
        },
    }


def _outcomes() -> Schema:
    return {
        "operationId": "outcomes",
        "summary": "Report finished jobs",
        "description": REPORT,
        "requestBody": _body("FinishedJob", {}),
        "responses": {
            "200": {
                "description": "What became of the jobs",
                "content": {JSON_TYPE: {"schema": _ref("OutcomeReport")}},
            },
            **_errors("400", "408", "413", "415", "422", "429", "503"),
        },
    }


TASK = """Tells what a task needs before any of its jobs has run: `per_job` as a prediction with classes, `task` its CPU time (s, all jobs
taken to be as one) and `span` (s from the first start to the last end, median and 95th percentile, `at_once` jobs running at a time,
waiting left out), and `scout_prediction`, a message in PanDA's names and units."""


def _task() -> Schema:
    count = {"type": "integer", "minimum": 1, "maximum": MAX_TASK_JOBS}
    fields = _job(("source",))
    fields["properties"] = {
        name: value for name, value in fields["properties"].items() if name in QUERY_FIELDS
    }
    given = {"task": fields, "jobs": count, "at_once": {**count, "type": ["integer", "null"]}}
    given["at"] = {"anyOf": [*_options()["at"]["anyOf"], {"type": "null"}]}
    number = {"type": ["number", "null"]}
    per_job = _object(
        {"cold_start": {"type": "boolean"}, "cluster": {"type": "string"}}, others=number
    )
    whole = _object({"jobs": count, "at_once": count}, others=number)
    message = _object(
        {"msg_type": {"const": "scout_prediction"}, "coreCount": {"type": "integer"}}, others=True
    )
    answer = _object(
        {
            "per_job": per_job,
            "task": whole,
            "scout_prediction": message,
            "model_version": {"type": "string"},
        }
    )
    return {
        "operationId": "task",
        "summary": "Tell what a task needs",
        "description": TASK,
        "requestBody": {
            "required": True,
            "content": {JSON_TYPE: {"schema": _object(given, ("task", "jobs"))}},
        },
        "responses": {
            "200": {
                "description": "What a job and the whole task need",
                "content": {JSON_TYPE: {"schema": answer}},
            },
            **_errors("400", "408", "413", "415", "422", "429", "503"),
        },
    }


def _rank() -> Schema:
    text, number = {"type": ["string", "null"]}, {"type": ["number", "null"]}
    candidate = _object(
        {
            name: number if name.endswith(("bytes", "deadline", "power")) else text
            for name in OF_CANDIDATE
        }
    )
    job = _job(("source",))
    job["properties"] = {
        name: value for name, value in job["properties"].items() if name in QUERY_FIELDS
    }
    job["properties"] |= candidate["properties"] | {
        "candidates": {"type": "array", "items": candidate, "minItems": 1}
    }
    given = {
        "jobs": {"type": "array", "items": {**job, "required": ["candidates"]}},
        "policy": {"enum": list(POLICIES)},
    }
    given |= {
        "tuning": {"type": "number"},
        "level": {"type": "number"},
        "overlap": {"type": "boolean"},
        "at": _options()["at"],
    }
    answer = _object(
        {
            "rows": {"type": "array", "items": {"type": "object"}},
            "model_version": {"type": "string"},
        }
    )
    arrow = {"schema": {"type": "string", "format": "binary"}}
    return {
        "operationId": "rank",
        "summary": "Say where jobs would be done first",
        "description": "Orders the candidates of each job (site, queue, where its input lies) by when it is done; with no site, replicas.",
        "requestBody": {
            "required": True,
            "content": {JSON_TYPE: {"schema": _object(given, ("jobs",))}, ARROW_TYPE: arrow},
        },
        "responses": {
            "200": {
                "description": "The candidates, best first",
                "content": {JSON_TYPE: {"schema": answer}, ARROW_TYPE: arrow},
            },
            **_errors("400", "408", "413", "415", "422", "429", "503"),
        },
    }


ERRORS = {
    "400": "The body or a header cannot be read",
    "401": "No known token",
    "403": "The token lacks the scope, or the caller is not of this machine",
    "408": "The body did not arrive in time",
    "413": "Too many bytes or jobs",
    "415": "Neither JSON nor an Arrow stream",
    "422": "A job, a field or an option is wrong; the sentence names it",
    "429": "Too much is waiting; Retry-After says when to come again",
    "503": "Not now; Retry-After says when to come again, and nothing of the request was kept",
}


def _errors(*codes: str) -> Schema:
    error = {"content": {JSON_TYPE: {"schema": _ref("Error")}}}
    return {code: {"description": ERRORS[code], **error} for code in sorted({*codes, "401", "403"})}


def _get(
    name: str, summary: str, kind: str, schema: Schema, more: dict[str, str] | None = None
) -> Schema:
    answers: Schema = {"200": {"description": summary, "content": {kind: {"schema": schema}}}}
    if name not in ("livez",):
        answers |= _errors("400")
    for code, meaning in (more or {}).items():
        answers[code] = {"description": meaning}
    return {"operationId": name, "summary": summary, "responses": answers}


def _prediction() -> Schema:
    number = {"type": ["number", "null"]}
    named = {
        "job_id": {"type": "string"},
        "cluster": {"type": "string"},
        "model_version": {"type": "string"},
        "cold_start": {"type": "boolean"},
    }
    return _object(named, others=number)


def _predictions() -> Schema:
    about = {
        "model_version": {"type": "string"},
        "coverage": {"type": "number"},
        "unread": {
            "type": "array",
            "items": {"enum": [name for name in COLUMNS if name not in QUERY_FIELDS]},
        },
    }
    rows = {"rows": {"type": "array", "items": _ref("Prediction")}}
    columns = {"columns": {"type": "object", "additionalProperties": {"type": "array"}}}
    why = {
        "explanations": {
            "type": "array",
            "items": {"type": "object", "additionalProperties": _ref("Explanation")},
        }
    }
    bodies = [{**shape, **about} for shape in (rows, columns)]
    return {"oneOf": [_object({**body, **why}, tuple(body)) for body in bodies]}


def _explanation() -> Schema:
    text, number, count = (
        {"type": ["string", "null"]},
        {"type": ["number", "null"]},
        {"type": "integer", "minimum": 0},
    )
    history = _object({"history": {"type": "string"}, "weight": number, "jobs": count})
    alike = {
        "type": "array",
        "items": {"type": "string"},
        "description": "the fields that it shares",
    }
    similar = _object(
        {
            "source": text,
            "job_id": text,
            "ended_at": {"type": "string"},
            "value": number,
            "alike": alike,
        }
    )
    contribution = _object({"input": {"type": "string"}, "value": number, "contribution": number})
    lists = {"histories": history, "similar": similar, "contributions": contribution}
    parts: Schema = {name: {"type": "array", "items": each} for name, each in lists.items()}
    return _object({**parts, "allocation": _object({"value": number, "rule": {"type": "string"}})})


def _reported() -> Schema:
    count = {"type": "integer", "minimum": 0}
    rejected = {"type": "array", "items": _object({"index": count, "reason": {"type": "string"}})}
    return _object({"added": count, "updated": count, "unchanged": count, "rejected": rejected})


def _model() -> Schema:
    named = {
        "model_version": {
            "type": "string",
            "description": '"none" while only the histories answer',
        },
        "state": {
            "enum": ["starting", "serving", "degraded"],
            "description": "degraded: something in troubles is wrong; it still answers",
        },
        "serving_since": {"type": ["string", "null"], "format": "date-time"},
        "trained_until": {
            "type": ["string", "null"],
            "format": "date-time",
            "description": "end of the training window",
        },
        "stale": {
            "type": "boolean",
            "description": "the training window ended more than 30 days ago",
        },
        "card": {
            "type": "object",
            "description": "How the model set came to be: its training window, clusters and errors",
        },
        "history": {"type": "object"},
        "troubles": {"type": "object", "additionalProperties": {"type": "string"}},
    }
    return _object(named)
