"""Preference pairs out of an author's own texts, without a language model.

Chosen is what the author wrote under a heading. Rejected is, in turn: what the author wrote under
another heading of the same document (``sibling``: the right voice, the wrong answer), the passage
of another document that has most words in common (``neighbour``), the same sentences out of order
(``shuffled``), or the same text with an opening as assistants write it (``generic``).

Both end with a sentence and are equally long, within a few percent, as neither the end nor the
length may tell them apart: in the LLM Engineer's Handbook's set the chosen answer is longer in
80 % of pairs, so a model learns to like length.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

from llm_twin.corpus.document import content_id
from llm_twin.model.near_duplicates import words_of
from llm_twin.model.pairs import prompt_of
from llm_twin.model.rows import Preference
from llm_twin.model.sentences import sentences, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llm_twin.model.split import Section

KINDS = ("sibling", "neighbour", "shuffled", "generic")
MOST = 4000
"""Preferences; of more sections these are drawn, the same ones every time."""
LENGTHS = (80, 900)
"""Characters of an answer; see ``sentences.size`` for the least."""
TOLERANCE = 0.05
"""By this share of the longer one the two lengths may differ."""
SAME = 0.5
"""Two passages with this share of common pairs of words say the same: neither is worse."""
WIDEST = 60
TELLING = 16
_GRAMMAR = "a and are as for in is it of that the this to with you"
_ENGLISH = frozenset(_GRAMMAR.split())
_OPENINGS = (
    "In today's fast-paced world, understanding this topic is more important than ever.",
    "In the ever-evolving landscape of technology, this plays a crucial role.",
    "Great question! Let's delve into the key aspects of this fascinating topic.",
    "It is important to note that there are several factors to consider here.",
    "Certainly! Here is a comprehensive overview of the subject at hand.",
    "This is a multifaceted subject that offers numerous benefits and challenges.",
)


class _Place:
    """A section as it is compared: its sentences, and its words."""

    def __init__(self, section: Section) -> None:
        self.document_id = section.document_id
        self.prompt = prompt_of(section)
        self.headings = section.headings
        self.sentences = _beginning(sentences(section.text))
        self.text = " ".join(self.sentences)
        spoken = words_of(self.text)
        self.pairs = frozenset(map("".join, pairwise(spoken)))
        # Where each character counts as a word, pairs of them are the words.
        dense = sum(map(len, spoken)) < 1.5 * len(spoken)
        self.words = self.pairs if dense else frozenset(spoken)

    def is_like(self, other: _Place) -> bool:
        """Whether so many pairs of words are common that the other is no wrong answer."""
        return len(self.pairs & other.pairs) >= SAME * min(len(self.pairs), len(other.pairs))


def _beginning(said: Sequence[str]) -> list[str]:
    kept: list[str] = []
    for sentence in said:
        if sum(map(len, kept)) + len(sentence) > LENGTHS[1]:
            break
        kept.append(sentence)
    return kept


def preferences_of(sections: Sequence[Section]) -> list[Preference]:
    """One preference for each section, of each kind in turn, or of the next kind that can be made.

    Too short texts, and texts for which no worse answer of the same length is found, have none.
    """
    named = [section for section in sections if section.headings or section.title]
    places = [
        place for place in map(_Place, named)
        if size(place.text) >= LENGTHS[0] and len(place.sentences) > 1
    ]  # fmt: skip
    worse: dict[str, Callable[[_Place], Preference | None]] = {
        "sibling": _sibling(places),
        "neighbour": _neighbour(places),
        "shuffled": _shuffled,
        "generic": _generic,
    }
    drawn = sorted(places, key=lambda place: content_id(place.document_id, place.text))[:MOST]
    made = {}
    for turn, place in enumerate(drawn):
        kinds = (KINDS[(turn + step) % len(KINDS)] for step in range(len(KINDS)))
        made[id(place)] = next((row for kind in kinds if (row := worse[kind](place))), None)
    return [row for place in places if (row := made.get(id(place)))]


def _sibling(places: Sequence[_Place]) -> Callable[[_Place], Preference | None]:
    """From the same document, the section under another heading with most words in common."""
    documents: dict[str, list[_Place]] = defaultdict(list)
    for place in places:
        documents[place.document_id].append(place)

    def worse(place: _Place) -> Preference | None:
        others = [one for one in documents[place.document_id] if one.headings != place.headings]
        return _against(place, others[:WIDEST], "sibling")

    return worse


def _neighbour(places: Sequence[_Place]) -> Callable[[_Place], Preference | None]:
    """From other documents, the section that shares most of the words that few have."""
    holders: dict[str, list[int]] = defaultdict(list)
    for number, place in enumerate(places):
        for word in place.words:
            holders[word].append(number)

    def worse(place: _Place) -> Preference | None:
        rare = sorted((len(holders[word]), word) for word in place.words)
        shared: Counter[int] = Counter()
        for count, word in [one for one in rare if 1 < one[0] <= WIDEST][:TELLING]:
            for number in holders[word]:
                shared[number] += 1 + WIDEST // count
        ordered = sorted(shared, key=lambda number: (-shared[number], number))
        others = [places[number] for number in ordered]
        others = [one for one in others if one.document_id != place.document_id]
        return _against(place, others[:8], "neighbour")

    return worse


def _against(place: _Place, others: Sequence[_Place], kind: str) -> Preference | None:
    """The place against the most alike of others that does not say the same."""
    ordered = sorted(others, key=lambda other: -len(place.words & other.words) / len(other.words))
    for other in ordered:
        if not place.is_like(other):
            both = _equally_long(place.sentences, other.sentences)
            if both:
                return Preference(place.prompt, *both, kind, place.document_id)
    return None


def _equally_long(one: Sequence[str], other: Sequence[str]) -> tuple[str, str] | None:
    """The longest beginnings of both that end with a sentence and are equally long."""
    near = [
        (first, second)
        for first in _beginnings(one)
        for second in _beginnings(other)
        if abs(len(first) - len(second)) <= TOLERANCE * max(len(first), len(second))
    ]
    return max(near, key=lambda both: len(both[0]) + len(both[1]), default=None)


def _beginnings(said: Sequence[str]) -> Iterator[str]:
    texts = (" ".join(said[:count]) for count in range(1, len(said) + 1))
    return (text for text in texts if size(text) >= LENGTHS[0])


def _shuffled(place: _Place) -> Preference | None:
    """The same sentences in another order, the first not first."""
    if len(place.sentences) < 4:
        return None
    order = list(place.sentences)
    draw = random.Random(content_id(place.document_id, place.text))
    while order[0] == place.sentences[0] or order == place.sentences:
        draw.shuffle(order)
        if len(set(order)) < 3:
            return None
    joined = " ".join(order)
    return Preference(place.prompt, place.text, joined, "shuffled", place.document_id)


def _generic(place: _Place) -> Preference | None:
    """The same text behind an assistant's opening; both cut to the same length. English alone."""
    spoken = words_of(place.text)
    if sum(word in _ENGLISH for word in spoken) < 0.12 * len(spoken):
        return None
    opening = _OPENINGS[int(content_id(place.text), 16) % len(_OPENINGS)]
    both = _equally_long(place.sentences, [opening, *place.sentences[1:]])
    if not both or both[1] == opening:
        return None
    return Preference(place.prompt, *both, "generic", place.document_id)


def longer_chosen(rows: Sequence[Preference]) -> float:
    """The share of rows whose chosen answer is the longer one; an equal one counts as half."""
    if not rows:
        return 0.5
    lengths = [(len(row.chosen), len(row.rejected)) for row in rows]
    return sum((one > other) + 0.5 * (one == other) for one, other in lengths) / len(rows)
