"""The pictures of the page in README and docs, taken of a page that runs and made small.

uv run gridcast demo && uv run gridcast up --demo
uv run python benchmarks/screenshots.py http://127.0.0.1:3100
"""

from __future__ import annotations

import io
import shutil
import sys
from pathlib import Path
from urllib.parse import quote

import httpx
from PIL import Image

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
LAPTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
MAX_BYTES = 200_000
COLOURS = 128
"""A page has few colours; a palette of so many halves the size."""
STATES = ("stalled", "late", "failing", "normal")
"""The state of the task in the picture, the first that there is."""


def views(address: str) -> dict[str, tuple[str, dict[str, int], str, int]]:
    """Path, window, colour scheme and height in pixels of each picture, by its name."""
    tasks = httpx.get(f"{address}/api/tasks?size=200").json()["rows"]
    open_tasks = [row for row in tasks if row["state"] != "done" and row["jobs"] <= 400]
    row = min(open_tasks, key=lambda row: (STATES.index(row["state"]), -row["jobs"]))
    normal = max(open_tasks, key=lambda row: (row["state"] in ("normal", "late"), row["ended"]))
    chains = httpx.get(f"{address}/api/tasks?kind=chain").json()["rows"]
    task, wide = (f"/task/{quote(task['task'], '')}" for task in (row, normal))
    pictures = {
        "overview": ("/?hours=168", LAPTOP, "light", 1350),
        "tasks": ("/tasks", LAPTOP, "light", 900),
        "task": (wide, LAPTOP, "light", 1400),
        "task-dark": (task, LAPTOP, "dark", 1400),
        "models": ("/models", LAPTOP, "light", 1000),
        "tasks-phone": ("/", PHONE, "light", 1100),
    }
    if chains:
        path = f"/chain/{quote(chains[0]['task'], '')}"
        pictures["chain"] = (path, LAPTOP, "light", 1000)
    return pictures


def main(address: str) -> None:
    """Take every picture and write it to docs/pictures."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, (path, window, scheme, height) in views(address).items():
            context = browser.new_context(
                color_scheme=scheme, viewport=window, timezone_id="Europe/Zurich", locale="en-GB"
            )
            page = context.new_page()
            page.goto(address + path, wait_until="load")
            page.wait_for_selector("h1")
            page.wait_for_timeout(3000)  # for charts, and for what the registry is asked
            content = page.screenshot(full_page=True)
            context.close()
            print(
                f"{name:15} {write(FOLDER / f'{name}.png', content, height):9,} bytes", flush=True
            )
        browser.close()


def write(file: Path, content: bytes, height: int) -> int:
    """Write a picture, cut to ``height`` and with a palette; returns its size in bytes."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, height)))
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    assert size < MAX_BYTES, f"{file.name} has {size:,} bytes"
    return size


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
