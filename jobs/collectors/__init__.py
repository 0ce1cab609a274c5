"""Collectors of live systems: each asks one for what it accounted since the last time, and hands it to the readers and the store.

How far a system was read is its mark: the newest measurement of kind ``collected``, written when a window is in the store whole. A
collector that was killed, or whose system did not answer, asks for the same window again; windows overlap, and what is known already
changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pandas as pd

from infra.settings import split_list
from jobs.collectors.condor import CONDOR
from jobs.collectors.contract import CollectError, Collector, Fetched, NoSystemError, Window
from jobs.collectors.folders import FOLDER, PBS
from jobs.collectors.panda import PANDA
from jobs.collectors.slurm import SLURM
from jobs.ingest import ingest_file
from jobs.readers import ReadError
from jobs.store import add_measurements, add_predictions, read_measurements

if TYPE_CHECKING:
    from sqlalchemy import Engine

COLLECTORS: dict[str, Collector] = {one.name: one for one in (SLURM, CONDOR, PBS, PANDA, FOLDER)}
KIND = "collected"
FIRST = timedelta(days=30)
"""How far back a system is read that never was."""
SUMS = ("read", "added", "updated", "unchanged", "rejected", "notes")


@dataclass(frozen=True)
class CollectResult:
    """What became of the windows of one system: how far it is read now, sums over its files, and why files could not be read.

    ``lost`` says that the window must be asked for again.
    """

    system: str
    where: str
    since: datetime
    until: datetime
    files: int = 0
    read: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    errors: tuple[str, ...] = ()
    lost: bool = False

    def row(self) -> dict[str, Any]:
        """As plain values, by name, for a table."""
        told = {name: getattr(self, name) for name in ("system", "where", "files", *SUMS)}
        moments = {
            name: getattr(self, name).isoformat(timespec="seconds") for name in ("since", "until")
        }
        return {**told, **moments, "notes": dict(self.notes), "errors": "; ".join(self.errors)}


Progress = Callable[[CollectResult], None]


def collector_named(name: str) -> Collector:
    """The collector of a system; raises NoSystemError with the names there are."""
    if name not in COLLECTORS:
        raise NoSystemError(f"there is no collector {name}: choose one of {', '.join(COLLECTORS)}")
    return COLLECTORS[name]


def named_systems(text: str) -> list[tuple[str, str]]:
    """The systems that a setting names, each with which one; raises NoSystemError where there is no such collector.

    >>> named_systems("slurm, pbs=/var/spool/pbs/server_priv/accounting")
    [('slurm', ''), ('pbs', '/var/spool/pbs/server_priv/accounting')]
    """
    parts = [part.partition("=") for part in split_list(text)]
    return [(collector_named(name.strip()).name, where.strip()) for name, _, where in parts]


def collect(
    engine: Engine,
    system: str,
    where: str = "",
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    source: str | None = None,
    progress: Progress | None = None,
) -> CollectResult:
    """Bring what a system accounted since its mark (or ``since``) into the store, a window after the other, each marked when it is in.

    ``where`` says which one: a cluster, a schedd, a folder or a database. Raises NoSystemError where the system is not there, CollectError
    or StoreError where it or the store does not answer: the windows before are kept.
    """
    collector, until = collector_named(system), until or datetime.now(UTC)
    if collector.needs and not where:
        raise NoSystemError(
            f"the collector {system} must be told {collector.needs}: gridcast collect {system} WHERE"
        )
    place = collector.shown(where) if where else "all"
    mark, newest = _mark(engine, system, place)
    begin = min(since or (mark - collector.overlap if mark else until - FIRST), until)
    done = CollectResult(system, place, begin, begin)
    for start, end in _windows(begin, until, collector.step):
        with TemporaryDirectory(prefix="gridcast-collect-") as temporary:
            window = Window(start, end, where, Path(temporary), newest if since is None else "")
            fetched = collector.fetch(window)
            done = _store(
                engine, collector, fetched, replace(done, until=end), source, Path(temporary)
            )
            if collector.read_predictions and len(
                predictions := collector.read_predictions(window, source)
            ):
                with engine.begin() as connection:
                    add_predictions(connection, predictions)
        newest = fetched.newest or newest
        # A window that a person asked for leaves the mark where it is, unless it reaches from before it to behind it.
        if not done.lost and (mark is None or begin <= mark):
            _set_mark(engine, place, max(end, mark or end), newest, done)
        if progress:
            progress(done)
    return done


def _windows(
    since: datetime, until: datetime, step: timedelta | None
) -> Iterator[tuple[datetime, datetime]]:
    while step and until - since > step:
        yield since, since + step
        since += step
    yield since, until


def _store(
    engine: Engine,
    collector: Collector,
    fetched: Fetched,
    done: CollectResult,
    source: str | None,
    temporary: Path,
) -> CollectResult:
    done = replace(done, notes=done.notes | Counter(fetched.notes))
    for path in fetched.files:
        own = path.is_relative_to(temporary)
        try:
            one = ingest_file(
                engine,
                path,
                collector.format,
                source,
                window=f"{done.system} {done.where}: {path.name}" if own else "",
            )
        except (ReadError, OSError) as error:
            # A file of a folder is read again when it changes, a window only if the mark stays.
            done = replace(
                done,
                errors=(*done.errors, str(error)),
                lost=done.lost or own or isinstance(error, OSError),
            )
            continue
        sums = {name: getattr(done, name) + getattr(one, name) for name in SUMS}
        done = replace(done, files=done.files + 1, **sums)
    return done


def _mark(engine: Engine, system: str, place: str) -> tuple[datetime | None, str]:
    """How far a system was read, and what its last window said of itself."""
    known = read_measurements(engine, system, kind=KIND, segment=place, latest=1)
    if known.empty:
        return None, ""
    return datetime.fromtimestamp(float(known["value"].iloc[0]), UTC), str(
        (known["details"].iloc[0] or {}).get("newest", "")
    )


def _set_mark(
    engine: Engine, place: str, until: datetime, newest: str, done: CollectResult
) -> None:
    told = {
        "newest": newest,
        "added": done.added,
        "updated": done.updated,
        "rejected": done.rejected,
    }
    row = {
        "measured_at": pd.Timestamp.now("UTC"),
        "kind": KIND,
        "name": done.system,
        "segment": place,
        "value": until.timestamp(),
        "details": told,
    }
    with engine.begin() as connection:
        add_measurements(connection, pd.DataFrame([row]))


__all__ = [
    "COLLECTORS",
    "CollectError",
    "CollectResult",
    "Collector",
    "NoSystemError",
    "collect",
    "collector_named",
    "named_systems",
]
