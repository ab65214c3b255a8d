"""When to say "I don't know": evidence that the corpus speaks of a question, and a learned line.

Evidence is the best passage's similarity to the question, the share of the question's informative
words in one passage, and the share that the corpus uses at all. The line is drawn at training time
on the corpus itself; see `calibration`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.serving.words import Vocabulary, terms

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llm_twin.retrieval.ports import Hit

COVERAGE = 0.2
FAMILIARITY = 0.2
"""Weights beside the cosine's 1; anything from 0.1 to 0.3 measured the same."""

SPREAD = 0.06
"""How far from the line, in evidence, confidence goes from 0.5 to 0.73."""

UNCALIBRATED = {"vectors": 0.45, "words": 0.55}


@dataclass(frozen=True)
class Calibration:
    """What was learned about the corpus at training time.

    Attributes:
        thresholds: least evidence of an answered question, with ``vectors`` and with ``words``.
        vocabulary: the corpus's words.

    """

    thresholds: Mapping[str, float] = field(default_factory=lambda: dict(UNCALIBRATED))
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Read what `calibrate` returned; an empty mapping gives the uncalibrated line."""
        thresholds = {**UNCALIBRATED, **data.get("thresholds", {})}
        words = data.get("vocabulary", {})
        return cls(thresholds, Vocabulary(words.get("passages", 0), words.get("counts", {})))

    def confidence(self, question: str, hits: Sequence[Hit], *, vectors: bool) -> float:
        """Return 0..1 for how surely the corpus answers the question; 0.5 is the line.

        Args:
            question: in plain words.
            hits: what was retrieved, best first.
            vectors: whether the hits carry cosines.

        """
        line = self.thresholds["vectors" if vectors else "words"]
        distance = evidence(question, hits, self.vocabulary, vectors=vectors) - line
        return 1 / (1 + math.exp(-distance / SPREAD))


def evidence(question: str, hits: Sequence[Hit], vocabulary: Vocabulary, *, vectors: bool) -> float:
    """Return how much speaks for an answer in the hits, about 0..1."""
    wanted = terms(question)
    if not hits or (not wanted and not vectors):
        return 0.0
    coverage = max(vocabulary.coverage(wanted, set(terms(hit.chunk.passage))) for hit in hits)
    familiarity = vocabulary.familiarity(wanted)
    if not vectors:
        return math.sqrt(coverage * familiarity)
    cosine = max(hit.cosine for hit in hits)
    total = cosine + COVERAGE * coverage + FAMILIARITY * familiarity
    return total / (1 + COVERAGE + FAMILIARITY)
