"""Pictures of the shifter's page for README and the documentation, from a page that is running.

    gridcast demo && gridcast up --demo
    uv run python benchmarks/page_pictures.py [http://127.0.0.1:3100]

Writes docs/pictures/page-*.png: the overview, the task that stalls, sites and models on a laptop,
and the list of tasks on a phone.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Browser, sync_playwright

PICTURES = Path(__file__).parents[1] / "docs/pictures"
LAPTOP, PHONE = (1280, 860), (390, 844)
SETTLED_MS = 3000


def main() -> None:
    """Take every picture."""
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3100"
    task = quote(worst_task(address))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox"],
        )
        take(browser, f"{address}/", "page-overview", LAPTOP)
        take(browser, f"{address}/task/{task}", "page-task", LAPTOP)
        take(browser, f"{address}/sites", "page-sites", LAPTOP)
        take(browser, f"{address}/models", "page-models", LAPTOP, "dark")
        take(browser, f"{address}/tasks", "page-tasks-phone", PHONE, "dark")
        browser.close()


def worst_task(address: str) -> str:
    """The stalled task, or else the first of the list."""
    with urllib.request.urlopen(f"{address}/api/tasks?size=50") as answer:
        rows = json.load(answer)["rows"]
    stalled = [row["task"] for row in rows if row["state"] == "stalled"]
    return str((stalled or [rows[0]["task"]])[0])


def take(
    browser: Browser, url: str, name: str, size: tuple[int, int], scheme: str = "light"
) -> None:
    """Take one picture, of what fits on the screen.

    Args:
        browser: The browser.
        url: The address of the page.
        name: The name of the file.
        size: Width and height of the screen.
        scheme: The colours: light or dark.
    """
    width, height = size
    page = browser.new_page(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page.goto(url)
    page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=str(PICTURES / f"{name}.png"))
    page.close()


if __name__ == "__main__":
    main()
