"""A passage as units that a quotation must not cut: sentences, whole lists, whole code blocks.

Everything is kept as places in the passage, so that what is quoted is verbatim.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from markdown_it import MarkdownIt

    Kind = Literal["sentence", "list", "code"]

SENTENCES = (3, 5)
"""Least and most sentences of a window; a list or a code block counts as the least."""

LONGEST = 1200
"""Most characters of a window, unless a single unit is longer."""

_BLOCKS: dict[str, Kind] = {
    "fence": "code",
    "code_block": "code",
    "table_open": "code",
    "bullet_list_open": "list",
    "ordered_list_open": "list",
}
_POINTING_WORDS = """
additionally afterwards also although and another because besides both but consequently
conversely either finally furthermore he hence here hers his however indeed instead it its
likewise meanwhile moreover nevertheless nonetheless nor or otherwise she similarly since so
such that their them then therefore these they this those though thus which yet
"""
_POINTERS = frozenset(_POINTING_WORDS.split())
_STOPS = tuple(".!?…:;。！？")
_POINTING = ("as a result", "as such", "for example", "for instance", "in addition", "in contrast",
             "in other words", "in short", "in this", "in that", "on the contrary",
             "on the other hand", "the former", "the latter", "the same", "to do so",
             "to do this", "by doing", "in practice, this", "with this", "at this")  # fmt: skip
_PROMISES = ("in this article", "in this post", "in this section", "in this tutorial",
             "in this chapter", "in the next", "in the following", "in the previous",
             "we will explore", "we'll explore", "we will see", "we'll see", "you will learn",
             "you'll learn", "you'll understand", "you will understand", "by the end of",
             "by the conclusion of", "this article")  # fmt: skip


@dataclass(frozen=True)
class Unit:
    """What a quotation keeps whole.

    Attributes:
        start: first character in the passage.
        end: one past the last character.
        kind: ``sentence``, ``list`` or ``code`` (tables are kept like code).
        text: the characters themselves.
        opens: it is the first of its paragraph.

    """

    start: int
    end: int
    kind: Kind
    text: str
    opens: bool

    @property
    def leans(self) -> bool:
        """It refers to what stands before it, as ``This is why …`` does."""
        start = self.text.lower().lstrip("\"'“‘(*_ ").replace("’", "'")
        first = start.split(maxsplit=1)[0].split("'")[0].rstrip(",:;") if start.split() else ""
        return self.kind == "sentence" and (first in _POINTERS or start.startswith(_POINTING))

    @property
    def announces(self) -> bool:
        """It introduces what follows it."""
        return self.kind == "sentence" and self.text.rstrip("*_ ").endswith((":", "👇"))

    @property
    def promises(self) -> bool:
        """It says what another part of the document will say, as introductions do."""
        text = self.text.lower().replace("’", "'")
        return self.kind == "sentence" and any(promise in text for promise in _PROMISES)

    @property
    def asks(self) -> bool:
        """It is a question: close to any question, and no answer."""
        return self.kind == "sentence" and self.text.rstrip("*_\"' ").endswith("?")

    @property
    def is_fragment(self) -> bool:
        """It is no sentence but a caption, a bare heading or cut off."""
        end = self.text.rstrip("*_\"'”’)] ")[-1:]
        return self.kind == "sentence" and not (end in _STOPS or _is_pictorial(end))


@dataclass(frozen=True)
class Window:
    """Neighbouring units of one passage, by their places in the list of units.

    Attributes:
        first: the first unit.
        last: the last unit, included.
        sound: it starts on its own feet and ends where a thought ends.

    """

    first: int
    last: int
    sound: bool

    def quote(self, text: str, units: Sequence[Unit]) -> str:
        """Return the stretch of the passage that it covers."""
        return text[units[self.first].start : units[self.last].end]


def split(text: str) -> list[Unit]:
    """Cut a passage of plain Markdown into units, in order."""
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    units: list[Unit] = []
    for token in _parser().parse(text):
        if token.level or token.map is None or token.nesting < 0:
            continue
        start, end = starts[token.map[0]], min(starts[token.map[1]], len(text))
        units += _units(text, start, end, _BLOCKS.get(token.type, "sentence"))
    return units


def windows(units: Sequence[Unit]) -> list[Window]:
    """Return the stretches that are long enough and not too long; mostly sound ones.

    Every passage that holds a unit has at least one.
    """
    spans = list(_spans(units))
    return [span for span in spans if span.sound] or spans


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table")


def _units(text: str, start: int, end: int, kind: Kind) -> Iterator[Unit]:
    if kind != "sentence":
        yield _unit(text, start, end, kind, opens=True)
        return
    import sentencex  # type: ignore[import-untyped]

    place = start
    for sentence in sentencex.segment("en", text[start:end]):
        unit = _unit(text, place, place + len(sentence), kind, opens=place == start)
        place += len(sentence)
        if unit.text:
            yield unit


def _unit(text: str, start: int, end: int, kind: Kind, *, opens: bool) -> Unit:
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip("\n ")) if kind == "sentence" else 0
    end = start + len(text[start:end].rstrip())
    return Unit(start, end, kind, text[start:end], opens)


def _spans(units: Sequence[Unit]) -> Iterator[Window]:
    """Every run of units that is long enough and not too long."""
    least, most = SENTENCES
    least = min(least, sum(_cost(unit) for unit in units))
    for first in range(len(units)):
        cost = 0
        for last in range(first, len(units)):
            cost += _cost(units[last])
            if last > first and (cost > most or _length(units, first, last) > LONGEST):
                break
            if cost >= least or _is_full(units, first, last + 1):
                yield Window(first, last, _is_sound(units, first, last))


def _cost(unit: Unit) -> int:
    if unit.kind == "sentence":
        return 0 if unit.is_fragment else 1
    return SENTENCES[0]


def _length(units: Sequence[Unit], first: int, last: int) -> int:
    return units[last].end - units[first].start


def _is_full(units: Sequence[Unit], first: int, last: int) -> bool:
    return last < len(units) and _length(units, first, last) > LONGEST


def _is_sound(units: Sequence[Unit], first: int, last: int) -> bool:
    start, end = units[first], units[last]
    before = units[first - 1] if first else None
    headless = start.kind != "sentence" and before is not None and before.kind == "sentence"
    leaning = start.leans and before is not None
    broken = any(_is_broken(one, two) for one, two in pairwise(units[first : last + 1]))
    stump = end.is_fragment or end.announces
    return not (headless or leaning or broken or stump or start.is_fragment)


def _is_broken(one: Unit, two: Unit) -> bool:
    """Something was announced, such as a figure, that the text no longer holds."""
    return one.announces and two.kind == "sentence" and two.opens


def _is_pictorial(character: str) -> bool:
    """An emoji closes a sentence as well as a full stop."""
    return unicodedata.category(character) == "So" if character else False
