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
import logging
import time
from collections import Counter

from infra.settings import prepare_environment


def main() -> None:
    """Run as many worlds as asked for; ends with 1 at the first that breaks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", type=int, help="how many")
    parser.add_argument("--from", type=int, default=0, dest="first")
    options = parser.parse_args()
    thrown, steps = Counter[str](), Counter[str]()
    started = time.monotonic()
    from tests.simulation.world import universe

    logging.disable(logging.CRITICAL)  # each fault is logged, with its traceback
    with universe() as world_of:
        for seed in range(options.first, options.first + options.seeds):
            world = world_of(seed)
            thrown += world.dice.thrown
            steps.update(step for step in world.steps if not step.startswith("failed"))
    print(
        f"{options.seeds} worlds held in {time.monotonic() - started:.0f} s "
        f"through {thrown.total()} faults:"
    )
    for text, times in (*thrown.most_common(), *steps.most_common()):
        print(f"{times:6d}  {text}")


if __name__ == "__main__":
    prepare_environment()
    main()
