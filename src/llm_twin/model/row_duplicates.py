"""Which training rows say nearly the same as an earlier one, among tens of thousands.

``near_duplicates.first_alike`` misses none, but looks at every pair of texts that share their
rarest words: too many where texts are written to a pattern. Here only rows that share runs of five
words are compared, which two rows that are nearly the same do.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from llm_twin.model.near_duplicates import words_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

RUN = 5
SAMPLED, SMALLEST = 4, 48
"""One run in so many is looked up, but no fewer than `SMALLEST`."""
COMMON = 50
"""A run in more rows than this is looked up in the first of them alone."""
SHARED = 0.3
"""Of two rows with 80 % of words and pairs in common, far more of the runs are common than this."""


class _Row(NamedTuple):
    words: tuple[str, ...]
    shingles: frozenset[int]
    runs: list[int]


def first_alike(texts: Sequence[str], share: float) -> list[int]:
    """For each text the place of the first one that it is a near duplicate of; else its own.

    Args:
        texts: of rows, the ones to keep first.
        share: of words and pairs of words in common, from which two count as one.

    """
    kept: dict[int, _Row] = {}
    same: dict[tuple[str, ...], int] = {}
    holders: dict[int, list[int]] = defaultdict(list)
    found = []
    for place, text in enumerate(texts):
        row = _row(text)
        first = same.get(row.words)
        if first is None:
            likely = _likely(row, holders)
            first = next((at for at in likely if _is_like(row, kept[at], share)), place)
        found.append(first)
        if first == place:
            kept[place], same[row.words] = row, place
            for run in row.runs:
                if len(holders[run]) < COMMON:
                    holders[run].append(place)
    return found


def _row(text: str) -> _Row:
    words = words_of(text)
    spoken = (*words, *(f"{one}\x1f{two}" for one, two in pairwise(words)))
    size = max(1, min(RUN, len(words)))
    runs = sorted(
        set(_hashed("\x1f".join(words[at : at + size]) for at in range(len(words) - size + 1)))
    )
    sampled = [run for run in runs if run % SAMPLED == 0]
    return _Row(words, frozenset(_hashed(spoken)), sampled if len(sampled) >= SMALLEST else runs)


def _hashed(texts: Iterable[str]) -> Iterable[int]:
    return (zlib.crc32(text.encode("utf-8", "replace")) for text in texts)


def _likely(row: _Row, holders: dict[int, list[int]]) -> list[int]:
    """Places of kept rows that share enough runs, in their order."""
    shared: Counter[int] = Counter()
    for run in row.runs:
        shared.update(holders.get(run, ()))
    least = SHARED * len(row.runs)
    return sorted(place for place, count in shared.items() if count >= least)


def _is_like(one: _Row, other: _Row, share: float) -> bool:
    both = len(one.shingles & other.shingles)
    return both >= share * (len(one.shingles) + len(other.shingles) - both)
