"""Collectors of live systems: each fetches what one accounted since the last time, into the store.

The mark says how far a system was read: the newest measurement of kind ``collected``, written when
a window is stored completely. A collector that was killed, or whose system did not answer, fetches
the same window again; windows overlap, and records that are stored already change nothing.
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
from jobs.store.measurements import COLLECTED

if TYPE_CHECKING:
    from sqlalchemy import Engine

COLLECTORS: dict[str, Collector] = {
    collector.name: collector for collector in (SLURM, CONDOR, PBS, PANDA, FOLDER)
}
FIRST = timedelta(days=30)
"""How far back a system is read for the first time."""
SUMS = ("read", "added", "updated", "unchanged", "rejected", "notes")


@dataclass(frozen=True)
class CollectResult:
    """What became of the windows of one system: how far it is read, and sums over its files.

    ``errors`` say why files could not be read; ``lost``: the window must be fetched again;
    ``sources`` are all that were ever stored from here.
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
    sources: frozenset[str] = frozenset()

    def row(self) -> dict[str, Any]:
        """The values by name, for a table."""
        values = {name: getattr(self, name) for name in ("system", "where", "files", *SUMS)}
        moments = {
            name: getattr(self, name).isoformat(timespec="seconds") for name in ("since", "until")
        }
        return {**values, **moments, "notes": dict(self.notes), "errors": "; ".join(self.errors)}


Progress = Callable[[CollectResult], None]


def collector_named(name: str) -> Collector:
    """The collector of a system; raises NoSystemError with the names there are."""
    if name not in COLLECTORS:
        raise NoSystemError(f"there is no collector {name}: choose one of {', '.join(COLLECTORS)}")
    return COLLECTORS[name]


def named_systems(text: str) -> list[tuple[str, str]]:
    """The systems of a setting, each with its ``where``; raises NoSystemError for an unknown one.

    >>> named_systems("slurm, pbs=/var/spool/pbs/server_priv/accounting")
    [('slurm', ''), ('pbs', '/var/spool/pbs/server_priv/accounting')]
    """
    entries = [entry.partition("=") for entry in split_list(text)]
    return [(collector_named(name.strip()).name, where.strip()) for name, _, where in entries]


def last_collected(engine: Engine, systems: str) -> list[tuple[str, str, datetime | None]]:
    """The systems of a setting, each with its displayed place and until when it was read."""
    rows = []
    for system, where in named_systems(systems):
        segment = _segment(system, where)
        rows.append((system, segment, _mark(engine, system, segment)[0]))
    return rows


def _segment(system: str, where: str) -> str:
    """What stands for ``where`` in the store; it shows no password."""
    return collector_named(system).display(where) if where else "all"


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
    """Store what a system accounted since its mark, window by window, and move the mark.

    Raises NoSystemError where the system is not there, CollectError or StoreError where it or the
    store does not answer: the windows before are stored.

    Args:
        engine: the store.
        system: name of the collector.
        where: a cluster, a schedd, a folder or a database.
        since: start, instead of the mark.
        until: end; default: now.
        source: name of the source; None: from the records.
        progress: called after each window.
    """
    collector, until = collector_named(system), until or datetime.now(UTC)
    if collector.needs and not where:
        raise NoSystemError(
            f"the collector {system} needs {collector.needs}: gridcast collect {system} WHERE"
        )
    segment = _segment(system, where)
    mark, newest, sources = _mark(engine, system, segment)
    begin = min(since or (mark - collector.overlap if mark else until - FIRST), until)
    done = CollectResult(system, segment, begin, begin, sources=sources)
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
        # A window that a person chose moves the mark only where it begins before it.
        if not done.lost and (mark is None or begin <= mark):
            _set_mark(engine, segment, max(end, mark or end), newest, done)
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
            ingested = ingest_file(
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
        sums = {name: getattr(done, name) + getattr(ingested, name) for name in SUMS}
        done = replace(done, files=done.files + 1, sources=done.sources | ingested.sources, **sums)
    return done


def _mark(engine: Engine, system: str, segment: str) -> tuple[datetime | None, str, frozenset[str]]:
    """How far a system was read, the ``newest`` of its last window, and the sources so far."""
    marks = read_measurements(engine, system, kind=COLLECTED, segment=segment, latest=1)
    if marks.empty:
        return None, "", frozenset()
    details = marks["details"].iloc[0] or {}
    until = datetime.fromtimestamp(float(marks["value"].iloc[0]), UTC)
    return until, str(details.get("newest", "")), frozenset(details.get("sources", ()))


def _set_mark(
    engine: Engine, segment: str, until: datetime, newest: str, done: CollectResult
) -> None:
    details = {
        "newest": newest,
        "added": done.added,
        "updated": done.updated,
        "rejected": done.rejected,
        "sources": sorted(done.sources),
    }
    row = {
        "measured_at": pd.Timestamp.now("UTC"),
        "kind": COLLECTED,
        "name": done.system,
        "segment": segment,
        "value": until.timestamp(),
        "details": details,
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
    "last_collected",
    "named_systems",
]
