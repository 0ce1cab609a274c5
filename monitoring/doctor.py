"""The doctor: examines everything that Gridcast depends on and says what to do; changes nothing."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pandas as pd
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from infra.components import Component
from infra.errors import GridcastError
from infra.mapped_arrays import map_arrays
from infra.processes import port_conflict, running_components, status
from infra.ring import read_ring
from infra.settings import Settings, SettingsError
from jobs.store import StoreError, connect
from jobs.store.status import StoreStatus, store_status
from models.releases import registry
from models.releases.versions import STALE_AFTER
from monitoring.site_status import Finding, read_site_status, site_findings
from monitoring.tasks.latest_tasks import LatestTasks
from monitoring.tasks.watch import ALERTED_STATES

WRONG_FREE_BYTES, LOW_FREE_BYTES = 2**30, 5 * 2**30
"""Free bytes below which the disk is wrong, and below which it is to be watched."""
CLOCK_TOLERANCE, CLOCK_WRONG = timedelta(seconds=5), timedelta(seconds=60)
STALE_TABLE, OLD_TABLE = timedelta(minutes=15), timedelta(hours=24)
STALE_TASKS = timedelta(minutes=15)
TIMEOUT = 5
MAX_SLOW_HOSTS = 5
MAX_REQUESTS = 16
"""Shards that are asked at a time."""

Rows = Mapping[str, Mapping[str, Any]]


def examine(
    settings: Settings,
    components: Sequence[Component],
    table: Path | None = None,
    now: datetime | None = None,
) -> list[Finding]:
    """Examine everything once.

    Args:
        settings: The data folder, and where the servers are.
        components: What ``gridcast up`` would run.
        table: The file of ``gridcast table``; by default the one of the data folder.
        now: The present, by default that of this machine.
    """
    now = now or datetime.now(UTC)
    components = running_components(settings, components)
    rows: Rows = {row["part"]: row for row in status(settings, components)}
    store = _store(settings)
    checks: list[Callable[[], Iterator[Finding]]] = [
        _versions,
        lambda: _disk(settings.home),
        lambda: _ports(components, rows),
        lambda: _components(rows),
        lambda: _database(store),
        lambda: _clock(store, components, rows, now),
        lambda: _champion(settings, now),
        lambda: _prefect(settings, components, rows),
        lambda: _predictors(components, rows),
        lambda: _own_shard(settings),
        lambda: _shards(settings),
        lambda: _site(settings, store, now),
        lambda: _table(table or _own_table(settings), now),
    ]
    return [finding for check in checks for finding in check()]


def _versions() -> Iterator[Finding]:
    remedy = "uv sync installs what uv.lock says"
    try:
        pins = [Requirement(text) for text in metadata.requires("gridcast") or ()]
        python = SpecifierSet(metadata.metadata("gridcast")["Requires-Python"])
    except metadata.PackageNotFoundError:
        summary = "gridcast is run from files and not installed, so its pins are unknown"
        yield Finding("versions", "watch", summary, remedy)
        return
    wrong = []
    for pin in pins:
        version = _installed_version(pin.name)
        if version is None or not pin.specifier.contains(version, prereleases=True):
            wrong.append(f"{pin.name} {version or 'is missing'}, not {pin.specifier}")
    running = ".".join(map(str, sys.version_info[:3]))
    if running not in python:
        wrong.append(f"Python {running}, not {python}")
    if wrong:
        yield Finding("versions", "wrong", "; ".join(wrong), remedy)
    else:
        summary = f"Python {running} and {len(pins)} packages are within their pins"
        yield Finding("versions", "ok", summary)


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _disk(home: Path) -> Iterator[Finding]:
    if home.is_dir() and not os.access(home, os.W_OK | os.X_OK):
        remedy = "give it to the user that runs Gridcast"
        yield Finding("data folder", "wrong", f"{home} cannot be written", remedy)
    absolute = home.absolute()
    mode = stat.S_IMODE(home.stat().st_mode) if home.is_dir() else 0
    if mode & 0o066:
        summary = f"other users of this machine may read or write {absolute} (mode {mode:04o})"
        remedy = f"chmod -R go-rwx {shlex.quote(str(absolute))}"
        yield Finding("data folder", "watch", summary, remedy)
    existing = next(folder for folder in (absolute, *absolute.parents) if folder.is_dir())
    free = shutil.disk_usage(existing).free
    summary = f"{free / 2**30:.1f} GiB free on the disk of {absolute}"
    if free >= LOW_FREE_BYTES:
        yield Finding("disk", "ok", summary)
        return
    remedy = "free some space: a full disk stops ingest, training and the report of outcomes"
    yield Finding("disk", "wrong" if free < WRONG_FREE_BYTES else "watch", summary, remedy)


def _ports(components: Sequence[Component], rows: Rows) -> Iterator[Finding]:
    stopped = [
        component
        for component in components
        if rows.get(component.name, {"state": "down"})["state"] == "down"
    ]
    conflicts = [conflict for component in stopped if (conflict := port_conflict(component))]
    if conflicts:
        yield Finding("ports", "wrong", "; ".join(conflicts), "free the port, or set another")
    else:
        count = sum(bool(component.address) for component in components)
        yield Finding("ports", "ok", f"{count} ports are ours or free")


def _components(rows: Rows) -> Iterator[Finding]:
    fine = ("up", "unknown")
    down = [f"{row['part']} is {row['state']}" for row in rows.values() if row["state"] not in fine]
    if all(row["pid"] is None and row["state"] != "up" for row in rows.values()):
        summary = "nothing runs on this data folder"
        yield Finding("parts", "watch", summary, "gridcast up starts them")
    elif down:
        remedy = "their logs are in logs/ of the data folder; gridcast down, then up, restarts them"
        yield Finding("parts", "wrong", "; ".join(down), remedy)
    else:
        up = [name for name, row in rows.items() if row["state"] == "up"]
        yield Finding("parts", "ok", f"{', '.join(up)} are up")


def _store(settings: Settings) -> StoreStatus | str:
    try:
        return store_status(settings.store_url)
    except StoreError as error:
        return str(error)


def _database(store: StoreStatus | str) -> Iterator[Finding]:
    if isinstance(store, str):
        remedy = "see GRIDCAST_DATABASE_URL, and whether its server runs"
        yield Finding("database", "wrong", store, remedy)
        return
    tables = f"{store.where} has tables of version {store.version}"
    if store.version is None:
        summary = f"{store.where} is absent or empty: the first command makes its tables"
        yield Finding("database", "ok", summary)
    elif store.version > store.head:
        summary = f"{tables}, this Gridcast knows {store.head}"
        yield Finding("database", "wrong", summary, "update Gridcast")
    elif store.version < store.head:
        summary = f"{tables}, this Gridcast upgrades them to {store.head} when it next opens it"
        remedy = "take a backup with the Gridcast that ran until now, if there is none"
        yield Finding("database", "watch", summary, remedy)
    else:
        newest = "it holds no job"
        if store.newest:
            newest = f"its newest record is of {store.newest:%Y-%m-%d %H:%M} UTC"
        summary = f"{store.where} answers, its tables are of version {store.head}, {newest}"
        yield Finding("database", "ok", summary)


def _clock(
    store: StoreStatus | str, components: Sequence[Component], rows: Rows, now: datetime
) -> Iterator[Finding]:
    clocks = {
        component.name: _server_clock(component)
        for component in components
        if component.address.startswith("http") and _is_up(component.name, rows)
    }
    if isinstance(store, StoreStatus):
        clocks["the database"] = store.clock
        if store.newest and store.newest - now > CLOCK_WRONG:
            clocks["the newest record"] = store.newest
    offsets = {name: clock - now for name, clock in clocks.items() if clock is not None}
    name, offset = max(offsets.items(), key=lambda item: abs(item[1]), default=("", timedelta()))
    if abs(offset) <= CLOCK_TOLERANCE:
        agrees = f"agrees with {', '.join(sorted(offsets))}" if offsets else "nothing to compare it"
        yield Finding("clock", "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC; {agrees}")
        return
    direction = "ahead of" if offset > timedelta() else "behind"
    summary = f"{name} is {abs(offset.total_seconds()):,.0f} s {direction} this machine"
    remedy = "let NTP set the clock of each machine: times decide what a prediction may know"
    yield Finding("clock", "wrong" if abs(offset) > CLOCK_WRONG else "watch", summary, remedy)


def _is_up(name: str, rows: Rows) -> bool:
    return bool(rows.get(name, {}).get("state") == "up")


def _server_clock(component: Component) -> datetime | None:
    """The time that a server's answer carries."""
    try:
        request = _request(component, component.ready_path)
        with urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            return parsedate_to_datetime(answer.headers["Date"])
    except (OSError, ValueError, TypeError):
        return None


def _request(
    component: Component, path: str, body: dict[str, Any] | None = None, login: str = ""
) -> Request:
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
    elif component.token:
        headers["Authorization"] = f"Bearer {component.token}"
    data = None if body is None else json.dumps(body).encode()
    return Request(component.address + path, data, headers)  # noqa: S310


def _fetch(
    component: Component, path: str, body: dict[str, Any] | None = None, login: str = ""
) -> Any:
    with urlopen(_request(component, path, body, login), timeout=TIMEOUT) as answer:  # noqa: S310
        return json.load(answer)


def _champion(settings: Settings, now: datetime) -> Iterator[Finding]:
    try:
        champion = registry.champion(settings)
    except registry.RegistryError as error:
        remedy = "see GRIDCAST_MLFLOW_URL, and whether MLflow runs: gridcast status"
        yield Finding("MLflow", "wrong", str(error), remedy)
        return
    yield Finding("MLflow", "ok", f"{settings.displayed_tracking_url} answers")
    if champion is None:
        summary = "there is none yet: the histories alone answer"
        yield Finding("champion", "watch", summary, "gridcast train")
        return
    trained = champion.created_at
    if "trained_until" in champion.tags:
        trained = datetime.fromisoformat(champion.tags["trained_until"])
    age = now - (trained if trained.tzinfo else trained.replace(tzinfo=UTC))
    summary = (
        f"{champion.label} knows jobs until {trained:%Y-%m-%d %H:%M} UTC, "
        f"{age / timedelta(days=1):,.1f} days ago"
    )
    if age > STALE_AFTER:
        remedy = "gridcast history tells why no newer one was promoted; gridcast train trains one"
        yield Finding("champion", "watch", summary, remedy)
    else:
        yield Finding("champion", "ok", summary)


def _prefect(settings: Settings, components: Sequence[Component], rows: Rows) -> Iterator[Finding]:
    prefect = next((component for component in components if component.name == "prefect"), None)
    if prefect and settings.prefect_url:
        prefect = replace(prefect, address=settings.prefect_url)  # in another container
    elif prefect is None or not _is_up(prefect.name, rows):
        summary = "its server does not run here, so nothing is scheduled"
        yield Finding("Prefect", "watch", summary, "gridcast up starts it")
        return
    late_runs = {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}}
    try:
        login = settings.prefect_login
        late = _fetch(prefect, "/api/flow_runs/count", late_runs, login)
        pools = _fetch(prefect, "/api/work_pools/filter", {}, login)
        paused = [pool["name"] for pool in pools if pool["status"] != "READY"]
    except (OSError, ValueError, KeyError) as error:
        summary = f"{prefect.address} does not answer as it should: {error}"
        yield Finding("Prefect", "wrong", summary, "gridcast down, then up")
        return
    if paused:
        summary = f"no worker takes the runs of the pool {', '.join(paused)}"
        remedy = "logs/schedules.log of the data folder says why; gridcast up starts one"
        yield Finding("Prefect", "wrong", summary, remedy)
    elif late:
        remedy = "look at them on its page: they wait for a worker, or for the run before"
        yield Finding("Prefect", "watch", f"{late} runs are late", remedy)
    else:
        summary = f"{prefect.address} answers, a worker is there, no run is late"
        yield Finding("Prefect", "ok", summary)


def _predictors(components: Sequence[Component], rows: Rows) -> Iterator[Finding]:
    for component in components:
        if component.name.startswith("predictor") and _is_up(component.name, rows):
            yield from _predictor(component)


def _predictor(component: Component) -> Iterator[Finding]:
    name, address = component.name, component.address
    try:
        model = _fetch(component, "/model")
    except (OSError, ValueError) as error:
        remedy = f"its log is logs/{name}.log of the data folder"
        yield Finding(name, "wrong", f"{address} does not answer: {error}", remedy)
        return
    summary = f"{address} is {model['state']}, answers with {model['model_version']}"
    set_aside = model.get("set_aside", {"answers": 0})
    if model["troubles"]:
        troubles = "; ".join(model["troubles"].values())
        remedy = "mend what it names; it goes on by itself then"
        yield Finding(name, "wrong", f"{summary}: {troubles}", remedy)
    elif set_aside["answers"]:
        count, reason = set_aside["answers"], set_aside["last_reason"]
        remedy = "see its log for each; restarting it clears the count"
        yield Finding(
            name, "watch", f"{summary}; {count:,} answers are not recorded: {reason}", remedy
        )
    else:
        yield Finding(name, "ok", f"{summary}, knows {model['history']['jobs']:,} jobs")


def _own_shard(settings: Settings) -> Iterator[Finding]:
    """Whether the history of the data folder is that of GRIDCAST_SHARD, if there is one."""
    file, shard = settings.home / "predictor" / "history.arrays", settings.shard
    try:
        own = str(map_arrays(file)[0]["learned"]["shard"])
    except (OSError, ValueError, KeyError, TypeError):
        return  # the predictor builds its history anew
    if own == shard:
        if shard:
            yield Finding("shard", "ok", f"the history of this data folder is that of {shard}")
        return
    yield Finding(
        "shard",
        "wrong",
        f"the history of {settings.home.absolute()} is of {_shard_name(own)}, and GRIDCAST_SHARD "
        f"says {_shard_name(shard)}",
        "give each predictor a GRIDCAST_HOME of its own, with another shard a new one; else this "
        "one reads the whole store anew",
    )


def _shard_name(shard: str) -> str:
    return f"shard {shard}" if shard else "all users"


def _shards(settings: Settings) -> Iterator[Finding]:
    """Whether the router's list is complete, and each predictor is of the shard that it names."""
    if not settings.shard_addresses:
        return
    try:
        ring = read_ring(settings)
    except SettingsError as error:
        remedy = "the list needs an entry for each shard, all of one number of shards"
        yield Finding("shards", "wrong", str(error), remedy)
        return
    entries = [
        (ring.name(shard), address)
        for shard in range(1, ring.count + 1)
        for address in ring.of_shard(shard)
    ]
    with ThreadPoolExecutor(MAX_REQUESTS) as threads:
        reasons = list(threads.map(partial(_why_not_shard, settings), entries))
    if not any(reasons):
        summary = f"the {len(entries)} predictors of {ring.count} shards answer as those"
        yield Finding("shards", "ok", summary)
    for (shard, _), reason in zip(entries, reasons, strict=True):
        if reason:
            remedy = "start it with that GRIDCAST_SHARD, or correct GRIDCAST_SHARD_ADDRESSES"
            yield Finding(f"shard {shard}", "wrong", reason, remedy)


def _why_not_shard(settings: Settings, entry: tuple[str, str]) -> str:
    """Why an address does not answer as a shard's predictor; "" if it does.

    Args:
        settings: With a token.
        entry: The shard and the address.
    """
    shard, address = entry
    predictor = Component(shard, (), address=address, token=settings.any_token)
    try:
        own = _fetch(predictor, "/model")["shard"] or ""
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{address} does not answer: {error}"
    return "" if own == shard else f"{address} has the histories of {_shard_name(own)}"


def examine_site(settings: Settings, now: datetime | None = None) -> list[Finding]:
    """Examine tasks, accuracy, decay, drift and collectors, as far as there are any."""
    return list(_site(settings, _store(settings), now or datetime.now(UTC)))


def _site(settings: Settings, store: StoreStatus | str, now: datetime) -> Iterator[Finding]:
    yield from _tasks(settings, now)
    if isinstance(store, str) or store.version is None or store.version != store.head:
        return  # what the finding about the database says
    engine = connect(settings.store_url)
    try:
        yield from site_findings(read_site_status(engine, settings, now))
    except GridcastError as error:
        yield Finding("site", "wrong", str(error), "see the rows about database and settings")
    finally:
        engine.dispose()


def _tasks(settings: Settings, now: datetime) -> Iterator[Finding]:
    """The task watch, if it ever ran on this data folder."""
    latest = LatestTasks(settings.home / "tasks")
    threads, (tasks, updated_at) = latest.read_status(), latest.read()
    if not threads and not updated_at:
        return
    remedy = "logs/dashboard.log of the data folder says more; it goes on by itself"
    troubles = [thread["trouble"] for thread in threads.values() if thread["trouble"]]
    age = now - datetime.fromisoformat(updated_at) if updated_at else timedelta()
    summary = f"the tasks were updated {age / timedelta(hours=1):,.1f} h ago"
    if troubles:
        yield Finding("tasks", "wrong", f"{summary}; {'; '.join(troubles)}", remedy)
    elif age > max(STALE_TASKS, 10 * timedelta(seconds=settings.dashboard_seconds)):
        yield Finding("tasks", "watch", summary, "gridcast up, or gridcast dashboard, updates them")
    elif bad := count_bad(tasks):
        remedy = "the page says which, why and since when"
        yield Finding("tasks", "watch", f"{summary}; {bad}", remedy)
    else:
        yield Finding("tasks", "ok", f"{summary}; none is stalled or failing")
    if slow := latest.read_activity().get("slow_hosts", ()):
        summary = "; ".join(host["text"] for host in slow[:MAX_SLOW_HOSTS])
        summary += f"; and {len(slow) - MAX_SLOW_HOSTS} more" * (len(slow) > MAX_SLOW_HOSTS)
        yield Finding("hosts", "watch", summary, "look at the host, or take it out of the queue")


def count_bad(tasks: pd.DataFrame) -> str:
    """How many tasks are stalled or failing, in words; empty for none."""
    counts = tasks["state"][tasks["kind"] == "task"].value_counts()
    bad = [(state, int(counts.get(state, 0))) for state in ALERTED_STATES]
    return ", ".join(f"{count:,} {state}" for state, count in bad if count)


def _table(table: Path | None, now: datetime) -> Iterator[Finding]:
    if table is None:
        return
    remedy = "gridcast table writes it; adapters fall back on the user's request meanwhile"
    try:
        age, rows = now - written_at(table), table_rows(table)
    except GridcastError as error:
        yield Finding("table", "wrong", str(error), remedy)
        return
    summary = f"{table} was written {age / timedelta(hours=1):,.1f} h ago"
    if not rows:
        yield Finding("table", "wrong", f"{summary} and has no rows", remedy)
    elif age <= STALE_TABLE:
        yield Finding("table", "ok", summary)
    else:
        yield Finding("table", "wrong" if age > OLD_TABLE else "watch", summary, remedy)


def _own_table(settings: Settings) -> Path | None:
    """Where ``gridcast table`` writes by default, if it ever did."""
    file = settings.home / "tables" / "predictions.tsv"
    return file if file.exists() else None


def written_at(table: Path) -> datetime:
    """When a table of ``gridcast table`` was written; raises GridcastError if it is none."""
    try:
        with table.open(encoding="utf-8") as file:
            magic, seconds, *_ = file.readline().split("\t")
        if not magic.startswith("gridcast-table"):
            raise ValueError
        return datetime.fromtimestamp(float(seconds), UTC)
    except (OSError, ValueError):
        raise GridcastError(f"{table} is no readable table of predictions") from None


def table_rows(table: Path) -> int:
    """How many rows a table of ``gridcast table`` has, without its two lines of heading."""
    with table.open("rb") as file:
        return max(sum(1 for _ in file) - 2, 0)
