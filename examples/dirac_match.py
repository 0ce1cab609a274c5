"""DIRAC: a pilot's resource description and the task queues, sent to ``POST /match``.

Usage: python examples/dirac_match.py PILOT.json TASKQUEUES.json [http://127.0.0.1:3000]
"""

import json
import os
import sys
from pathlib import Path

import httpx


def match(pilot: dict, queues: list[dict], url: str, token: str) -> list[tuple[str, int]]:
    """The task queues to take jobs from, best first, and how many of each.

    Args:
        pilot: ``Site``, ``CPUTime`` left (HS06 s), ``CPUNormalizationFactor`` (HS06),
            ``NumberOfProcessors`` and ``MaxRAM`` (MB) as the Matcher gets them.
        queues: ``TQId``, ``Owner``, ``OwnerGroup``, ``CPUTime`` asked for (HS06 s), ``Priority``
            and ``Jobs``, how many wait.
        url: Of the predictor.
        token: One with the scope predict.
    """
    power = pilot["CPUNormalizationFactor"]
    jobs = [
        {
            "job_id": str(queue["TQId"]),
            "source": "dirac",
            "user": queue["Owner"],
            "group": queue["OwnerGroup"],
            "requested_walltime": queue["CPUTime"] / power,
            "requested_cores": queue.get("NumberOfProcessors", 1),
            "count": queue["Jobs"],
            "priority": queue["Priority"],
        }
        for queue in queues
    ]
    slot = {"site": pilot["Site"], "host_power": power, "cores": pilot["NumberOfProcessors"]}
    slot |= {"seconds_left": pilot["CPUTime"] / power, "memory": pilot["MaxRAM"] * 1e6}
    body = {"jobs": jobs, **slot}
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{url}/match", json=body, headers=headers, timeout=60)
    rows = answer.raise_for_status().json()["rows"]
    return [(row["job_id"], row["chosen"]) for row in rows if row["chosen"]]


if __name__ == "__main__":
    pilot, queues = (json.loads(Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:3])
    url = sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:3000"
    token = Path(os.environ.get("GRIDCAST_TOKEN_FILE", "gridcast-data/token")).read_text().strip()
    for queue, number in match(pilot, queues, url, token):
        print(f"task queue {queue}: take {number}")
