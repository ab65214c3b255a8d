"""Whether an answer comes from these texts, or could be by anybody.

The shipped instruction set of the LLM Engineer's Handbook names not one technical term of the
articles it belongs to, and training on it ruins the voice. An answer is grounded in one passage by
two figures from 0 to 1, of which the mean counts:

* the share of its content words that the passage holds, each weighted by how rare it is in the
  corpus; a word that the corpus does not know counts against it most, and so does one that
  assistants say about anything, wherever it stands;
* the share of its trigrams that the passage holds, each weighted by the content words in it, so
  that a turn of phrase that everybody uses says little too.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_twin.model.near_duplicates import words_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

STEM = 6
"""Letters by which words count as the same: retrieval, retriever, retrieved."""
TELLING = 24
"""So many of the rarest known words of an answer find the passages it may be from."""
CLOSEST = 12
"""Passages whose trigrams are looked at."""
WIDEST = 400
"""A word in more passages than this finds none."""
_GRAMMAR = """
    a about after all also an and any are as at be because been before being between both but by
    can could did do does each for from had has have he her his how i if in into is it its just
    like may more most must no not of on only or other our out over same she should so some such
    than that the their them then there these they this those through to too use used uses using
    very was we were what when where which while who why will with would you your
"""
_EMPTY = frozenset(_GRAMMAR.split())
_ANYWHERE = """
    additionally address aim allow analysis application approach area aspect aspects assist author
    benefit benefits challenge challenges clear complex comprehensive concept consider context
    contribute create crucial decision describe develop development discuss diverse effective
    effectiveness efficiency efficient emphasize enable engagement enhance ensure essential
    evaluate experience explain explore extract facilitate factor feedback field finding focus
    foster future gain goal growth help highlight identify impact implement implementation
    implication important improve improvement include increase individual influence information
    innovation insight involve issue key lead leverage main maintain major manage method modern
    need offer opportunity outcome overall overview participant perspective pivotal play potential
    practice present problem process productivity project provide purpose quality range recommend
    reflect relevant research result role serve significance significant solution specific
    strategy strategies streamline success suggest support technique theme tool topic ultimately
    understand unique utilize valuable various vast vital
"""


class Support(NamedTuple):
    """How far a passage supports an answer.

    Attributes:
        share: 0 to 1, the mean of the two below.
        terms: share of its content words, by weight.
        trigrams: share of its trigrams.
        place: of the passage; -1 when none has a word in common.

    """

    share: float
    terms: float
    trigrams: float
    place: int


class Grounding:
    """Passages to look answers up in.

    Args:
        passages: of the corpus, each with its headings.

    """

    def __init__(self, passages: Sequence[str]) -> None:
        self._trigrams: list[frozenset[int]] = []
        self._terms: list[frozenset[str]] = []
        self._holders: dict[str, list[int]] = defaultdict(list)
        for place, passage in enumerate(passages):
            stems = _stems(passage)
            self._trigrams.append(frozenset(map(hash_of, _threes(stems))))
            self._terms.append(frozenset(_content(stems)))
            for term in self._terms[-1]:
                self._holders[term].append(place)

    def of(self, answer: str, place: int | None = None) -> Support:
        """The passage that supports an answer best, or how far the one at a place does."""
        stems = _stems(answer)
        terms = {term: self._weight(term) for term in _content(stems)}
        trigrams = {
            hash_of(three): sum(terms.get(stem, 0.0) for stem in three if stem not in ANYWHERE)
            for three in _threes(stems)
        }
        places = self._closest(terms) if place is None else [place] if terms else []
        found = [self._support(place, terms, trigrams) for place in places]
        return max(found, default=Support(0.0, 0.0, 0.0, -1), key=lambda it: (it.share, -it.place))

    def _support(self, place: int, terms: dict[str, float], trigrams: dict[int, float]) -> Support:
        held = _share(terms, self._terms[place] - ANYWHERE)
        same = _share(trigrams, self._trigrams[place]) if any(trigrams.values()) else held
        return Support(round((held + same) / 2, 6), round(held, 6), round(same, 6), place)

    def _weight(self, term: str) -> float:
        return math.log((len(self._terms) + 1) / (len(self._holders.get(term, ())) + 0.5))

    def _closest(self, weights: dict[str, float]) -> Iterable[int]:
        known = sorted((-weight, term) for term, weight in weights.items() if term in self._holders)
        scores: Counter[int] = Counter()
        for weight, term in known[:TELLING]:
            holders = self._holders[term]
            if len(holders) <= WIDEST or len(known) <= 3:
                for place in holders:
                    scores[place] -= weight  # type: ignore[assignment]
        ordered = sorted(scores, key=lambda place: (-scores[place], place))
        return ordered[:CLOSEST]


def _stems(text: str) -> list[str]:
    return [word if word.isdigit() else word[:STEM] for word in words_of(text)]


ANYWHERE = frozenset(word[:STEM] for word in _ANYWHERE.split())
"""What an assistant may say of anything grounds nothing."""


def _content(stems: Iterable[str]) -> Iterable[str]:
    return (
        stem
        for stem in stems
        if stem not in _EMPTY and (len(stem) > 2 or stem.isdigit() or stem > "\u3040")
    )


def _threes(stems: Sequence[str]) -> Iterable[Sequence[str]]:
    return (stems[at : at + 3] for at in range(len(stems) - 2))


def _share(weights: Mapping[Any, float], held: Collection[Any]) -> float:
    return math.fsum(weight for key, weight in weights.items() if key in held) / math.fsum(
        weights.values()
    )


def hash_of(stems: Sequence[str]) -> int:
    """A number for a few words, the same in every process."""
    return zlib.crc32("\x1f".join(stems).encode("utf-8", "replace"))
