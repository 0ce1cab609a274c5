"""The cost of the adapter for Slurm's controller: the time of sbatch without and with job_submit.

    uv run python -m benchmarks.slurm [--rows 100000] [--submissions 400]

Starts a real Slurm (as root; apt-get install slurm-wlm munge slurmdbd mariadb-server) with a table
of predictions. Held jobs are submitted without a script, with an empty one and with the adapter, in
turn, and sbatch is timed. The script's lookups are also timed alone, a thousand of them.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np

import adapters
from tests.adapters.slurm_cluster import NO_SCRIPT, Slurm, missing, slurm_cluster

ADAPTER = Path(adapters.__path__[0]) / "slurm" / "gridcast.lua"
SCRIPT = """
local gridcast = dofile("{adapter}")
local predict = gridcast.adapter({{ table = "{table}" }})
function slurm_job_submit(job_desc, part_list, submit_uid)
    predict(job_desc, part_list)
    {more}
    return slurm.SUCCESS
end
function slurm_job_modify() return slurm.SUCCESS end
return slurm.SUCCESS
"""
THOUSAND = """
    local begun = os.clock()
    for round = 1, 1000 do
        job_desc.name = "program" .. (round * 7919) % {programs}
        job_desc.comment = ""
        predict(job_desc, part_list)
    end
    job_desc.comment = string.format("%.9f", (os.clock() - begun) / 1000)
"""


def write_table(path: Path, rows: int) -> None:
    """A table of programs, as ``gridcast table`` writes it, with the columns that the script reads."""
    numbers = "\t12\t0\t600\t300\t900\t1200"
    lines = sorted(f"job|mail|program{number}|-|short|60|1{numbers}" for number in range(rows))
    head = f"gridcast-table 2\t{time.time():.0f}\tnow\tgridcast/1\t{rows + 1}"
    columns = "\t".join(
        ("key", "jobs", "new", *(f"walltime{end}" for end in ("", "_low", "_high", "_kill_limit")))
    )
    path.write_text("\n".join((head, columns, f"all{numbers}", *lines)) + "\n")


def put(slurm: Slurm, text: str) -> None:
    newer = max(time.time(), slurm.script.stat().st_mtime) + 2
    slurm.script.write_text(text)
    os.utime(slurm.script, (newer, newer))
    slurm.submit("warm", "mail", "true", "--hold")


def submissions(slurm: Slurm, count: int, programs: int) -> list[float]:
    """Milliseconds of each."""
    took = []
    for number in range(count):
        begun = time.perf_counter()
        slurm.submit(f"program{number * 7919 % programs}", "mail", "true", "--hold")
        took.append((time.perf_counter() - begun) * 1e3)
    return took


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--submissions", type=int, default=400)
    options = parser.parse_args()
    if why := missing():
        raise SystemExit(why)
    with slurm_cluster() as slurm:
        table = slurm.folder / "predictions.tsv"
        write_table(table, options.rows)
        scripts = {
            "an empty script": NO_SCRIPT,
            "the adapter": SCRIPT.format(adapter=ADAPTER, table=table, more=""),
            "the adapter, no table": SCRIPT.format(adapter=ADAPTER, table=f"{table}.gone", more=""),
        }
        took: dict[str, list[float]] = {name: [] for name in scripts}
        turns = 8
        for _ in range(turns):
            for name, text in scripts.items():
                put(slurm, text)
                took[name] += submissions(slurm, options.submissions // turns, options.rows)
        print(
            f"{options.rows:,} rows, {table.stat().st_size / 1e6:.1f} MB; milliseconds of sbatch, {options.submissions} submissions each"
        )
        print(f"{'':24}{'median':>10}{'99 %':>10}{'largest':>10}")
        for name, times in took.items():
            print(
                f"{name:24}{np.median(times):10.2f}{np.quantile(times, 0.99):10.2f}{max(times):10.2f}"
            )
        alone = {
            "the job's own row": ("mail", options.rows),
            "only the row of all": ("news", 10**9),
        }
        for name, (user, programs) in alone.items():
            put(
                slurm,
                SCRIPT.format(
                    adapter=ADAPTER, table=table, more=THOUSAND.format(programs=programs)
                ),
            )
            job = slurm.submit("program1", user, "true", "--hold")
            print(
                f"the script alone, {name}: {float(slurm.comment(job)) * 1e6:.0f} µs a submission"
            )


if __name__ == "__main__":
    main()
