"""JAliEn: a job agent's advertisement and the waiting agents' JDLs, sent to ``POST /match``.

Usage: python examples/jalien_match.py AGENT.json QUEUE.json [http://127.0.0.1:3000]
"""

import json
import os
import sys
from pathlib import Path

import httpx


def match(agent: dict, queue: list[dict], url: str, token: str) -> list[tuple[str, int]]:
    """The queue's entries to start in the agent's slot, and how many of each.

    Args:
        agent: ``Site``, ``TTL`` (s left), ``CPUCores`` and ``Memory`` (MB) as a job agent has them.
        queue: ``entryId``, ``user``, ``counter`` (how many wait), ``priority``, ``userload``, the
            ``JDL`` with ``TTL``, ``CPUCores`` and ``Packages``.
        url: Of the predictor.
        token: One with the scope predict.
    """
    jobs = [
        {
            "job_id": entry["entryId"],
            "source": "alien",
            "user": entry["user"],
            "program": entry["JDL"].get("Packages"),
            "requested_walltime": entry["JDL"].get("TTL"),
            "requested_cores": entry["JDL"].get("CPUCores", 1),
            "count": entry["counter"],
            "priority": entry["priority"],
            "quota_used": entry["userload"],
        }
        for entry in queue
    ]
    slot = {"site": agent["Site"], "seconds_left": agent["TTL"], "cores": agent["CPUCores"]}
    body = {"jobs": jobs, **slot, "memory": agent["Memory"] * 1e6, "policy": "alice"}
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx.post(f"{url}/match", json=body, headers=headers, timeout=60)
    rows = answer.raise_for_status().json()["rows"]
    return [(row["job_id"], row["chosen"]) for row in rows if row["chosen"]]


if __name__ == "__main__":
    agent, queue = (json.loads(Path(file).read_text(encoding="utf-8")) for file in sys.argv[1:3])
    url = sys.argv[3] if len(sys.argv) > 3 else "http://127.0.0.1:3000"
    token = Path(os.environ.get("GRIDCAST_TOKEN_FILE", "gridcast-data/token")).read_text().strip()
    for entry, number in match(agent, queue, url, token):
        print(f"{entry}: start {number}")
