"""The doctor: looks at all that Gridcast stands on, and says of what is wrong what to do. It changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.request import Request, urlopen

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infra.components import Component
from infra.errors import GridcastError
from infra.processes import port_conflict, running_components, status
from infra.settings import Settings
from jobs.store import StoreError
from jobs.store.status import StoreStatus, store_status
from models.releases import registry
from models.releases.versions import STALE_AFTER

LEAST_SPACE, LITTLE_SPACE = 2**30, 5 * 2**30
"""Bytes free below which the disk is wrong, and below which it is to be watched."""
CLOCKS_APART, CLOCKS_WRONG = timedelta(seconds=5), timedelta(seconds=60)
STALE_TABLE, OLD_TABLE = timedelta(minutes=15), timedelta(hours=24)


@dataclass(frozen=True)
class Finding:
    """One thing looked at: how it stands, what was found, and what to do where it is not ``ok``. Only ``wrong`` needs a person now."""

    what: str
    state: Literal["ok", "watch", "wrong"]
    found: str
    do: str = ""


def examine(
    settings: Settings,
    parts: Sequence[Component],
    table: Path | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """Look at everything once: versions, disk, ports and parts, clock, store, MLflow, Prefect, champion, and the table of predictions."""
    now = now or datetime.now(UTC)
    parts = running_components(settings, parts)
    rows = {row["part"]: row for row in status(settings, parts)}
    store = _store(settings)
    looks: list[Callable[[], Iterator[Finding]]] = [
        lambda: _versions(),
        lambda: _disk(settings.home),
        lambda: _ports(parts, rows),
        lambda: _parts(rows),
        lambda: _database(store),
        lambda: _clock(store, parts, rows, now),
        lambda: _champion(settings, now),
        lambda: _prefect(parts, rows),
        lambda: _predictor(parts, rows),
        lambda: _table(table or _own_table(settings), now),
    ]
    return [finding for look in looks for finding in look()]


def _versions() -> Iterator[Finding]:
    do = "uv sync installs what uv.lock says"
    try:
        wanted = [Requirement(text) for text in metadata.requires("gridcast") or ()]
        python = SpecifierSet(metadata.metadata("gridcast")["Requires-Python"])
    except metadata.PackageNotFoundError:
        yield Finding(
            "versions",
            "watch",
            "gridcast is run from files and not installed, so its pins are not running_components",
            do,
        )
        return
    installed = {one.name: _installed(one.name) for one in wanted}
    off = [
        f"{one.name} {installed[one.name] or 'is missing'}, not {one.specifier}"
        for one in wanted
        if installed[one.name] is None
        or not one.specifier.contains(str(installed[one.name]), prereleases=True)
    ]
    running = ".".join(map(str, sys.version_info[:3]))
    if running not in python:
        off.append(f"Python {running}, not {python}")
    if off:
        yield Finding("versions", "wrong", "; ".join(off), do)
    else:
        yield Finding(
            "versions", "ok", f"Python {running} and {len(wanted)} packages are within their pins"
        )


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _disk(home: Path) -> Iterator[Finding]:
    if home.is_dir() and not os.access(home, os.W_OK | os.X_OK):
        yield Finding(
            "data folder",
            "wrong",
            f"{home} cannot be written",
            "give it to the user that runs Gridcast",
        )
    there = next(
        folder for folder in (home.absolute(), *home.absolute().parents) if folder.is_dir()
    )
    free = shutil.disk_usage(there).free
    found = f"{free / 2**30:.1f} GiB free on the disk of {home.absolute()}"
    if free < LITTLE_SPACE:
        state: Literal["wrong", "watch"] = "wrong" if free < LEAST_SPACE else "watch"
        yield Finding(
            "disk",
            state,
            found,
            "free some space: a full disk stops ingest, training and the report of outcomes",
        )
    else:
        yield Finding("disk", "ok", found)


def _ports(parts: Sequence[Component], rows: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    taken = [
        why
        for part in parts
        if (rows.get(part.name) or {"pid": None})["pid"] is None and (why := port_conflict(part))
    ]
    if taken:
        yield Finding("ports", "wrong", "; ".join(taken), "free the port, or set another")
    else:
        yield Finding(
            "ports", "ok", f"{sum(bool(part.address) for part in parts)} ports are ours or free"
        )


def _parts(rows: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    running = [row for row in rows.values() if row["pid"] is not None]
    off = [f"{row['part']} is {row['state']}" for row in rows.values() if row["state"] != "up"]
    if not running:
        yield Finding(
            "parts", "watch", "nothing runs on this data folder", "gridcast up starts them"
        )
    elif off:
        yield Finding(
            "parts",
            "wrong",
            "; ".join(off),
            "their logs are in logs/ of the data folder; gridcast down, then up, starts them anew",
        )
    else:
        yield Finding("parts", "ok", f"{', '.join(rows)} are up")


def _store(settings: Settings) -> StoreStatus | str:
    try:
        return store_status(settings.store_url)
    except StoreError as error:
        return str(error)


def _database(store: StoreStatus | str) -> Iterator[Finding]:
    if isinstance(store, str):
        yield Finding(
            "database", "wrong", store, "see GRIDCAST_DATABASE_URL, and whether its server runs"
        )
    elif store.version is None:
        yield Finding(
            "database",
            "ok",
            f"{store.where} is not there or empty: the first command makes its tables",
        )
    elif store.version > store.head:
        found = (
            f"{store.where} has tables of version {store.version}, this Gridcast knows {store.head}"
        )
        yield Finding("database", "wrong", found, "update Gridcast")
    elif store.version < store.head:
        found = f"{store.where} has tables of version {store.version}, this Gridcast makes {store.head} of them when it next opens it"
        yield Finding(
            "database",
            "watch",
            found,
            "take a backup with the Gridcast that ran until now, if there is none",
        )
    else:
        newest = (
            f"its newest record is of {store.newest:%Y-%m-%d %H:%M} UTC"
            if store.newest
            else "it holds no job"
        )
        yield Finding(
            "database",
            "ok",
            f"{store.where} answers, its tables are of version {store.head}, {newest}",
        )


def _clock(
    store: StoreStatus | str,
    parts: Sequence[Component],
    rows: dict[str, dict[str, Any]],
    now: datetime,
) -> Iterator[Finding]:
    others = {
        part.name: _date(part)
        for part in parts
        if part.address.startswith("http") and _is_up(part.name, rows)
    }
    if isinstance(store, StoreStatus):
        others["the database"] = store.clock
        if store.newest and store.newest - now > CLOCKS_WRONG:
            others["the newest record"] = store.newest
    apart = {name: clock - now for name, clock in others.items() if clock is not None}
    name, most = max(apart.items(), key=lambda item: abs(item[1]), default=("", timedelta()))
    do = "let NTP set the clock of each machine: times decide what a prediction may know"
    if abs(most) <= CLOCKS_APART:
        told = (
            f"agrees with {', '.join(sorted(apart))}" if apart else "there is none to compare with"
        )
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC; {told}")
    else:
        where = f"{name} is {abs(most.total_seconds()):,.0f} s {'ahead of' if most > timedelta() else 'behind'} this machine"
        yield Finding("clock", "wrong" if abs(most) > CLOCKS_WRONG else "watch", where, do)


def _is_up(name: str, rows: dict[str, dict[str, Any]]) -> bool:
    return (rows.get(name) or {"state": "down"})["state"] == "up"


def _date(part: Component) -> datetime | None:
    """What an answering server's clock says."""
    try:
        request = Request(part.address + part.ready_path, headers=_headers(part))  # noqa: S310
        with urlopen(request, timeout=5) as answer:  # noqa: S310
            return parsedate_to_datetime(answer.headers["Date"])
    except (OSError, ValueError, TypeError):
        return None


def _headers(part: Component) -> dict[str, str]:
    return {"Authorization": f"Bearer {part.token}"} if part.token else {}


def _champion(settings: Settings, now: datetime) -> Iterator[Finding]:
    try:
        champion = registry.champion(settings)
    except registry.RegistryError as error:
        yield Finding(
            "MLflow",
            "wrong",
            str(error),
            "see GRIDCAST_MLFLOW_URL, and whether MLflow runs: gridcast status",
        )
        return
    yield Finding("MLflow", "ok", f"{settings.displayed_tracking_url} answers")
    if champion is None:
        yield Finding(
            "champion", "watch", "there is none yet: the histories alone answer", "gridcast train"
        )
        return
    trained = (
        datetime.fromisoformat(champion.tags["trained_until"])
        if "trained_until" in champion.tags
        else champion.created_at
    )
    age = now - (trained if trained.tzinfo else trained.replace(tzinfo=UTC))
    found = f"{champion.label} knows jobs until {trained:%Y-%m-%d %H:%M} UTC, {age / timedelta(days=1):,.1f} days ago"
    if age > STALE_AFTER:
        yield Finding(
            "champion",
            "watch",
            found,
            "gridcast history tells why no newer one was promoted; gridcast train trains one",
        )
    else:
        yield Finding("champion", "ok", found)


def _prefect(parts: Sequence[Component], rows: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    part = next((part for part in parts if part.name == "prefect"), None)
    if part is None or not _is_up(part.name, rows):
        yield Finding(
            "Prefect",
            "watch",
            "its server does not run here, so nothing is scheduled",
            "gridcast up starts it",
        )
        return
    try:
        late = _ask(
            part, "/api/flow_runs/count", {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}
        )
        paused = [
            one["name"]
            for one in _ask(part, "/api/work_pools/filter", {})
            if one["status"] != "READY"
        ]
    except (OSError, ValueError, KeyError) as error:
        yield Finding(
            "Prefect",
            "wrong",
            f"{part.address} does not answer as it should: {error}",
            "gridcast down, then up",
        )
        return
    if paused:
        found = f"no worker takes the runs of the pool {', '.join(paused)}"
        yield Finding(
            "Prefect",
            "wrong",
            found,
            "logs/schedules.log of the data folder says why; gridcast up starts one",
        )
    elif late:
        yield Finding(
            "Prefect",
            "watch",
            f"{late} runs are late",
            "look at them on its page: they wait for a worker, or for the run before",
        )
    else:
        yield Finding("Prefect", "ok", f"{part.address} answers, a worker is there, no run is late")


def _predictor(parts: Sequence[Component], rows: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    for part in parts:
        if not part.name.startswith("predictor") or not _is_up(part.name, rows):
            continue
        try:
            told = _ask(part, "/model")
        except (OSError, ValueError) as error:
            yield Finding(
                part.name,
                "wrong",
                f"{part.address} does not answer: {error}",
                f"its log is logs/{part.name}.log of the data folder",
            )
            continue
        found = f"{part.address} is {told['state']}, answers with {told['model_version']}"
        if told["troubles"]:
            yield Finding(
                part.name,
                "wrong",
                f"{found}: {'; '.join(told['troubles'].values())}",
                "mend what it names; it goes on by itself then",
            )
        else:
            yield Finding(part.name, "ok", f"{found}, knows {told['history']['jobs']:,} jobs")


def _ask(part: Component, path: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    asked = Request(  # noqa: S310
        part.address + path, data, {**_headers(part), "Content-Type": "application/json"}
    )
    with urlopen(asked, timeout=5) as answer:  # noqa: S310
        return json.load(answer)


def _table(table: Path | None, now: datetime) -> Iterator[Finding]:
    if table is None:
        return
    do = "gridcast table writes it; adapters fall back on the user's request meanwhile"
    try:
        age = now - written_at(table)
    except GridcastError as error:
        yield Finding("table", "wrong", str(error), do)
        return
    found = f"{table} was written {age / timedelta(hours=1):,.1f} h ago"
    yield (
        Finding("table", "ok", found)
        if age <= STALE_TABLE
        else Finding("table", "wrong" if age > OLD_TABLE else "watch", found, do)
    )


def _own_table(settings: Settings) -> Path | None:
    """Where ``gridcast table`` writes unless told otherwise, if it ever did."""
    place = settings.home / "tables" / "predictions.tsv"
    return place if place.exists() else None


def written_at(table: Path) -> datetime:
    """When a table of ``gridcast table`` was written; raises GridcastError where there is none that can be read."""
    try:
        with table.open(encoding="utf-8") as file:
            magic, seconds, *_ = file.readline().split("\t")
        if not magic.startswith("gridcast-table"):
            raise ValueError
        return datetime.fromtimestamp(float(seconds), UTC)
    except (OSError, ValueError):
        raise GridcastError(f"{table} is no table of predictions that can be read") from None
