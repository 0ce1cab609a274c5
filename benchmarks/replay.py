"""The benefit of predictions for a scheduler, on real logs; docs/benchmarks/scheduling.md.

    uv run python benchmarks/replay.py TABLE [LOG ...]

Tables: published, fidelity, chosen, orders, settings, frontier, benefit, correctors, ranges, speed, loads and
centre.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".numba_cache"))

from jobs.ingest import read_log
from jobs.readers.columns import parse_column_map
from jobs.readers.swf import read_header
from jobs.schema import conform, derive_fields
from scheduling.machine import Machine, machine_of, processors
from scheduling.outcome import Replay, recorded_row
from scheduling.replay import replay
from scheduling.studies.comparison import by_group, difference, verdict

TRACES = Path(os.environ.get("GRIDCAST_TRACES", Path(__file__).parents[2] / "shared" / "data"))
LOGS = {
    "KTH": "KTH-SP2-1996.swf.gz",
    "SDSC": "SDSC-SP2-1998-4.2-cln.swf.gz",
    "CTC": "CTC-SP2-1996-3.1-cln.swf.gz",
    "LPC": "LPC-EGEE-2004-1.2-cln.swf.gz",
    "LANL": "LANL-CM5-1994-4.1-cln.swf.gz",
    "HPC2N": "HPC2N-2002-2.2-cln.swf.gz",
    "Theta": "theta-2022.swf.gz",
    "Cirrus": "cirrus-2024-01.csv.gz",
    "Graham": "slurm-graham-2021.csv.gz",
}
MAPS = {
    "Cirrus": (
        "ID=job_id",
        "Submit Time=submitted_at:elapsed",
        "Start Time=started_at:elapsed",
        "End Time=ended_at:elapsed",
        "Status=status",
        "Nodes=cores",
    ),
    "Graham": (
        "job_id=job_id",
        "account=project",
        "partition=queue",
        "state=status",
        "submit=submitted_at",
        "start=started_at",
        "end=ended_at",
        "limit_s=requested_walltime:s",
        "cpus=cores",
    ),
}
"""The column maps of logs that are tables."""
HOUR = 3600.0
BOUNDS = (48, 72, 120, 168, np.inf)
Way = dict[str, Any]


def load(name: str) -> tuple[pd.DataFrame, Machine]:
    path = TRACES / LOGS.get(name, name)
    if entries := MAPS.get(name):
        jobs, _ = read_log(path, columns=parse_column_map(entries))
        return jobs, machine_of(jobs)
    jobs, _ = read_log(path)
    return jobs, machine_of(jobs, read_header(path).max_procs)


def show(name: str, done: Replay, note: str = "") -> None:
    row = done.row()
    print(
        f"{name:5s} {row['policy']:14s} {row['predictor']:12s} {row['corrector']:11s} {note:34s} {row['mean_bounded_slowdown']:8.2f}"
        f" p95 {row['p95_bounded_slowdown']:7.1f} wait {row['mean_wait'] / HOUR:6.2f} p99 {row['p99_wait'] / HOUR:6.1f}"
        f" max {row['max_wait'] / HOUR:7.0f} h  acc {row['accuracy']:.3f} late {row['late_heads']:.3f} fair {row['fairness']:.3f}"
        f" corrected {row['corrected']:6d} {row['seconds']:7.1f} s",
        flush=True,
    )


def run_all(names: Iterable[str], ways: Iterable[tuple[tuple[str, ...], Way]]) -> None:
    ways = list(ways)
    for name in names:
        jobs, machine = load(name)
        for way, more in ways:
            show(
                name,
                replay(jobs, machine, *way, **more),
                " ".join(
                    f"{key}={value:g}" if key == "bound" else f"{key}={value}"
                    for key, value in more.items()
                ),
            )


def published(names: list[str]) -> None:
    """Published results, and Gridcast with the same policy."""
    run_all(names, [((*way,), {}) for way in (
        ("easy", "request"), ("easy", "perfect"), ("easy-sjbf", "last-two", "incremental"), ("easy-sjbf", "last-two"),
        ("easy-sjbf", "template"), ("easy-sjbf", "gridcast"), ("easy-sjbf", "perfect"), ("conservative", "request"),
    )])  # fmt: skip


def fidelity(names: list[str]) -> None:
    """Recorded waits beside those of a replay under EASY with requests, in hours."""
    for name in names:
        jobs, machine = load(name)
        done = replay(jobs, machine, "easy", "request")
        recorded = recorded_row(done.trace)
        if recorded is None:
            print(f"{name}: the log records no waits", flush=True)
            continue
        waits = [
            " / ".join(
                f"{row[wait] / HOUR:.2f}" for wait in ("mean_wait", "median_wait", "p95_wait")
            )
            for row in (recorded, done.row())
        ]
        utilisation = f"{done.utilisation:.0%}"
        print(
            f"| {name} | {len(done.trace):,} | {machine.processors:,} | {utilisation} "
            f"| {waits[0]} | {waits[1]} |",
            flush=True,
        )


def settings(names: list[str]) -> None:
    """Settings of the recommended policy: statistics of the predicted distribution."""
    settings_rows = [
        ("mean", "mean", "request"), ("log-mean", "mean", "request"), ("median", "mean", "request"), ("mean", "log-mean", "request"),
        ("mean", "q0.75", "request"), ("mean", "request", "request"), ("mean", "mean", "q0.95"), ("mean", "mean", "mean"),
    ]  # fmt: skip
    run_all(
        names,
        [
            (("gridcast", "gridcast"), dict(zip(("rank", "fit", "finish"), way, strict=True)))
            for way in settings_rows
        ],
    )


def orders(names: list[str]) -> None:
    """Orders of the queue by the same predictions, with and without the bound on waiting."""
    base = {"rank": "mean", "fit": "mean", "finish": "request"}
    for bound in (120 * HOUR, np.inf):
        run_all(
            names,
            [
                ((order, "gridcast"), {**base, "bound": bound})
                for order in ("aged", "xfactor", "sjf", "area", "smith")
            ],
        )


def chosen(names: list[str]) -> None:
    """The recommended policy beside today's scheduling, without its bound, and with an oracle."""
    ways: list[tuple[tuple[str, ...], Way]] = [
        (("easy", "request"), {}), (("gridcast", "request"), {}), (("gridcast", "template"), {}), (("gridcast", "gridcast"), {}),
        (("gridcast", "gridcast"), {"bound": np.inf}), (("xfactor", "perfect"), {}), (("gridcast", "perfect"), {}),
    ]  # fmt: skip
    for name in names:
        jobs, machine = load(name)
        today = replay(jobs, machine)
        for way, more in ways:
            done = replay(jobs, machine, *way, **more)
            apart = difference(done, today)
            show(
                name,
                done,
                f"{apart.value:.3f} of EASY [{apart.low:.3f} {apart.high:.3f}]{' no bound' if more else ''}",
            )


def frontier(names: list[str]) -> None:
    """Mean slowdown against the longest wait, by bound; draws docs/pictures/frontier.png."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        jobs, machine = load(name)
        today = replay(jobs, machine)
        waits, p99 = today.waits.max() / HOUR, np.percentile(today.waits, 99) / HOUR
        axes.set_title(f"{name}: twice EASY's longest wait is {2 * waits:.0f} h", fontsize=10)
        for label, marker, ways in (
            ("EASY, request", "s", [("easy", "request", np.inf)]),
            ("shortest-first backfill, last two", "v", [("easy-sjbf", "last-two", np.inf)]),
            (
                "expansion factor, gridcast",
                ".-",
                [("xfactor", "gridcast", bound * HOUR) for bound in BOUNDS],
            ),
            (
                "recommended, template",
                ".-",
                [("gridcast", "template", bound * HOUR) for bound in BOUNDS],
            ),
            (
                "recommended, gridcast",
                "o-",
                [("gridcast", "gridcast", bound * HOUR) for bound in BOUNDS],
            ),
            (
                "recommended, perfect",
                ".-",
                [("gridcast", "perfect", bound * HOUR) for bound in BOUNDS],
            ),
        ):
            done = [
                replay(jobs, machine, policy, predictor, bound=bound)
                for policy, predictor, bound in ways
            ]
            for result in done:
                show(
                    name,
                    result,
                    f"bound={result.policy.bound / HOUR:g} h, 99 % {np.percentile(result.waits, 99) / HOUR / p99:.2f} of EASY's",
                )
            points = sorted((result.waits.max() / HOUR, result.slowdowns.mean()) for result in done)
            axes.plot(*zip(*points, strict=True), marker, label=label, linewidth=1, markersize=5)
        axes.axvline(2 * waits, color="0.6", linewidth=1, linestyle=":")
        axes.set(
            xscale="log", xlabel="longest wait [h]", ylabel="mean bounded slowdown", ylim=(0, None)
        )
        axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize=7)
    figure.savefig(Path(__file__).parents[1] / "docs" / "pictures" / "frontier.png", dpi=90)


def benefit(names: list[str]) -> None:
    """Significance of the differences between Gridcast and the heuristics, by policy."""
    for name in names:
        jobs, machine = load(name)
        for policy in ("easy-sjbf", "gridcast"):
            mine = replay(jobs, machine, policy, "gridcast")
            show(name, mine)
            for predictor in ("request", "last-two", "template", "median-3"):
                theirs = replay(jobs, machine, policy, predictor)
                apart = difference(mine, theirs)
                show(
                    name,
                    theirs,
                    f"ratio {apart.value:.3f} [{apart.low:.3f} {apart.high:.3f}] {verdict(apart)}",
                )


def correctors(names: list[str]) -> None:
    """Corrections of the prediction of a job that runs longer."""
    run_all(names, [((policy, predictor, corrector), {}) for policy in ("easy-sjbf",) for predictor in ("template", "gridcast")
                 for corrector in ("request", "incremental", "remaining")])  # fmt: skip


def ranges(names: list[str]) -> None:
    """Backfill by quantiles, and by mean plus standard deviations; late heads are the risk."""
    settings_rows = (
        "median",
        "q0.6",
        "q0.75",
        "q0.9",
        "q0.95",
        "mean+0sd",
        "mean+0.5sd",
        "mean+1sd",
        "mean+2sd",
        "request",
    )
    run_all(names, [(("easy", "gridcast"), {"fit": way, "finish": way}) for way in settings_rows])


def speed(names: list[str]) -> None:
    """KTH under EASY, and 200,000 jobs with a long queue."""
    jobs, machine = load("KTH")
    show("KTH", replay(jobs, machine, "easy"))
    generator = np.random.default_rng(0)
    rows = 200_000
    frame = pd.DataFrame(
        {
            "submitted": np.sort(generator.uniform(0, 100 * 86400, rows)),
            "walltime": generator.lognormal(7.0, 1.5, rows).clip(1, 86400),
        }
    )
    frame = frame.assign(
        cores=2 ** generator.integers(0, 6, rows),
        source="made",
        requested_walltime=86400.0,
        user="ada",
        job_id=[str(n) for n in range(rows)],
    )
    frame["submitted_at"] = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(
        frame["submitted"], unit="s"
    )
    work = float((frame["cores"] * frame["walltime"]).sum() / (100 * 86400))
    generated = derive_fields(conform(frame))
    for policy in ("easy", "easy-sjbf", "xfactor"):
        done = replay(generated, processors(int(work * 0.97)), policy, "perfect")
        table, moments = done.table, np.linspace(0, 100 * 86400, 200)
        queue = [
            int(((table["submitted"] <= moment) & (table["started"] > moment)).sum())
            for moment in moments
        ]
        show("made", done, f"queue mean {np.mean(queue):.0f} max {max(queue)}")


def loads(names: list[str]) -> None:
    """Forecasts of host load on PlanetLab, one step ahead, and work divided by them."""
    from scheduling.studies.host_load import FORECASTS, absolute_error, relative_error
    from scheduling.studies.time_balancing import SPLITTINGS, split_and_run

    series = pd.read_csv(TRACES / "planetlab-20110303-cpu-load.csv.gz").to_numpy(dtype=float)
    for length in (1, 3, 6):
        cut = (
            series[: len(series) // length * length]
            .reshape(-1, length, series.shape[1])
            .mean(axis=1)
        )
        for name, forecast in FORECASTS.items():
            predicted = forecast(cut)
            print(
                f"{5 * length:3d} min {name:16s} MAE {absolute_error(cut, predicted).mean():6.3f} relative {relative_error(cut, predicted).mean():6.3f}"
            )
    generator = np.random.default_rng(0)
    cases = [
        (generator.choice(series.shape[1], 8, replace=False), int(generator.integers(60, 240)))
        for _ in range(2000)
    ]
    for total in (1.0, 8.0):
        for name in SPLITTINGS:
            for tuning in (0.0, 0.5, 1.0, 2.0) if "conservative" in name else (1.0,):
                took = np.array(
                    [
                        split_and_run(series[:, hosts] / 100, at, total * HOUR, name, tuning=tuning)
                        for hosts, at in cases
                    ]
                )
                print(
                    f"{total:g} h over 8 hosts {name:22s} TF {tuning:g}: mean {took.mean():8.1f} s, sd {took.std():7.1f}, 95 % {np.quantile(took, 0.95):8.1f}"
                )


def centre(names: list[str]) -> None:
    """Pools, quotas and fair share on a grid site's log."""
    from scheduling.studies.what_if import what_if

    for name in names or ["LPC"]:
        jobs, machine = load(name)
        replays = what_if(
            jobs, machine.processors, progress=lambda text, _: print(text, file=sys.stderr)
        )
        for way, done in replays.items():
            show(name, done, way)
        rows = pd.DataFrame(by_group(replays))
        rows = rows[rows["jobs"] >= 20].assign(mean_wait=rows["mean_wait"] / HOUR)
        index = ["group", "jobs", "core_hours"]
        waits = rows.pivot(index=index, columns="scenario", values="mean_wait")
        print(waits.sort_index(level="core_hours").round(2).to_string())


TABLES: dict[str, Callable[[list[str]], None]] = {
    table.__name__: table
    for table in (
        published,
        fidelity,
        chosen,
        orders,
        settings,
        frontier,
        benefit,
        correctors,
        ranges,
        speed,
        loads,
        centre,
    )
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("logs", nargs="*")
    options = parser.parse_args()
    began = time.perf_counter()
    TABLES[options.table](
        options.logs or ([] if options.table == "centre" else ["KTH", "SDSC", "CTC"])
    )
    print(f"{time.perf_counter() - began:.0f} s")
