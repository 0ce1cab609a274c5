"""The verdict on a window of recent jobs, in a word and in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from monitoring.drift.windows import MIN_JOBS, Finding

Verdict = Literal["none", "local", "drift", "unknown"]


def judge(reference: int, current: int, findings: Sequence[Finding]) -> tuple[Verdict, str]:
    """Give the verdict in a word and in a sentence.

    Args:
        reference: Jobs in the training window.
        current: Jobs in the recent window.
        findings: What was compared.
    """
    if min(reference, current) < MIN_JOBS:
        count = f"{current:,} have ended since"
        if reference < current:
            count = f"the training window has {reference:,}"
        return "unknown", f"Too few jobs to tell: {count}, and {MIN_JOBS} are needed."
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
        named = "; ".join(describe_finding(finding) for finding in everywhere[:3])
        most = f"; most of all in {plain_text(clusters[0].cluster)}" if clusters else ""
        return (
            "drift",
            f"Recent jobs differ from the training window: {named}{more}{most}.",
        )
    if clusters:
        names = list(dict.fromkeys(finding.cluster for finding in clusters))
        return (
            "local",
            f"{len(names)} single cluster{'s' * (len(names) > 1)} moved, the whole did not: "
            f"{describe_finding(clusters[0])}.",
        )
    return (
        "none",
        f"{current:,} recent jobs differ from the training window by no more than is ordinary.",
    )


def describe_finding(finding: Finding) -> str:
    """Describe a finding: its values before and now, how far it moved and may move."""
    details, where = finding.details, f"{plain_text(finding.cluster)} " if finding.cluster else ""
    if finding.kind == "missing":
        now, before = details["current_share"], details["reference_share"]
        return (
            f"{where}{finding.column} is missing in {now:.0%} of the jobs instead of {before:.0%}"
        )
    size = f"({finding.value:.2f}, allowed {finding.threshold:.2f})"
    if "reference_median" in details:
        now, before = details["current_median"], details["reference_median"]
        return f"{where}{finding.column} has median {now:.4g} instead of {before:.4g} {size}"
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
    """Make a name from a log safe for a page or a terminal: no markup or control characters.

    Evidently writes names into its scripts unchanged.

    >>> plain("</script><b>")
    '‹/script›‹b›'
    """
    text = text.translate({ord("<"): "‹", ord(">"): "›"}).encode("utf-8", "replace").decode()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= longest else text[: longest - 1] + "…"
