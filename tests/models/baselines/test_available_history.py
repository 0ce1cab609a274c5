import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform
from models.baselines.available_history import read_history, template_levels
from models.quantities.targets import TARGETS

START = pd.Timestamp("2026-01-01", tz="UTC")


def log(rows=200, **fields):
    """A log of ``rows`` jobs in which each of ``fields`` takes as many values as given."""
    number = np.arange(rows)
    columns = {
        name: [f"{name}{i % count}" for i in number]
        for name, count in fields.items()
        if not name.startswith("requested")
    }
    columns |= {
        name: 60.0 * (1 + number % count)
        for name, count in fields.items()
        if name.startswith("requested")
    }
    at = START + pd.to_timedelta(number * 60, unit="s")
    return conform(
        pd.DataFrame({"job_id": number.astype(str), "source": "log", "submitted_at": at} | columns)
    )


@pytest.mark.parametrize(
    ("fields", "levels"),
    [
        (
            {"user": 9, "requested_cores": 4, "requested_walltime": 7},
            (
                ("user", "requested_cores", "requested_walltime"),
                ("user", "requested_walltime"),
                ("user",),
            ),
        ),
        (
            {"user": 9, "program": 5, "requested_cores": 4, "requested_walltime": 7, "site": 3},
            (
                ("user", "program", "requested_cores", "requested_walltime"),
                ("user", "requested_walltime"),
                ("user",),
            ),
        ),
        ({"user": 9, "site": 5, "requested_cores": 1}, (("user", "site"), ("user",))),
        ({"program": 9, "requested_cores": 3}, (("program", "requested_cores"), ("program",))),
        (
            {"user": 9, "program": 199},
            (("user",),),
        ),  # a program for almost each job names jobs, not a kind
        ({}, ((),)),
    ],
)
def test_templates_follow_from_the_fields_a_log_has(fields, levels):
    assert template_levels(log(**fields)) == levels


def test_users_of_two_sources_are_two_users():
    both = log(user=3)
    both["source"] = np.where(np.arange(len(both)) % 2, "here", "there")
    assert template_levels(both) == (("source", "user"),)


def test_a_new_template_is_answered_by_the_coarser_one_then_the_owner_then_the_request_then_everything():
    hours = pd.Timedelta("1h")
    story = [  # user, cores, request, walltime; an hour apart, each ended long before the next is submitted
        ("ann", 1, 100, 10.0),  # nothing known yet
        ("ann", 1, 100, 20.0),  # her template's 10
        ("ann", 2, 100, 30.0),  # new cores, the same request: 20
        ("ann", 4, 500, 40.0),  # a new request too: her last, 30
        ("bob", 1, 700, 50.0),  # a new user: his request
        ("cyd", 1, np.nan, 60.0),  # nothing asked for: the median of all so far
    ]
    at = [START + hours * i for i in range(len(story))]
    jobs = conform(
        pd.DataFrame(
            story, columns=["user", "requested_cores", "requested_walltime", "walltime"]
        ).assign(
            job_id=[str(i) for i in range(len(story))], source="log", submitted_at=at, started_at=at
        )
    )
    jobs["ended_at"] = jobs["started_at"] + pd.to_timedelta(jobs["walltime"], unit="s")
    levels = (
        ("user", "requested_cores", "requested_walltime"),
        ("user", "requested_walltime"),
        ("user",),
    )
    seen = read_history(jobs, TARGETS["walltime"], levels=levels)
    assert seen.finest(lambda level: level.values[:, 0]).tolist() == [100, 10, 20, 30, 700, 30]


def test_jobs_out_of_order_are_refused():
    with pytest.raises(ValueError, match="not in order of submission"):
        read_history(log(user=3)[::-1], TARGETS["walltime"])
