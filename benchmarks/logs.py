"""The real logs of the benchmarks of predictions, and their tables."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pandas as pd

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parents[1] / ".numba_cache"))

from jobs.ingest import read_log

TRACES = Path(os.environ.get("GRIDCAST_TRACES", Path(__file__).parents[2] / "shared" / "data"))
LOGS = {
    "KTH": "KTH-SP2-1996.swf.gz",
    "LCG": "LCG-2005-1.first70.swf.gz",
    "SDSC": "SDSC-SP2-1998-4.2-cln.swf.gz",
    "CTC": "CTC-SP2-1996-3.1-cln.swf.gz",
    "LPC": "LPC-EGEE-2004-1.2-cln.swf.gz",
    "LANL": "LANL-CM5-1994-4.1-cln.swf.gz",
}


def load(name: str) -> pd.DataFrame:
    """The jobs of a log, by its short name or path, in order of submission."""
    jobs, _ = read_log(TRACES / LOGS.get(name, name))
    return jobs.sort_values("submitted_at", kind="stable", ignore_index=True)


def warm_up(name: str) -> float:
    """The share of a log that is not evaluated; no long job of LCG ends on its first day."""
    return 0.3 if name == "LCG" else 0.1


def selected_logs(document: str, logs: str = "KTH LCG SDSC") -> list[str]:
    """The logs of the command line, by default ``logs``."""
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "logs",
        nargs="*",
        default=logs.split(),
        metavar="LOG",
        help=f"one of {', '.join(LOGS)}, or a file",
    )
    return list(parser.parse_args().logs)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print rows as a table in Markdown."""
    print(f"\n{title}\n")
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(_text(value) for value in row.values()) + " |", flush=True)


def _text(value: Any) -> str:
    if isinstance(value, float):
        return (
            f"{value:,.0f}"
            if abs(value) >= 1000
            else f"{value:.3g}"
            if abs(value) < 1
            else f"{value:.1f}"
        )
    return f"{value:,d}" if isinstance(value, int) else str(value)
