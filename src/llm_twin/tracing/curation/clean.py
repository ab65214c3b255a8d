"""Which of the chosen rows a model may learn from, and why not the others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_twin.model.near_duplicates import AGREE, Text, first_alike, question_key, words_of
from llm_twin.tracing.evaluation import metrics
from llm_twin.tracing.patterns import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from llm_twin.model.feedback import Correction
    from llm_twin.tracing.redaction import Redactor

    Passages = Callable[[str], Sequence[str]]

FEWEST_WORDS = 3
GROUNDED = 0.4
"""Support of a wanted answer in the texts, as ``metrics.groundedness`` measures it."""
REASONS = {
    "no question": "the trace does not say what was asked",
    "private": "it holds personal data or a secret",
    "redacted": "something private was taken out of it, which a model would learn to say",
    "uncorrected": "nobody said what the answer should have been",
    "too short": f"the wanted answer has fewer than {FEWEST_WORDS} words",
    "unchanged": "the wanted answer is the answer that was given",
    "ungrounded": "the texts do not support the wanted answer",
    "duplicate": "another says the same, word for word",
    "near duplicate": "another says nearly the same",
    "contradiction": "the same question was corrected in different ways",
}
_BY_PRESIDIO = {"PERSON", "LOCATION", "NRP", "EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD"}
_NAMES = {kind.name for kind in KINDS} | _BY_PRESIDIO | {"REDACTED"}
_TAKEN_OUT = re.compile(rf"\[(?:{'|'.join(sorted(_NAMES))})(?:-[a-p]{{8}})?\]")


@dataclass
class Curated:
    """What became of the chosen rows.

    Attributes:
        rows: to learn from, the oldest trace first.
        open: questions that were answered badly and not corrected, each once.
        rejected: a reason by trace id, see ``REASONS``.

    """

    rows: list[Correction] = field(default_factory=list)
    open: list[Correction] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many were rejected for each reason, in the order of ``REASONS``."""
        found = Counter(self.rejected.values())
        return {reason: found[reason] for reason in REASONS if found[reason]}


def curate(
    rows: Iterable[Correction], redactor: Redactor, passages: Passages | None = None
) -> Curated:
    """Sort rows out; the same rows give the same, whatever their order.

    Args:
        rows: from ``choose``.
        redactor: what it would change is private.
        passages: finds texts for a question and an answer; None: grounding is not checked.

    """
    made = Curated()
    fit = []
    for row in sorted(rows, key=lambda row: row.trace_id):
        reason = _fault(row, redactor) or _unsupported(row, passages)
        if reason:
            made.rejected[row.trace_id] = reason
            made.open += [row] if reason == "uncorrected" else []
        else:
            fit.append(row)
    made.open = list({question_key(row.question): row for row in reversed(made.open)}.values())
    made.open.reverse()
    made.rows = _apart(_consistent(_once(fit, made), made), made)
    return made


def _fault(row: Correction, redactor: Redactor) -> str:
    texts = (row.question, row.wanted, row.answer, *row.cites)
    if not row.question:
        return "no question"
    if any(redactor.text(text) != text for text in texts):
        return "private"
    if any(map(_TAKEN_OUT.search, texts)):
        return "redacted"
    if not row.wanted:
        return "uncorrected"
    wanted = words_of(row.wanted)
    if len(wanted) < FEWEST_WORDS:
        return "too short"
    return "unchanged" if wanted == words_of(row.answer) else ""


def _unsupported(row: Correction, passages: Passages | None) -> str:
    if passages is None:
        return ""
    found = metrics.groundedness(row.wanted, passages(f"{row.question} {row.wanted}"))
    return "" if found and found.value >= GROUNDED else "ungrounded"


def _once(rows: list[Correction], made: Curated) -> list[Correction]:
    seen: dict[tuple[tuple[str, ...], ...], Correction] = {}
    for row in rows:
        if seen.setdefault((words_of(row.question), words_of(row.wanted)), row) is not row:
            made.rejected[row.trace_id] = "duplicate"
    return list(seen.values())


def _consistent(rows: list[Correction], made: Curated) -> list[Correction]:
    """Keep one row of each question, none where its answers do not agree."""
    asked: dict[tuple[str, ...], list[Correction]] = defaultdict(list)
    for row in rows:
        asked[question_key(row.question)].append(row)
    kept = []
    for first, *others in asked.values():
        wanted = Text.of(first.wanted)
        if all(Text.of(row.wanted).is_like(wanted, AGREE) for row in others):
            kept.append(first)
            made.rejected.update({row.trace_id: "near duplicate" for row in others})
        else:
            made.rejected.update({row.trace_id: "contradiction" for row in (first, *others)})
    return kept


def _apart(rows: list[Correction], made: Curated) -> list[Correction]:
    alike = first_alike([Text.of(f"{row.question}\n{row.wanted}") for row in rows])
    kept = []
    for place, (row, first) in enumerate(zip(rows, alike, strict=True)):
        if first == place:
            kept.append(row)
        else:
            made.rejected[row.trace_id] = "near duplicate"
    return kept
