"""The whole loop in one process, with a seeded clock and seeded faults.

    uv run python -m tests.simulation 1000 [--from 50]

After FoundationDB's simulation: store, registry, predictors (one, or up to four shards) and the
router before them are real, only clock and network are simulated, and at every effect (a statement,
a commit, a call of the registry, a file read or renamed) a seeded die may kill the process or let
the effect fail. A killed process does nothing more, not even clean up, until it is started again
with what the disk holds. Machines are lost for some time, with or without their disk, and the
number of shards changes. After each step the invariants are checked; a seed that breaks one is
printed, and repeats exactly.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from infra.settings import THREADS, prepare_environment
from tests.simulation.world import run_worlds

BLOCK = 25
"""Seeds that a process runs before another one begins with little memory."""


def main() -> None:
    """Run as many worlds as asked for; ends with 1 at the first that breaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", type=int, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first")
    options = parser.parse_args()
    thrown, steps = Counter[str](), Counter[str]()
    started, end = time.monotonic(), options.first + options.seeds
    firsts = range(options.first, end, BLOCK)
    with ProcessPoolExecutor(
        THREADS, multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as pool:
        ends = [min(first + BLOCK, end) for first in firsts]
        for upto, (more_thrown, more_steps) in zip(
            ends, pool.map(run_worlds, firsts, ends), strict=True
        ):
            thrown += more_thrown
            steps += more_steps
            print(f"seeds {options.first} to {upto - 1} held", file=sys.stderr, flush=True)
    print(
        f"{options.seeds} worlds held in {time.monotonic() - started:.0f} s "
        f"through {thrown.total()} faults:"
    )
    for text, times in (*thrown.most_common(), *steps.most_common()):
        print(f"{times:6d}  {text}")


if __name__ == "__main__":
    prepare_environment()
    main()
