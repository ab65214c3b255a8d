"""When two texts say the same: word for word, nearly, or about the same question.

Near duplicates are found exactly, not by chance as with MinHash: two sets of shingles that share
enough must share one of each one's few rarest, so only those are looked up.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

NEARLY = 0.8
"""Share of words and pairs of words in common, from which texts are near duplicates."""
AGREE = 0.5
"""The same for two answers to one question that do not contradict each other."""
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc"
    "\u0900-\u0963\u0966-\u0dff\u0e31-\u0e4e\u0eb1-\u0ece\u1000-\u1049"
)
"""Vowels and accents that stand above, below or behind a letter, which \\w does not match."""
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|(?:[^\W{_IDEOGRAPHS}]+|[{_MARKS}]+)+")
_NOT = re.compile(r"n['’]t\b")
_NEGATIONS = frozenset(("no", "not", "never", "none", "nothing", "without", "cannot"))
_DIGIT = re.compile(r"\d")
_FILLERS = frozenset(("a", "an", "the", "is", "are", "s", "do", "does", "please", "exactly"))


@dataclass(frozen=True)
class Text:
    """A text as it is compared.

    Attributes:
        shingles: its words and its pairs of neighbouring words.
        telling: numbers and negations, which turn a text into another however little they change.

    """

    shingles: frozenset[Any]
    telling: tuple[str, ...]

    @classmethod
    def of(cls, text: str) -> Text:
        """Take a text apart."""
        words = words_of(text)
        negations = ["not" for word in words if word in _NEGATIONS]
        telling = [*negations, *sorted(filter(_DIGIT.search, words))]
        return cls(frozenset(words).union(pairwise(words)), tuple(telling))

    def is_like(self, other: Text, share: float = NEARLY) -> bool:
        """Whether so much of both is in both, numbers and negations included."""
        both = len(self.shingles & other.shingles)
        either = len(self.shingles) + len(other.shingles) - both
        return self.telling == other.telling and both >= share * either


def question_key(text: str) -> tuple[str, ...]:
    """What two questions have in common that differ in case, punctuation and articles alone."""
    words = words_of(text)
    return tuple(word for word in words if word not in _FILLERS) or words


def words_of(text: str) -> tuple[str, ...]:
    """The words of a text in order, without case and punctuation."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return tuple(_WORD.findall(_NOT.sub(" not", plain)))


def first_alike(texts: Sequence[Text], share: float = NEARLY) -> list[int]:
    """For each text the place of the first one that it is a near duplicate of; else its own."""
    counts = Counter(shingle for text in texts for shingle in text.shingles)
    places: dict[Any, list[int]] = defaultdict(list)
    found: list[int] = []
    for own, text in enumerate(texts):
        size = len(text.shingles)
        rarest = sorted(text.shingles, key=lambda shingle: (counts[shingle], str(shingle)))
        probes = rarest[: size - math.ceil(share * size) + 1]
        candidates = sorted({place for probe in probes for place in places[probe]})
        like = (place for place in candidates if text.is_like(texts[place], share))
        found.append(next(like, own))
        if found[-1] == own:
            for probe in probes:
                places[probe].append(own)
    return found
