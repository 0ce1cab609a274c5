"""Progress of long commands on standard error: a bar with the time left, or a line a phase."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from commands.terminal import visible

Report = Callable[..., None]
USUAL_SECONDS = {
    "allocation": (5, 1.5e-3),
    "classes": (10, 8e-3),
    "evaluate": (5, 2e-3),
    "rehearse": (10, 1.2e-2),
    "replay": (2, 5e-4),
    "tasks": (8, 3e-3),
    "train": (8, 6e-4),
    "trial": (20, 2.5e-3),
}
"""How long these take on two cores: some seconds, and seconds a job."""
MIN_SHARE = 0.02
"""The share of a step that must be done before its speed tells how long the rest takes."""


def usual_seconds(work: str, jobs: int) -> float:
    """How long the work of USUAL_SECONDS takes for a number of jobs, roughly."""
    start, of_one = USUAL_SECONDS[work]
    return start + of_one * jobs


@dataclass
class TimeLeft:
    """An estimate of the time left, from the speed of the present step.

    Args:
        expected: How long everything usually takes (s), until the speed is known.
        clock: Gives the present (s).
    """

    expected: float | None = None
    clock: Callable[[], float] = time.monotonic
    _begin: tuple[float, float] = field(init=False)
    _share: float = 0.0
    _end: float | None = None
    _usual_end: float | None = None

    def __post_init__(self) -> None:
        self._begin = (self.clock(), 0.0)
        self._usual_end = None if self.expected is None else self.clock() + self.expected
        self._end = self._usual_end

    def advance(self, share: float | None) -> None:
        """Take in that ``share`` of the work is done; a smaller one than before begins a step."""
        now = self.clock()
        if share is None or share < self._share:
            self._begin, self._end = (now, share or 0.0), self._usual_end
        self._share = share or 0.0
        begin, first = self._begin
        if self._share - first < MIN_SHARE or now <= begin:
            return
        left = (now - begin) * (1 - self._share) / (self._share - first)
        if self._usual_end is not None:  # at the start of a step its speed says little
            left = self._share * left + (1 - self._share) * max(self._usual_end - now, 0.0)
        self._end = now + left

    def __str__(self) -> str:
        """In words, such as ``40 s left`` or ``about 3 min left``."""
        if self._end is None or (self._end < self.clock() and self._share < 1):
            return "estimating the time left"
        seconds = max(self._end - self.clock(), 0.0)
        if seconds < 90:
            return f"{seconds:.0f} s left"
        minutes = seconds / 60
        return (
            f"about {minutes:.0f} min left" if minutes < 90 else f"about {minutes / 60:.1f} h left"
        )


class _TimeLeftColumn(ProgressColumn):
    def __init__(self, left: TimeLeft) -> None:
        super().__init__()
        self.left = left

    def render(self, task: Task) -> Text:
        return Text(str(self.left))


@contextmanager
def progress_on(
    console: Console, text: str, expected: float | None, note: Callable[[str], None]
) -> Iterator[Report]:
    """Show progress on a terminal, or else a line for each phase.

    Args:
        console: Where it is shown.
        text: The first phase.
        expected: How long everything usually takes (s), if known.
        note: Called with a line for each phase where the console is no terminal.

    Yields:
        ``report(text, share done)``.
    """
    if not console.is_terminal:
        yield _line_a_phase(text, note)
        return
    left = TimeLeft(expected)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(20),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        _TimeLeftColumn(left),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(visible(text), total=None)

        def report(text: str, share: float | None = None) -> None:
            left.advance(share)
            total = None if share is None else 1.0
            progress.update(task, completed=share or 0.0, total=total, description=visible(text))

        yield report


def _line_a_phase(text: str, note: Callable[[str], None]) -> Report:
    """Write a line for each new text; those that differ in numbers only are of one phase."""
    phases = set[str]()

    def report(text: str, share: float | None = None) -> None:
        phase = re.sub(r"\d[\d,.]*", "", text)
        if phase not in phases:
            phases.add(phase)
            note(text)

    report(text)
    return report
