"""The informative words of a question, and how often the corpus uses each.

Coverage of these words is what is left to judge by without an embedder, and what keeps a fluent
but foreign question from being answered with one.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_twin.retrieval.terms import STOPWORDS, stems

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

_WORD = re.compile(r"[^\W_]+")
_SHORTEST = 2


def terms(text: str) -> list[str]:
    """Return the stems of the informative words, in order, each once."""
    normal = unicodedata.normalize("NFKC", text).lower()
    words = dict.fromkeys(word for word in _WORD.findall(normal) if len(word) >= _SHORTEST)
    telling = " ".join(word for word in words if word not in STOPWORDS)
    return list(dict.fromkeys(stems(telling)))


@dataclass(frozen=True)
class Vocabulary:
    """In how many passages of the corpus each stem occurs.

    Attributes:
        passages: how many passages were counted; 0 means that nothing is known of the corpus.
        counts: passages per stem.

    """

    passages: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, passages: Iterable[str]) -> Vocabulary:
        """Count the stems of all passages."""
        counts: Counter[str] = Counter()
        number = 0
        for passage in passages:
            counts.update(terms(passage))
            number += 1
        return cls(number, dict(sorted(counts.items())))

    def without(self, passages: Iterable[str]) -> Vocabulary:
        """Return the vocabulary as if these passages had never been counted."""
        counts = Counter(self.counts)
        number = self.passages
        for passage in passages:
            counts.subtract(terms(passage))
            number -= 1
        return Vocabulary(number, +counts)

    def weight(self, term: str) -> float:
        """How much a word says: its inverse passage frequency; highest for a word never used."""
        count = self.counts.get(term, 0)
        return math.log(1 + (max(self.passages - count, 0) + 0.5) / (count + 0.5))

    def coverage(self, wanted: Collection[str], present: Collection[str]) -> float:
        """Share of the wanted words' weight that is present, 0..1; 1 when nothing is wanted."""
        total = sum(self.weight(term) for term in wanted)
        found = sum(self.weight(term) for term in wanted if term in present)
        return found / total if total else 1.0

    def familiarity(self, wanted: Collection[str]) -> float:
        """Share of the wanted words' weight that the corpus uses anywhere, 0..1."""
        return self.coverage(wanted, self.counts) if self.passages else 1.0
