"""Subjects: the kinds of record whose quantities are predicted, and by which fields their histories are told apart.

The engine knows a subject only through these values: a new kind of record is one more of them, not one more engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Subject:
    """A kind of record: a table with ``submitted_at``, the fields named here, and what its targets are made from.

    ``candidates`` is the rule by which levels are chosen: every set of fields whose history may tell something, fine to coarse.
    ``owners`` are the fields, the most telling first, that say whose a record is. Of the fields in ``sizes`` a key takes the size class
    (half an octave), not the value. ``measured_against`` are the fields that limits and yardsticks are made from: where records have
    one, relative histories are kept. ``numbers`` are what a refiner is shown. An outcome is known from the time in ``known_at`` on.
    """

    name: str
    candidates: tuple[tuple[str, ...], ...]
    owners: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    measured_against: tuple[str, ...] = ()
    identity: tuple[str, ...] = ("source", "job_id")
    known_at: str = "ended_at"

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The fields that keys are made from; the source of a record always is one."""
        return tuple(dict.fromkeys(("source", *(name for fields in self.candidates for name in fields))))


_KIND = ("user", "group", "project", "program", "queue", "site", "requested_cores", "requested_walltime", "requested_memory")
_SHAPE = ("requested_cores", "requested_walltime")

JOBS = Subject(
    "job",
    candidates=(
        (*_KIND, "job_name", "input_bytes"),
        (*_KIND, "job_name"),
        ("task_id", "site"),
        ("task_id",),
        (*_KIND, "input_bytes"),
        _KIND,
        ("user", "program", *_SHAPE),
        ("user", *_SHAPE),
        ("user", "program"),
        ("user", "requested_walltime"),
        ("user", "requested_cores"),
        ("user", "queue"),
        ("user", "site"),
        ("user",),
        ("project", "program", "job_name"),
        ("group", *_SHAPE),
        ("group", "site"),
        ("group",),
        ("program", "job_name"),
        ("program", "input_bytes"),
        ("program", *_SHAPE, "requested_memory"),
        ("project", "program"),
        ("program",),
        ("project",),
        _SHAPE,
        ("site",),
        ("queue",),
        (),
    ),
    owners=("user", "program", "project", "group", "task_id"),
    numbers=("requested_cores", "requested_walltime", "requested_memory", "input_bytes", "input_files", "events"),
    sizes=("input_bytes",),
    measured_against=("requested_walltime", "requested_memory"),
)

SUBJECTS: dict[str, Subject] = {subject.name: subject for subject in (JOBS,)}
"""Every subject by name."""
