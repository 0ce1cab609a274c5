"""A broker in 30 lines: 1,000 waiting jobs, their predictions, and the surest short ones first.

Usage: GRIDCAST_TOKEN=… python examples/broker.py JOBS.csv [http://127.0.0.1:3000]
"""

import csv
import os
import sys
from itertools import islice
from pathlib import Path

# On a broker's machine the client is one copied file: ``from client import Gridcast``.
from services.client import Gridcast

FIELDS = ("job_id", "source", "user", "group", "program", "queue")


def as_job(row: dict[str, str]) -> dict[str, str | float]:
    """The fields of a row that are not empty, numbers as numbers."""
    job: dict[str, str | float] = {name: row[name] for name in FIELDS if row.get(name)}
    requested = row.get("requested_walltime")
    return {**job, "requested_walltime": float(requested)} if requested else job


def main(file: str, url: str = "http://127.0.0.1:3000") -> None:
    """Print ten of the file's first 1,000 jobs, by the time by which 95 % of such jobs ended."""
    with Path(file).open(encoding="utf-8") as lines:
        jobs = [as_job(row) for row in islice(csv.DictReader(lines), 1000)]
    with Gridcast(url, token=os.environ.get("GRIDCAST_TOKEN"), timeout=5) as predictor:
        predictions = predictor.predict(jobs)
    fallbacks = [row["fallback"] for row in predictions if "fallback" in row]
    print(f"{len(predictions):,} jobs, {len(fallbacks):,} without a prediction", *fallbacks[:1])
    predictions.sort(key=lambda row: float(row["walltime_high"] or "inf"))
    for row in predictions[:10]:
        low, best, high = (float(row[f"walltime{end}"] or 0) for end in ("_low", "", "_high"))
        print(f"job {row['job_id']}: {best / 60:.0f} min ({low / 60:.0f} to {high / 60:.0f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
