"""Subjects: the kinds of record whose quantities are predicted, and the fields of their histories.

The engine knows a subject only through these values: a new kind of record is one more of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from models.past.queues import STATE, queues_now, with_queues
from models.past.surroundings import CurrentSurroundings
from models.past.traffic import TRAFFIC, traffic_now, with_traffic


@dataclass(frozen=True)
class Subject:
    """A kind of record: a table with ``submitted_at`` and the fields named here.

    Attributes:
        name: Its name.
        candidates: Sets of fields whose history may be useful, fine to coarse; the levels of a log
            are chosen among them.
        owners: The fields, the most informative first, that say whose a record is.
        numbers: Numeric fields that a refiner reads.
        sizes: Fields of which keys hold the size class (half an octave), not the value.
        measured_against: The fields that limits are made from. Where records have one, relative
            histories are kept: of all, of the owner and of ``rated``.
        rated: Candidates with relative histories.
        optional: Fields whose histories and inputs are used only where they lower the error of the
            training data; so are the labels of records where ``labels``.
        joined: Candidates that optional fields are joined with.
        identity: The fields that name a record.
        outcome_time: The field that says when an outcome became available.
        add_surroundings: Adds what else was under way when each record was submitted.
        current_surroundings: Computes the same for a record submitted now.
    """

    name: str
    candidates: tuple[tuple[str, ...], ...]
    owners: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    sizes: tuple[str, ...] = ()
    measured_against: tuple[str, ...] = ()
    rated: tuple[tuple[str, ...], ...] = ()
    optional: tuple[str, ...] = ()
    labels: bool = False
    joined: tuple[tuple[str, ...], ...] = ()
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

    def with_optional(self, names: Sequence[str]) -> Subject:
        """Return the subject with candidates of its optional fields ``names``: each, and all."""
        if not names:
            return self
        coarse = [fields for fields in self.joined if len(fields) < 2]
        joined = [(*fields, *names) for fields in self.joined]
        joined += [(*fields, name) for fields in coarse for name in names]
        # Of two equal splits the later candidate names the level: the one with fewer fields.
        joined.sort(key=len, reverse=True)
        return replace(self, candidates=(*dict.fromkeys(joined), *self.candidates))


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
    optional=(
        "requested_gpus",
        "gpu_type",
        "requested_nodes",
        "qos",
        "constraint",
        "exclusive",
    ),
    labels=True,
    joined=((*_KIND, "job_name"), _KIND, ("user", "program"), ("user",), ("program",), ()),
)

_LINK = ("link", "from_endpoint", "to_endpoint", "file_system", "direction")
_CONTENT = ("group", "activity", "protocol", "streams", "bytes")
_BUSY = ("link_transfers", "link_begun")

TRANSFERS = Subject(
    "transfer",
    candidates=(
        (*_LINK, "user", *_CONTENT),
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
