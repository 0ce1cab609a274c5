"""A broker in 30 lines: it asks for 1,000 waiting jobs at once, and takes the shortest first.

Usage: python examples/broker.py JOBS.csv [http://127.0.0.1:3000]

The token is that of the file GRIDCAST_TOKEN_FILE, by default the one that ``gridcast up`` made.
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
    """Print the ten of the file's first 1,000 jobs that are predicted to be the shortest."""
    with Path(file).open(encoding="utf-8") as lines:
        jobs = [as_job(row) for row in islice(csv.DictReader(lines), 1000)]
    token_file = os.environ.get("GRIDCAST_TOKEN_FILE", "gridcast-data/token")
    with Gridcast(url, token_file=token_file, timeout=30) as predictor:
        predictions = predictor.predict(jobs)
    reasons = [row["fallback"] for row in predictions if "fallback" in row]
    count = f"{len(predictions):,} jobs"
    if reasons:  # then the users' own requests are the answer
        print(f"{len(reasons):,} of {count} without a prediction: {reasons[0]}")
    else:
        print(f"{count} predicted")
    predictions.sort(key=lambda row: float(row["walltime"] or "inf"))
    for row in predictions[:10]:
        best, high = (float(row[name] or "nan") / 60 for name in ("walltime", "walltime_high"))
        print(f"job {row['job_id']}: {best:.0f} min, at most {high:.0f} ({row['model_version']})")


if __name__ == "__main__":
    main(*sys.argv[1:])
