"""Processor time, memory and restart of the mixtures of histories, beside an earlier commit's code.

    uv run python benchmarks/histories.py COMMIT [--rounds N | --memory | --restart MILLIONS]

Both codes run in a process of their own, learn the same jobs and predict the same contexts in turn,
one at a time; the answers are compared value by value. Microseconds of processor time a context, so
that other work on the machine hardly matters: jobs of LCG and generated ones, 10,000 as they wait
and each as of its submission, by one thread, without refiners.

``--memory``: bytes a job of walltimes of LCG and of a generated million jobs, histories without
weights, and the time to learn them. ``--restart``: so many million generated jobs of four targets
are learned and saved; two processes continue from the file, one beside the other, and each compares
its predictions of 100 jobs with those of the process that learned. COMMIT ``-`` leaves out the
earlier code.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parents[1]
CALL = 10_000
LEARNED = {"LCG": 40_000, "generated": 25_000}
FOUR = ("walltime", "peak_memory", "io")
RESTARTED = ("walltime", "cpu_time", "peak_memory", "io")
BEGAN = time.perf_counter()


def main() -> None:
    """Run both codes in turn and print a row for each kind of call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--restart", type=float, metavar="MILLIONS")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from benchmarks.serving import checked_out

    if options.memory or options.restart:
        with nullcontext() if options.commit == "-" else checked_out(options.commit) as earlier:
            for root in (earlier, HERE) if earlier else (HERE,):
                print(root.name)
                if options.memory:
                    subprocess.run([*_command("memory", root)], env=_environment(root), check=True)
                else:
                    restart(root, options.restart)
        return
    with checked_out(options.commit) as earlier, tempfile.TemporaryDirectory() as folder:
        roots = (earlier, HERE)
        files = [Path(folder) / f"{number}.npz" for number in range(2)]
        processes = [
            subprocess.Popen(
                [*_command("predict", root), file],
                env=_environment(root),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for root, file in zip(roots, files, strict=True)
        ]
        contexts, _ = (json.loads(_line(process)) for process in processes)
        taken: dict[str, list[list[float]]] = {name: [[], []] for name in contexts}
        for number in range(options.rounds):
            for name, times in taken.items():
                for code in (0, 1) if number % 2 else (1, 0):
                    process = processes[code]
                    assert process.stdin is not None
                    process.stdin.write(name + "\n")
                    process.stdin.flush()
                    times[code].append(float(_line(process)))
        for process in processes:
            process.communicate()
        before, after = (np.load(file) for file in files)
        print(f"| call | contexts | µs, {options.commit} | µs | ratio | largest difference |")
        print("|---|---|---|---|---|---|")
        for name, times in taken.items():
            first, second = (float(np.median(values)) for values in times)
            worst = max(
                float(np.nanmax(np.abs(before[key] - after[key]) / np.maximum(before[key], 1.0)))
                for key in before.files
                if key.startswith(f"{name}/")
            )
            print(
                f"| {name} | {contexts[name]:,} | {first:.1f} | {second:.1f} |"
                f" {second / first:.2f} | {worst:.0e} |"
            )


def _command(child: str, root: Path) -> list[str]:
    """The command of a child process that runs the code in ``root``."""
    return [sys.executable, __file__, "--here", child, str(root)]


def _environment(root: Path) -> dict[str, str]:
    return os.environ | {"NUMBA_CACHE_DIR": str(root / ".numba_cache")}


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def restart(root: Path, millions: float) -> None:
    """Learn and save in one process; then continue from the file in two others."""
    environment = _environment(root)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*_command("learn", root), folder, str(millions)], env=environment, check=True
        )
        processes = []
        for _ in range(2):
            process = subprocess.Popen(
                [*_command("continue", root), folder],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            print("restart", _line(process).strip(), flush=True)
        for process in processes:  # both run: what do they share?
            print("both", process.communicate("\n")[0].strip(), flush=True)


def learn_here(folder: Path, millions: float) -> None:
    """Learn so many jobs of four targets, save what was learned and some predictions."""
    import pandas as pd

    from jobs.workload import generate
    from models.engine import snapshot
    from models.engine.forecaster import Forecaster
    from models.histories.features import encode
    from models.quantities.targets import TARGETS

    forecaster, learning, count = Forecaster(targets=RESTARTED), 0.0, 0
    for seed in range(max(int(millions), 1)):
        jobs = generate(int(1e6 * min(millions, 1)), days=60.0, seed=seed).jobs
        later = pd.Timedelta(days=60 * seed)
        times = {name: jobs[name] + later for name in ("submitted_at", "started_at", "ended_at")}
        jobs = jobs.assign(job_id=f"{seed}-" + jobs["job_id"].astype(str), **times)
        if not seed:  # as a model is trained: weights are of these
            forecaster.learn(jobs.head(20_000))
        contexts = encode(jobs, forecaster.levels)
        began = time.process_time()
        for name, predictor in forecaster.predictors.items():
            target = TARGETS[name]
            predictor.load_histories(contexts, target.value(jobs), target.limit(jobs))
        learning, count = learning + time.process_time() - began, count + len(jobs)
    queries = jobs.tail(100)
    forecaster.predict(queries).to_pickle(folder / "expected")
    queries.to_pickle(folder / "queries")
    sizes = [
        sum(values.nbytes for values in mixture.state.outcomes)
        for mixture in forecaster.mixtures.values()
    ]
    print(
        f"{count:,} jobs: {sum(sizes) / len(sizes) / count:.0f} bytes a job and target;"
        f" {1e6 * learning / len(sizes) / count:.2f} µs of CPU each to learn"
    )
    began = time.perf_counter()
    if hasattr(snapshot, "snapshot_arrays"):  # before 2026-12-01
        np.savez(folder / "history.npz", **snapshot.snapshot_arrays(forecaster))
    else:
        from infra.mapped_arrays import write_arrays, write_description

        with (folder / "history").open("wb") as out:
            entries, waits = [], []
            for name in forecaster.names:
                started = time.perf_counter()
                arrays = snapshot.snapshot_target(forecaster, name)
                waits.append(time.perf_counter() - started)
                entries += write_arrays(out, arrays)
            write_description(out, entries, snapshot.describe_snapshot(forecaster))
            out.flush()
            os.fsync(out.fileno())
        print("learning waits", ", ".join(f"{wait:.2f}" for wait in waits), "s", end="; ")
    print(f"saved in {time.perf_counter() - began:.1f} s", flush=True)


def continue_here(folder: Path) -> None:
    """Continue from the file, compare predictions, and say how long it took and what is shared."""
    import pandas as pd

    from models.engine import snapshot
    from models.engine.forecaster import Forecaster

    queries = pd.read_pickle(folder / "queries")
    imported = time.perf_counter()
    forecaster = Forecaster(targets=RESTARTED)
    if hasattr(snapshot, "snapshot_arrays"):  # before 2026-12-01
        with np.load(folder / "history.npz") as content:
            snapshot.restore_snapshot(forecaster, dict(content))
    else:
        from infra.mapped_arrays import map_arrays

        snapshot.restore_snapshot(forecaster, *map_arrays(folder / "history"))
    restored = time.perf_counter()
    predicted = forecaster.predict(queries)
    answered = time.perf_counter()
    pd.testing.assert_frame_equal(predicted, pd.read_pickle(folder / "expected"))
    print(
        f"{restored - imported:.2f} s restored, {answered - restored:.2f} s first answer,"
        f" {answered - BEGAN:.2f} s with imports, {time.process_time():.2f} s of CPU in all;"
        f" {_memory()}",
        flush=True,
    )
    sys.stdin.readline()
    print(_memory())
    began = time.process_time()
    forecaster.learn(queries.assign(job_id="new-" + queries["job_id"]))
    print(f"100 outcomes learned in {time.process_time() - began:.2f} s of CPU; {_memory()}")


def _memory() -> str:
    """Memory of this process in MB: resident, its share of it, its own changed pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in lines}
    own = sizes["Private_Dirty"]
    return f"{sizes['Rss']:,} MB resident, {sizes['Pss']:,} MB its share, {own:,} MB its own"


def memory_here() -> None:
    """Print the bytes a job of the histories of walltimes, and the time to learn them."""
    from logs import load

    from jobs.workload import generate
    from models.engine.target_predictor import TargetPredictor
    from models.histories.features import choose_levels, encode
    from models.quantities.targets import TARGETS

    target = TARGETS["walltime"]
    for name, jobs in (("LCG", load("LCG")), ("generated", generate(1_000_000, days=60).jobs)):
        levels = choose_levels(jobs)
        contexts, values, limits = encode(jobs, levels), target.value(jobs), target.limit(jobs)
        TargetPredictor.create(target, levels).mixture.learn(
            contexts.take(slice(0, 9)), values[:9], limits[:9], weigh=False
        )
        mixture = TargetPredictor.create(target, levels).mixture
        began = time.process_time()
        mixture.learn(contexts, values, limits, weigh=False)
        learning, known = time.process_time() - began, int(np.isfinite(values).sum())
        index = mixture.state.outcomes
        text = f"{sum(values.nbytes for values in index) / known:.0f} bytes a job"
        if hasattr(index, "references"):
            from models.histories.outcome_index import CAPACITY

            used = sum(
                getattr(index, field)[: index.used[CAPACITY[field]]].nbytes
                if field in CAPACITY
                else getattr(index, field).nbytes
                for field in index._fields
            )
            text += f" ({used / known:.0f} in use)"
        print(f"{name}: {known:,} outcomes, {text}; {1e6 * learning / known:.2f} µs of CPU each")


def predict_here(answers: Path) -> None:
    """Learn; then predict what standard input names, and print how long it took."""
    calls = dict(_calls())
    arrays = {
        f"{name}/{number}": values
        for name, (_, call) in calls.items()
        for number, values in enumerate(call())
    }
    np.savez(answers, **arrays)
    print(json.dumps({name: count for name, (count, _) in calls.items()}), flush=True)
    for line in sys.stdin:
        count, call = calls[line.strip()]
        repeats = max(300 // count, 1)
        began = time.process_time()
        for _ in range(repeats):
            call()
        print(1e6 * (time.process_time() - began) / repeats / count, flush=True)


def _calls() -> Iterator[tuple[str, tuple[int, Callable[[], tuple[Any, ...]]]]]:
    """Calls by name, each with its number of contexts."""
    from dataclasses import replace

    from logs import load

    from jobs.workload import generate
    from models.engine.target_predictor import TargetPredictor, group_by_history
    from models.histories.features import NOT_AVAILABLE, choose_levels, encode
    from models.histories.occupancy import occupancy
    from models.quantities.targets import TARGETS

    for log, count in LEARNED.items():
        jobs = load("LCG").head(count) if log == "LCG" else generate(count, days=12.5).jobs
        levels, names = choose_levels(jobs), FOUR if log != "LCG" else FOUR[:1]
        contexts, weighing = encode(jobs, levels), np.arange(count) < count // 8
        now = contexts.available_at[contexts.available_at < NOT_AVAILABLE].max()
        last = np.arange(count - CALL, count)
        mixtures = {}
        for name in names:
            target = TARGETS[name]
            mixture = mixtures[name] = TargetPredictor.create(target, levels).mixture
            values, limits = target.value(jobs), target.limit(jobs)
            for rows, weigh in ((weighing, True), (~weighing, False)):
                mixture.learn(contexts.take(rows), values[rows], limits[rows], weigh)
            waiting = replace(contexts.take(last), at=np.full(CALL, now))
            for how, queries in (("waiting", waiting), ("distinct", contexts.take(last))):
                first = last[group_by_history(queries, limits[last]).first_rows]
                first = first[np.argsort(contexts.keys[first, 0], kind="stable")]
                batch, bounds = queries.take(first - last[0]), limits[first]

                def masses(
                    mixture: Any = mixture, batch: Any = batch, bounds: Any = bounds
                ) -> tuple[Any, ...]:
                    return (mixture.distributions(batch, bounds).mass,)

                def by_walltime(
                    mixture: Any = mixture,
                    times: Any = mixtures["walltime"],
                    batch: Any = batch,
                    bounds: Any = bounds,
                ) -> tuple[Any, ...]:
                    answer = occupancy(mixture, times, batch, bounds)
                    return tuple(answer[0] if isinstance(answer[0], tuple) else answer)[:3]

                yield f"{log} {name}, {how}", (len(first), masses)
                if name == "peak_memory":
                    yield f"{log} {name} by walltime, {how}", (len(first), by_walltime)
                if how == "waiting":
                    single = queries.take(first[:1] - last[0])
                    limit = bounds[:1]
                    yield f"{log} {name}, one", (1, partial(masses, batch=single, bounds=limit))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--here"]:
        _, _, child, code, *words = sys.argv
        sys.path[:0] = [code, f"{code}/benchmarks"]
        if child == "memory":
            memory_here()
        elif child == "learn":
            learn_here(Path(words[0]), float(words[1]))
        elif child == "continue":
            continue_here(Path(words[0]))
        else:
            predict_here(Path(words[0]))
    else:
        main()
