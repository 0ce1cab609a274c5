"""Examples of requests for the OpenAPI document; each is answered 200 as it stands."""

from __future__ import annotations

from typing import Any

_JOB = {
    "job_id": 123,
    "source": "example",
    "user": "alice",
    "group": "physics",
    "program": "simulate.sh",
    "queue": "long",
    "requested_walltime": 7200,
    "requested_cores": 8,
    "requested_memory": 16e9,
    "requested_gpus": 1,
    "gpu_type": "a100",
    "labels": {"biome": "root:Host", "input_reads": 1.2e6},
}
_OTHER_JOB = {"job_id": "124", "source": "example", "user": "bob", "requested_walltime": 3600}
_FINISHED_JOB = {
    **_JOB,
    "submitted_at": "2026-01-15T08:00:00Z",
    "started_at": "2026-01-15T08:20:00Z",
    "ended_at": "2026-01-15T09:30:00Z",
    "status": "completed",
    "walltime": 4200,
    "cpu_time": 31_000,
    "peak_memory": 9e9,
}
_TASK_JOB = {name: value for name, value in _JOB.items() if name != "job_id"}
_OPTIONS = {"quantiles": [0.5, 0.99], "coverage": 0.8, "classes": True}
_COLUMNS = {name: [_JOB[name], _OTHER_JOB[name]] for name in ("job_id", "source", "user")}


def _example(summary: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "value": value}


EXAMPLES: dict[str, dict[str, dict[str, Any]]] = {
    "predict": {
        "jobs": _example("Two jobs", {"jobs": [_JOB, _OTHER_JOB]}),
        "columns": _example("The same as columns, with options", {"columns": _COLUMNS} | _OPTIONS),
        "explained": _example("Why", {"jobs": [_JOB], "explain": True, "keep": False}),
        "within": _example(
            "Does it end within two hours?",
            {"jobs": [_JOB], "within": 7200, "keep": False},
        ),
        "waiting": _example(
            "A job that still waits, as of now",
            {"jobs": [_JOB | {"submitted_at": "2026-01-15T08:00:00Z"}], "at": "now"},
        ),
    },
    "outcomes": {
        "jobs": _example(
            "A finished job (it is stored; `gridcast drop-source example` removes it)",
            {"jobs": [_FINISHED_JOB]},
        ),
        "columns": _example(
            "The same as columns",
            {"columns": {name: [value] for name, value in _FINISHED_JOB.items()}},
        ),
    },
    "task": {
        "task": _example(
            "1,000 jobs, at most 100 at a time",
            {"task": _TASK_JOB, "jobs": 1000, "at_once": 100},
        )
    },
    "match": {
        "slot": _example(
            "Two kinds of job for 8 cores that have 6 hours left",
            {
                "cores": 8,
                "memory": 32e9,
                "seconds_left": 21600,
                "jobs": [
                    _JOB | {"count": 40, "priority": 1, "quota_used": 0.5},
                    _OTHER_JOB | {"count": 3, "quota_used": 0.1},
                ],
            },
        ),
        "gain": _example(
            "As columns, the most core seconds first",
            {"columns": _COLUMNS, "cores": 1, "seconds_left": 3600, "policy": "gain"},
        ),
    },
    "rank": {
        "sites": _example(
            "Two sites for one job",
            {
                "jobs": [
                    {
                        **_JOB,
                        "candidates": [
                            {"site": "CERN", "queue": "long"},
                            {"site": "DESY", "queue": "grid", "host_power": 12},
                        ],
                    }
                ]
            },
        ),
        "careful": _example(
            "By the 90 % level instead of the mean",
            {"jobs": [{**_JOB, "candidates": [{"site": "CERN"}]}], "policy": "quantile"},
        ),
    },
}
"""By endpoint, the examples of its JSON body by name."""
