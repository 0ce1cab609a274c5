"""Subjects: the kinds of record whose quantities are predicted, and by which fields their histories are told apart.

The engine knows a subject only through these values: a new kind of record is one more of them, not one more engine.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from models.past.queues import STATE, queues_now, with_queues
from models.past.surroundings import CurrentSurroundings
from models.past.traffic import TRAFFIC, traffic_now, with_traffic


@dataclass(frozen=True)
class Subject:
    """A kind of record: a table with ``submitted_at``, the fields named here, and what its targets are made from.

    ``candidates`` is the rule by which levels are chosen: every set of fields whose history may tell something, fine to coarse.
    ``owners`` are the fields, the most telling first, that say whose a record is. Of the fields in ``sizes`` a key takes the size class
    (half an octave), not the value. ``measured_against`` are the fields that limits and yardsticks are made from: where records have
    one, relative histories are kept: of all, of the owner and of the candidates in ``rated``. ``numbers`` are what a refiner is shown.
    An outcome is known from the time in ``outcome_time`` on. ``add_surroundings`` adds to records what else was under way when each was
    submitted, as it was known then; ``current_surroundings`` tells the same of one that comes now.
    """

    name: str
    candidates: tuple[tuple[str, ...], ...]
    owners: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    measured_against: tuple[str, ...] = ()
    rated: tuple[tuple[str, ...], ...] = ()
    identity: tuple[str, ...] = ("source", "job_id")
    outcome_time: str = "ended_at"
    add_surroundings: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    current_surroundings: Callable[[pd.DataFrame], CurrentSurroundings] | None = None

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The fields that keys are made from; the source of a record always is one."""
        return tuple(
            dict.fromkeys(("source", *(name for fields in self.candidates for name in fields)))
        )


_KIND = (
    "user",
    "group",
    "project",
    "program",
    "queue",
    "site",
    "requested_cores",
    "requested_walltime",
    "requested_memory",
)
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
    numbers=(
        "requested_cores",
        "requested_walltime",
        "requested_memory",
        "input_bytes",
        "input_files",
        "events",
    ),
    sizes=("input_bytes",),
    measured_against=("requested_walltime", "requested_memory"),
)

_LINK = ("link", "from_endpoint", "to_endpoint", "file_system", "direction")
_WHAT = ("group", "activity", "protocol", "streams", "bytes")
_BUSY = ("link_transfers", "link_begun")

TRANSFERS = Subject(
    "transfer",
    candidates=(
        (*_LINK, "user", *_WHAT),
        (*_LINK, "group", "bytes"),
        *((*_LINK, "bytes", busy) for busy in _BUSY),
        (*_LINK, "bytes"),
        *(("direction", "bytes", busy) for busy in _BUSY),
        ("group", "activity", "bytes"),
        ("file_system", "device", "bytes"),
        ("direction", "bytes"),
        ("bytes",),
        ("group", "activity", "direction"),
        ("user",),
        _LINK,
        (),
    ),
    owners=("bytes",),
    numbers=("bytes", "files", "streams", "buffer_bytes", *TRAFFIC),
    sizes=("bytes", *_BUSY),
    measured_against=("bytes",),
    rated=(
        *((*_LINK, "bytes", busy) for busy in _BUSY),
        *(("direction", "bytes", busy) for busy in _BUSY),
        (*_LINK, "bytes"),
        ("direction", "bytes"),
        ("file_system", "device", "bytes"),
    ),
    identity=("source", "transfer_id"),
    add_surroundings=with_traffic,
    current_surroundings=traffic_now,
)

_CLASSES = (
    "system_waiting",
    "queue_waiting",
    "queue_waits",
    "own_waiting",
    "own_last_wait",
    "system_last_wait",
)

WAITS = Subject(
    "wait",
    candidates=(
        (*_KIND, "queue_waiting"),
        (*_KIND, "own_waiting"),
        _KIND,
        ("site", "queue", *_SHAPE, "queue_waiting"),
        ("site", "queue", *_SHAPE, "system_waiting"),
        ("site", "queue", *_SHAPE),
        ("site", "queue", "requested_cores", "queue_waits"),
        ("site", "queue", "requested_cores", "own_last_wait"),
        ("site", "queue", "requested_cores", "system_last_wait"),
        ("site", "queue", "queue_waits"),
        ("site", "queue", "queue_waiting"),
        ("site", "queue", "own_waiting"),
        ("user", "own_waiting"),
        ("user", *_SHAPE),
        ("user", "queue"),
        ("user",),
        ("group", "site", "queue"),
        ("site", "queue", "requested_cores"),
        ("site", "queue"),
        ("system_waiting",),
        (),
    ),
    owners=("user", "queue", "site"),
    numbers=("requested_cores", "requested_walltime", "requested_memory", *STATE),
    sizes=_CLASSES,
    measured_against=("system_waiting_work",),
    rated=(("site", "queue"), ("site", "queue", *_SHAPE), ("site", "queue", "requested_cores")),
    outcome_time="started_at",
    add_surroundings=with_queues,
    current_surroundings=queues_now,
)

SUBJECTS: dict[str, Subject] = {subject.name: subject for subject in (JOBS, TRANSFERS, WAITS)}
"""Every subject by name."""
