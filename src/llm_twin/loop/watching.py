"""One look at drift: what people ask, and what their answers score, beside how it was.

Questions are compared with those that were asked before the served version was trained: that is
what it was made for. Scores are compared with the window before.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from llm_twin.loop import asked
from llm_twin.loop.drift import LEAST, Decline, Shift, decline, declined, shift

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.loop.asked import Asked, Embed, Rows
    from llm_twin.model.bundles import Bundle
    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

WINDOW = 7 * 86400.0
LEVEL = 0.01
BEFORE = 4
"""A reference is as many times as long as the window."""
MOST_NEW = 5
NOT_OF_THE_TEXT = ("latency", "cost", "length")
"""Scores that say nothing about what an answer should have been."""


@dataclass(frozen=True)
class Look:
    """What one look found.

    Attributes:
        level: probability of a false alarm, for the questions and for all scores together.
        against: in words, what the questions are compared with.
        counts: how many questions there are: of the reference, and recent ones.
        questions: None where there were too few of them.
        coverage: median score of the best passage found, before and now; None: nothing was found.
        new: questions that are unlike any of the reference, as they are stored, at most five.
        scores: by name, those with enough values.

    """

    level: float
    against: str
    counts: tuple[int, int]
    questions: Shift | None = None
    coverage: tuple[float | None, float | None] = (None, None)
    new: list[str] = field(default_factory=list)
    scores: dict[str, Decline] = field(default_factory=dict)

    @property
    def drifted(self) -> bool:
        """Whether people ask something else."""
        return self.questions is not None and self.questions.p <= self.level

    @property
    def declined(self) -> list[str]:
        """The scores that got lower."""
        return declined(self.scores, self.level)

    def numbers(self) -> dict[str, Any]:
        """What automations may look at: numbers alone, no texts; what is unknown is left out."""
        told: dict[str, Any] = {"questions": {"recent": self.counts[1]}, "scores": {}}
        if self.questions:
            one, (before, now) = self.questions, self.coverage
            told["questions"] |= {
                "drifted": int(self.drifted), "p": one.p, "distance": one.distance, "new": one.new,
            }  # fmt: skip
            if before is not None and now is not None:
                told["questions"] |= {"coverage": now, "coverage_before": before}
        if self.scores:
            told["scores"] = {name: asdict(one) for name, one in self.scores.items()}
            told["scores"]["drifted"] = len(self.declined)
        return told

    def told(self) -> dict[str, str]:
        """A sentence for each kind of drift: ``questions`` and ``scores``; {}: none."""
        lines = {}
        if self.drifted and self.questions:
            lines["questions"] = (
                f"people ask about something else than before: {self.questions.new:.0%} of"
                f" {self.counts[1]} questions are new where 5% are usual"
                f" (p {self.questions.p:.4f}, against {self.against})"
            )
        if self.declined:
            said = [
                f"{name} {self.scores[name].before:.2f} → {self.scores[name].now:.2f}"
                for name in self.declined
            ]
            lines["scores"] = f"answers score less than before: {', '.join(said)}"
        return lines

    def too_few(self) -> str:
        """Why the questions were not compared, and what to do; "" if they were."""
        if self.questions:
            return ""
        return (
            f"too few questions to compare: {self.counts[1]} recent ones and {self.counts[0]} of"
            f" {self.against}, where {LEAST} of each are needed; wait, or say --window 30d"
        )


def look(
    settings: Settings,
    store: Store,
    served: Bundle | None,
    window: float = WINDOW,
    level: float = LEVEL,
    now: float | None = None,
) -> Look:
    """Compare what was asked and answered in the last window with what was before.

    Args:
        settings: where vectors are kept, and what embeds.
        store: of the traces.
        served: the version that serves, if there is one.
        window: seconds.
        level: probability of a false alarm.
        now: seconds since the epoch; default: this moment.

    """
    end = time.time() if now is None else now
    if settings.trace_rate < 1:
        # Younger traces are all still there, older ones have been sampled.
        end -= settings.trace_grace
    begin = end - window
    rows = asked.traffic(store, settings.trace_project, begin, end)
    earlier = asked.traffic(store, settings.trace_project, begin - BEFORE * window, begin)
    fallen = _scores(store, earlier, rows)
    with asked.embedding(settings) as (space, embed):
        reference, made, against = _reference(
            settings, store, served, window, space, embed, earlier
        )
        if made > begin:
            rows = asked.traffic(store, settings.trace_project, made, end)
        if min(len(reference), len(rows)) < LEAST:
            return Look(level, against, (len(reference), len(rows)), scores=fallen)
        recent = asked.questions(store, rows, embed)
    counts = (len(reference), len(recent))
    if len(recent) < LEAST:
        return Look(level, against, counts, scores=fallen)
    found = shift(reference.vectors, recent.vectors, (reference.threads, recent.threads))
    new = list(dict.fromkeys(recent.texts[one] for one in found.newest))[:MOST_NEW]
    coverage = (_median(reference.best), _median(recent.best))
    return Look(level, against, counts, found, coverage, new, fallen)


def _reference(
    settings: Settings, store: Store, served: Bundle | None, window: float, space: str,
    embed: Embed, earlier: Rows,
) -> tuple[Asked, float, str]:  # fmt: skip
    """What to compare with, from when on it may be compared, and its name."""
    if served:
        found = asked.kept(settings.home, served.version, space)
        made = datetime.fromisoformat(served.manifest["created"]).timestamp()
        if found is None:
            rows = asked.traffic(store, settings.trace_project, made - BEFORE * window, made)
            found = asked.questions(store, rows, embed)
            if len(found) >= LEAST:
                asked.keep(settings.home, served.version, space, found)
        if len(found) >= LEAST:
            return found, made, f"those asked before {served.version} was trained"
    return asked.questions(store, earlier, embed), 0.0, "those asked in the time before"


def _scores(store: Store, earlier: Rows, rows: Rows) -> dict[str, Decline]:
    before = asked.scores(store, earlier, NOT_OF_THE_TEXT)
    now = asked.scores(store, rows, NOT_OF_THE_TEXT)
    enough = [name for name in now if _count(now[name]) >= LEAST <= _count(before.get(name, {}))]
    return {name: decline(before[name], now[name]) for name in sorted(enough)}


def _count(values: dict[str, list[float]]) -> int:
    return sum(map(len, values.values()))


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None
