"""The whole loop in one process, with a seeded clock and seeded faults.

    uv run python -m tests.simulation 1000 [--from 50]

After FoundationDB's simulation: store, registry, engine and live state are real, only the clock is
simulated, and at every effect (a statement, a commit, a call of the registry, a file read or
renamed) a seeded die may kill the process or let the effect fail. A killed process does nothing
more, not even clean up, until it is started again with what the disk holds. After each tick of
the clock the invariants are checked; a seed that breaks one is printed, and repeats exactly.

Worlds of odd seeds have two to four shards on one store and one registry, which exchange what they
learned, are killed or lost one by one, and change in number.
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
    thrown: Counter[str] = Counter()
    started = time.monotonic()
    from tests.simulation.world import universe

    logging.disable(logging.CRITICAL)  # each fault is logged, with its traceback
    with universe() as world_of:
        for seed in range(options.first, options.first + options.seeds):
            thrown += world_of(seed).dice.thrown
    print(
        f"{options.seeds} worlds held in {time.monotonic() - started:.0f} s "
        f"through {thrown.total()} faults:"
    )
    for text, times in thrown.most_common():
        print(f"{times:6d}  {text}")


if __name__ == "__main__":
    prepare_environment()
    main()
