"""Processor time of the mixtures of histories, beside the code of an earlier commit.

    uv run python benchmarks/histories.py COMMIT [--rounds N]

Both codes run in a process of their own, learn the same jobs and predict the same contexts in turn,
one at a time; the answers are compared value by value. Microseconds of processor time a context, so
that other work on the machine hardly matters: jobs of LCG and generated ones, 10,000 as they wait
and each as of its submission, by one thread, without refiners.
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
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parents[1]
CALL = 10_000
LEARNED = {"LCG": 40_000, "generated": 25_000}
FOUR = ("walltime", "peak_memory", "io")


def main() -> None:
    """Run both codes in turn and print a row for each kind of call."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commit")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    from benchmarks.serving import checked_out

    with checked_out(options.commit) as earlier, tempfile.TemporaryDirectory() as folder:
        roots = (earlier, HERE)
        files = [Path(folder) / f"{number}.npz" for number in range(2)]
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--here", root, file],
                env=os.environ | {"NUMBA_CACHE_DIR": str(root / ".numba_cache")},
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


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def predict_here(root: Path, answers: Path) -> None:
    """Learn; then predict what standard input names, and print how long it took."""
    sys.path[:0] = [str(root), str(root / "benchmarks")]
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
        predict_here(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
