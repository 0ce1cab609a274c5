"""The verdict on a window of recent jobs, in a word and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from monitoring.drift.windows import MIN_JOBS, Finding

Verdict = Literal["none", "local", "drift", "unknown"]


def judge(reference: int, current: int, findings: Sequence[Finding]) -> tuple[Verdict, str]:
    """The verdict in a word and in a sentence, from the jobs in both windows and what was found."""
    if min(reference, current) < MIN_JOBS:
        few = (
            f"the training window has {reference:,}"
            if reference < current
            else f"{current:,} have ended since"
        )
        return "unknown", f"Too few jobs to tell: {few}, and {MIN_JOBS} are needed."
    if not findings:
        return "unknown", "No column holds enough values in both windows to be compared."
    moved = sorted(
        (finding for finding in findings if finding.moved),
        key=lambda finding: finding.threshold / finding.value,
    )
    everywhere = [finding for finding in moved if not finding.cluster]
    clusters = [finding for finding in moved if finding.cluster]
    if everywhere:
        more = f"; and {len(everywhere) - 3} more" if len(everywhere) > 3 else ""
        most = f"; most of all in {plain_text(clusters[0].cluster)}" if clusters else ""
        return (
            "drift",
            f"Recent jobs differ from the training window: {'; '.join(describe_finding(finding) for finding in everywhere[:3])}{more}{most}.",
        )
    if clusters:
        names = list(dict.fromkeys(finding.cluster for finding in clusters))
        return (
            "local",
            f"{len(names)} single cluster{'s' * (len(names) > 1)} moved, the whole did not: {describe_finding(clusters[0])}.",
        )
    return (
        "none",
        f"{current:,} recent jobs differ from the training window by no more than is ordinary.",
    )


def describe_finding(finding: Finding) -> str:
    """One finding for a person: what it was, what it is, and by how much it moved of how much it may."""
    details, where = finding.details, f"{plain_text(finding.cluster)} " if finding.cluster else ""
    if finding.kind == "missing":
        return f"{where}{finding.column} is missing in {details['current_share']:.0%} of the jobs instead of {details['reference_share']:.0%}"
    size = f"({finding.value:.2f}, allowed {finding.threshold:.2f})"
    if "reference_median" in details:
        return f"{where}{finding.column} has median {details['current_median']:.4g} instead of {details['reference_median']:.4g} {size}"
    shares: Any = details.get("shares", {})
    most = next(
        (
            f", {plain_text(name)} has {after:.0%} instead of {before:.0%}"
            for name, (before, after) in shares.items()
        ),
        "",
    )
    return f"{where}{finding.column}{most} {size}"


def plain_text(text: str, longest: int = 60) -> str:
    """A name out of a log as a page or a terminal may show it: no markup, no control characters, not too long.

    Evidently writes names into its scripts as they are.

    >>> plain("</script><b>")
    '‹/script›‹b›'
    """
    text = text.translate({ord("<"): "‹", ord(">"): "›"}).encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
