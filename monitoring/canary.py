"""The evidence about a canary: its answers and the champion's about the same jobs, with outcomes.

The jobs that the canary answers were predicted by the champion at the same time, from the same
outcomes. Once they have ended, the errors of both are compared by the test of promotion. To look
again and again at a 95 % interval would find a difference by chance, so a look is taken only as
the outcomes double.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from infra.errors import GridcastError
from infra.links import models_page, version_page
from infra.settings import Settings
from jobs.schema import OF_KIND
from jobs.store import read_canary_answers
from models.quantities.targets import TARGETS
from models.releases import registry
from models.releases.alias_moves import BY_CANARY, WHO_MAY_DECIDE
from models.releases.candidate import (
    MAX_REGRESSION,
    MIN_EVALUATION_JOBS,
    compare_by_source,
    why_not_promotable,
)
from models.releases.comparison import Difference, difference
from models.releases.verification import verify
from models.releases.versions import Version
from monitoring import alerts

if TYPE_CHECKING:
    from sqlalchemy import Engine

FIRST_LOOK = 50
"""Outcomes from which a canary may be withdrawn; the next looks are at 100, 200, 400 ..."""
PROMOTION_LOOK = MIN_EVALUATION_JOBS
"""Outcomes from which it may be promoted; the next looks are at 400, 800 ..."""
ENDED_SHARE = 0.9
"""It is promoted on the earliest jobs of which so many have ended: short jobs end first."""
LONGEST_WAIT = timedelta(days=14)
MAX_ROWS = 100_000
SMALL_SOURCES = "other sources"
"""Stands for the sources with fewer than FIRST_LOOK outcomes."""

DECIDED = {"canary": "", "approval": "", "retraining": "", "rollback": ""}
"""The alerts that a promotion ends."""

Verdict = Literal["promote", "withdraw", "wait"]


@dataclass(frozen=True)
class Judgement:
    """What the outcomes say: a verdict, a sentence, and the difference of the first target."""

    verdict: Verdict
    sentence: str
    judged: int = 0
    excess: Difference | None = None


@dataclass(frozen=True)
class CanaryEvidence:
    """The evidence about a canary beside the champion.

    ``answers`` counts jobs that it answered, ``outcomes`` those of them that have ended.
    """

    canary: Version
    champion: Version
    since: datetime
    answers: int
    outcomes: int
    judgement: Judgement

    @property
    def sentence(self) -> str:
        """The evidence so far."""
        return (
            f"{self.canary.label} has answered {self.answers:,} jobs as the canary, of which "
            f"{self.outcomes:,} have ended. {self.judgement.sentence}"
        )

    def to_json(self) -> dict[str, Any]:
        """As the page gets it."""
        excess = self.judgement.excess
        return {
            "version": self.canary.version,
            "label": self.canary.label,
            "champion": self.champion.label,
            "since": self.since.isoformat(),
            "answers": self.answers,
            "outcomes": self.outcomes,
            "judged": self.judgement.judged,
            "next_look": next_look(self.outcomes),
            "change": excess and {"share": excess.share, "low": excess.low, "high": excess.high},
            "verdict": self.judgement.verdict,
            "sentence": self.sentence,
        }


def read_evidence(engine: Engine, settings: Settings, now: datetime) -> CanaryEvidence | None:
    """Read how the canary does; None where there is none. Raises RegistryError, StoreError.

    Args:
        engine: The store.
        settings: Whose registry, and whether a challenger answers.
        now: The present.
    """
    canary = registry.challenger(settings) if settings.canary else None
    champion = registry.champion(settings) if canary else None
    if canary is None or champion is None or canary.version == champion.version:
        return None
    since = registry.challenger_since(canary, settings)
    answers = read_canary_answers(
        engine,
        canary.label,
        champion.label,
        (*OF_KIND["number"], "submitted_at", "started_at", "ended_at"),
        since=since,
        limit=MAX_ROWS,
    )
    answers = answers.assign(actual=_outcomes(answers))
    target = champion.tags.get("targets", "walltime").partition(",")[0]
    of_target = answers[answers["target"] == target]
    judgement = judge(answers, target, champion.label)
    if judgement.verdict == "wait" and now > since + LONGEST_WAIT:
        days = LONGEST_WAIT.days
        sentence = f"It was not proven to be better within {days} days. {judgement.sentence}"
        judgement = Judgement("withdraw", sentence, judgement.judged, judgement.excess)
    ended = int(of_target["actual"].notna().sum())
    return CanaryEvidence(canary, champion, since, len(of_target), ended, judgement)


def _outcomes(answers: pd.DataFrame) -> np.ndarray[Any, Any]:
    actual = np.full(len(answers), np.nan)
    for name in TARGETS.keys() & set(answers["target"]):
        rows = (answers["target"] == name).to_numpy() & answers["ended_at"].notna().to_numpy()
        actual[rows] = TARGETS[name].value(answers[rows])
    return actual


def judge(answers: pd.DataFrame, target: str, champion: str) -> Judgement:
    """Judge a canary by the test of promotion.

    It is withdrawn where its error of ``target`` is surely higher, over all jobs or in one source,
    or that of another target surely by more than MAX_REGRESSION.

    Args:
        answers: A row a job and target, in order of time: source, target, asked_at, ended_at,
            point, champion_point and the actual outcome (NaN where it has not ended).
        target: The most important target.
        champion: The champion's label.
    """
    judgement = Judgement(
        "wait", f"A first look is taken at {FIRST_LOOK} outcomes of {target}, one at each doubling."
    )
    answers = answers[answers["point"].notna() & answers["champion_point"].notna()]
    for name in (target, *sorted(set(answers["target"]) - {target})):
        ended = answers[(answers["target"] == name) & answers["actual"].notna()]
        ended = ended.sort_values("ended_at", kind="stable").reset_index(drop=True)
        look = last_look(len(ended), FIRST_LOOK)
        if not look:
            continue
        first = ended.head(look)
        if name != target:
            excess = difference(first["actual"], first["point"], first["champion_point"])
            if excess.low > MAX_REGRESSION:
                sentence = _sentence(look, name, excess, champion)
                return Judgement("withdraw", sentence, look, excess)
            continue
        excess, by_source, _ = _compare(first)
        sentence = _sentence(look, target, excess, champion)
        worse = [
            f"{source} ({change})"
            for source, change in by_source.items()
            if change.low > 0 and source != SMALL_SOURCES
        ]
        if excess.low > 0 or worse:
            where = f" It is worse on {', '.join(worse)}." if worse and len(by_source) > 1 else ""
            return Judgement("withdraw", sentence + where, look, excess)
        judgement = Judgement("wait", sentence, look, excess)
    own = answers[answers["target"] == target].reset_index(drop=True)
    settled = own["ended_at"].notna().cumsum() >= ENDED_SHARE * np.arange(1, len(own) + 1)
    early = own[settled[::-1].cummax() & own["actual"].notna()]
    look = last_look(len(early), PROMOTION_LOOK)
    if not look:
        return judgement
    excess, _, is_better = _compare(early.head(look).reset_index(drop=True))
    sentence = _sentence(look, target, excess, champion)
    if is_better:
        return Judgement("promote", sentence, look, excess)
    return Judgement("wait", f"{sentence} {why_not_promotable(excess)}".strip(), look, excess)


def _compare(pairs: pd.DataFrame) -> tuple[Difference, dict[str, Difference], bool]:
    counts = pairs.groupby("source")["source"].transform("size")
    sources = pairs["source"].where(counts >= FIRST_LOOK, SMALL_SOURCES)
    return compare_by_source(pairs["actual"], pairs["point"], pairs["champion_point"], sources)


def _sentence(jobs: int, target: str, excess: Difference, champion: str) -> str:
    return (
        f"On {jobs:,} of them its mean absolute error of {target} is {excess} than that of "
        f"{champion} on the same jobs."
    )


def last_look(outcomes: int, first: int) -> int:
    """The outcomes at the last look: the largest of ``first``, twice, four times ... of that many.

    >>> last_look(49, 50), last_look(50, 50), last_look(399, 50)
    (0, 50, 200)
    """
    return first << ((outcomes // first).bit_length() - 1) if outcomes >= first else 0


def next_look(outcomes: int) -> int:
    """The outcomes at the next look.

    >>> next_look(3), next_look(50), next_look(399)
    (50, 100, 400)
    """
    return 2 * last_look(outcomes, FIRST_LOOK) or FIRST_LOOK


def follow_canary(engine: Engine, settings: Settings, now: datetime) -> CanaryEvidence | None:
    """Judge the canary, and promote or withdraw it where the outcomes decide.

    Where a person decides on promotions, an alert says that one is needed.

    Args:
        engine: The store.
        settings: Whose registry and alerts.
        now: The present.

    Returns:
        The evidence before that, None where there is none.

    Raises:
        RegistryError: MLflow cannot be reached.
        StoreError: The store cannot be read.
    """
    evidence = read_evidence(engine, settings, now)
    if evidence is None or evidence.judgement.verdict == "wait":
        return evidence
    try:
        conditions = _act_on(evidence, settings)
    except registry.OvertakenError:  # a person has decided meanwhile
        return evidence
    alerts.notify(engine, settings, conditions, now)
    return evidence


def _act_on(evidence: CanaryEvidence, settings: Settings) -> dict[str, str]:
    """Promote or withdraw the canary; returns the conditions for alerts."""
    canary = evidence.canary
    if evidence.judgement.verdict == "withdraw":
        why = f"withdrawn as the canary: {evidence.sentence}"
        registry.withdraw(by=BY_CANARY, why=why, expected=canary.version, settings=settings)
        return {"canary": f"{canary.label} was {why}", "approval": ""}
    if settings.promotion == "ask" or registry.pinned(settings):
        return {"approval": approval_sentence(canary, evidence.sentence, settings)}
    try:
        verify(canary, settings)
    except GridcastError as error:
        registry.withdraw(by=BY_CANARY, why=str(error), expected=canary.version, settings=settings)
        return {"canary": f"{canary.label} was withdrawn as the canary: {error}"}
    registry.promote(
        canary.version,
        by=BY_CANARY,
        why=evidence.sentence,
        expected=evidence.champion.version,
        settings=settings,
    )
    return DECIDED


def approval_sentence(version: Version, evidence: str, settings: Settings) -> str:
    """Say that a version waits for a person, on what evidence, and where who may decide.

    Args:
        version: The challenger.
        evidence: How it did.
        settings: Of the site.
    """
    return (
        f"{version.label} waits for a person. {evidence} {WHO_MAY_DECIDE} "
        f"{models_page(settings)} and {version_page(settings, version.name, version.version)}"
    )
