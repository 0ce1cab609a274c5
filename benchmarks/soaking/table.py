"""What a soak prints: what befell, what callers saw, what grew, and what held."""

from __future__ import annotations

from collections import Counter

from benchmarks.soaking.callers import Callers, Seen
from benchmarks.soaking.faults import Befell
from benchmarks.soaking.rounds import Rounds
from benchmarks.soaking.verdict import Check
from benchmarks.soaking.watch import Sample, Watch, growth, lags, middle
from benchmarks.soaking.week import Clock, Week

MEMORY_GROWS = 0.1
"""Share by which a component's memory may grow beyond ALLOWED and the rows."""
ALLOWED = 16.0
"""MB of memory within which two medians of one process differ by chance."""
A_JOB = 4e-3
"""MB of a predictor's memory per job, which is kept in each of its histories."""
LARGEST_DISK = 100.0
"""MB by which the disk may grow beyond the rows, the models and the reports."""
BOUNDED = {"write-ahead log", "reports"}
"""What grows to a bound of its own (1 GB, 48 pages) and is no leak below it."""
EXPLAINED = {"artifacts of MLflow", "models fetched", "predictors' folders"}
"""What grows by each version."""


def growths(samples: list[Sample], since: float) -> list[Check]:
    """Memory and disk flat from the day ``since`` on, when nothing befell any more."""
    stored = [sample.stored[0] for sample in samples if sample.stored and sample.day >= since]
    more = stored[-1] - stored[0] if stored else 0
    memory = growth(samples, since, lambda sample: sample.memory)
    limits = {
        name: ALLOWED + MEMORY_GROWS * early + (A_JOB * more if name.startswith("predictor") else 0)
        for name, early, *_ in memory
    }
    grown = [
        f"{name} {late - early:+.0f} MB"
        for name, early, late, _ in memory
        if late - early > limits[name] and name != "flow runs"
    ]
    disk = growth(samples, since, lambda sample: sample.disk)
    unexplained = [
        (name, late - early) for name, early, late, _ in disk if name not in BOUNDED | EXPLAINED
    ]
    total = sum(more for _, more in unexplained)
    files = growth(samples, since, lambda sample: sample.files)
    leaking = [
        f"{name} {late - early:+.0f}"
        for name, early, late, _ in files
        if late - early > 10 and name not in ("flow runs", "postgres")
    ]
    return [
        Check(
            "memory flat",
            not grown,
            ", ".join(grown)
            or f"each part within {ALLOWED:.0f} MB and a tenth, for {more:,} jobs more",
        ),
        Check("open files flat", not leaking, ", ".join(leaking) or "each part within 10"),
        Check(
            "disk flat",
            total < LARGEST_DISK,
            ", ".join(f"{name} {size:+.1f} MB" for name, size in unexplained if abs(size) > 0.05),
        ),
    ]


def show(
    clock: Clock,
    week: Week,
    watch: Watch,
    callers: Callers,
    rounds: Rounds,
    befell: list[Befell],
    checks: list[Check],
) -> None:
    """Print everything."""
    within = len(week.jobs) - len(week.before)
    print(
        f"{clock.days:g} days in {clock.minutes:g} minutes: {len(week.jobs):,} jobs, {within:,} of them in the week;"
    )
    print(
        f"{week.dumped} dumps, {week.garbled} records of nonsense, {callers.predicted:,} predictions,"
    )
    print(
        f"{len(callers.acknowledged):,} jobs acknowledged; {callers.repeated} reports sent again after their acknowledgement;"
    )
    print(
        f"runs asked for: {dict(rounds.asked)}; missed: {dict(rounds.missed)}; told late for a full disk: {callers.disk_refused} times"
    )
    print(
        "\n| what befell | day | s until all was up | calls for predictions that failed | reports not taken |\n|---|---|---|---|---|"
    )
    ends = [*(event.day for event in befell[1:]), clock.days]
    for event, end in zip(befell, ends, strict=True):
        summaries = [
            f"{_summed(seen, event.day, end)}" for seen in (callers.asked, callers.reported)
        ]
        print(
            f"| {event.what} | {event.day:.2f} | {event.seconds:.0f} | {summaries[0]} | {summaries[1]} |"
        )
    for name, seen in (("asked", callers.asked), ("reported", callers.reported)):
        took = sorted(call[2] for call in seen.calls if not call[3])
        why = Counter(call[3].partition(" under ")[0][:100] for call in seen.calls if call[3])
        times = (
            f"median {1000 * middle(took):.0f} ms, 99 % {1000 * took[int(0.99 * len(took))]:.0f} ms"
        )
        print(f"\n{name}: {len(seen.calls):,} calls, {times}; {dict(why)}")
    for replica in range(len(watch.site.predictors)):
        behind = lags(watch.samples, replica)
        print(
            f"predictor-{replica + 1} behind the store: median {middle(behind):.0f} s, largest {max(behind, default=0.0):.0f} s"
        )
    since = calm_from(befell, clock)
    print(
        f"\nFrom day {since:.2f} on nothing befell: {(clock.days - since) / clock.days * clock.minutes:.1f} minutes"
    )
    _grown("memory, MB", growth(watch.samples, since, lambda sample: sample.memory))
    _grown("open files", growth(watch.samples, since, lambda sample: sample.files))
    _grown("disk, MB", growth(watch.samples, since, lambda sample: sample.disk))
    print("\n| what must hold | | found |\n|---|---|---|")
    for check in checks:
        print(f"| {check.what} | {'yes' if check.holds else '**NO**'} | {check.found} |")


def calm_from(befell: list[Befell], clock: Clock) -> float:
    """The day from which on nothing befell, and all was up."""
    last = befell[-1]
    return last.day + last.seconds / 60 / clock.minutes * clock.days


def _summed(seen: Seen, begin: float, end: float) -> str:
    inside = [event for event in seen.stretches() if begin <= event[0] < end]
    if not inside:
        return "none"
    return f"{sum(event[2] for event in inside)}, longest {max(event[1] for event in inside):.0f} s"


def _grown(title: str, rows: list[tuple[str, float, float, float]]) -> None:
    print(f"\n| {title} | then | at the end | most |\n|---|---|---|---|")
    for name, early, late, most in rows:
        print(f"| {name} | {early:.0f} | {late:.0f} | {most:.0f} |")
