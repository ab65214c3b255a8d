"""Which documents say the same: exact copies, cross-posts, and excerpts of another one.

Each document is sketched by the hashes of its five-word shingles that fall into one of eight
classes, a fixed sample that is the same in every document. The share of the smaller sketch found
in the larger one estimates how much of the smaller document the larger one contains.

A sketch is made of one document alone, so it can be kept. Of a large corpus nearly all shingles are
in one document only: these are counted and then left out, so that what is compared stays small.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from functools import cmp_to_key
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from llm_twin.corpus.markdown import words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Hashes = NDArray[np.uint32]

SHINGLE = 5
SAMPLED = 8
"""One hash in this many is kept, but no fewer than `SMALLEST`."""
SMALLEST = 64
SAME = 0.7
"""Contained to this share, a document is a duplicate."""
COMMON = 40
"""A shingle found in more documents than this is boilerplate and says nothing."""
AT_ONCE = 2**25
"""Hashes that are sorted at a time: 128 MB."""


def duplicates(texts: Sequence[str], same: float = SAME) -> dict[int, int]:
    """Map the position of each duplicate to the position of the text that stands for it.

    The longest text stands for the others; among equals, the first in alphabetical order of the
    text itself, so the answer does not depend on the order of the input.
    """
    return duplicates_among([sketch(text) for text in texts], lambda at: texts[at], same)


def sketch(text: str) -> bytes:
    """Hashes of a text's distinct shingles, ascending, as unsigned 32-bit integers."""
    spoken = words(text)
    size = min(SHINGLE, len(spoken))
    shingles = {
        zlib.crc32("\x1f".join(spoken[at : at + size]).encode("utf-8", "replace"))
        for at in range(len(spoken) - size + 1 if spoken else 0)
    }
    return np.sort(np.fromiter(shingles, np.uint32, len(shingles))).tobytes()


def duplicates_among(
    sketches: Sequence[bytes], text_at: Callable[[int], str], same: float = SAME
) -> dict[int, int]:
    """Do the same from sketches; a text is asked for only to order two of equal length.

    Args:
        sketches: of the texts.
        text_at: the text at a position.
        same: contained to this share, a text is a duplicate.

    """
    sizes = [len(one) // 4 for one in sketches]
    repeated = _repeated(sketches)
    shared = {}
    for at, one in enumerate(sketches):
        hashes = np.frombuffer(one, np.uint32)
        if len(common := hashes[_within(hashes, repeated)]):
            shared[at] = common
    holders: dict[int, list[int]] = defaultdict(list)
    found: dict[int, int] = {}
    for at in sorted(shared, key=cmp_to_key(_longest_first(sizes, text_at))):
        asked, wanted = _asked(np.frombuffer(sketches[at], np.uint32), shared[at])
        original = _original(asked, wanted, holders, sizes, same)
        if original is not None:
            found[at] = original
            continue
        for shingle in shared[at].tolist():
            holders[shingle].append(at)
    return found


def _repeated(sketches: Sequence[bytes]) -> Hashes:
    """Hashes that are in more than one sketch, ascending; a range of them at a time."""
    parts = 1 + sum(map(len, sketches)) // 4 // AT_ONCE
    edges = np.linspace(0, 2**32, parts + 1).astype(np.uint64)
    found = []
    for low, high in pairwise(edges):
        pieces = []
        for one in sketches:
            hashes = np.frombuffer(one, np.uint32)
            start, end = (0, len(hashes)) if parts == 1 else hashes.searchsorted([low, high])
            pieces.append(hashes[start:end])
        merged = np.concatenate([np.zeros(0, np.uint32), *pieces])
        merged.sort()
        found.append(np.unique(merged[1:][merged[1:] == merged[:-1]]))
    return np.concatenate(found)


def _within(hashes: Hashes, ascending: Hashes) -> NDArray[np.bool_]:
    if not len(ascending):
        return np.zeros(len(hashes), np.bool_)
    places = np.minimum(ascending.searchsorted(hashes), len(ascending) - 1)
    return np.asarray(ascending[places] == hashes, np.bool_)


def _longest_first(sizes: list[int], text_at: Callable[[int], str]) -> Callable[[int, int], int]:
    def compare(one: int, other: int) -> int:
        if sizes[one] != sizes[other]:
            return sizes[other] - sizes[one]
        first, second = text_at(one), text_at(other)
        return one - other if first == second else (-1 if first < second else 1)

    return compare


def _asked(hashes: Hashes, shared: Hashes) -> tuple[int, list[int]]:
    """How many shingles a text is looked up with, and those that other texts have as well."""
    sampled = int((hashes % SAMPLED == 0).sum())
    if sampled < SMALLEST:
        return len(hashes), shared.tolist()
    return sampled, shared[shared % SAMPLED == 0].tolist()


def _original(
    asked: int, wanted: list[int], holders: dict[int, list[int]], sizes: list[int], same: float
) -> int | None:
    """Return the kept text that contains this one, or None."""
    held: Counter[int] = Counter()
    for shingle in wanted:
        holding = holders.get(shingle, [])
        if len(holding) <= COMMON:
            held.update(holding)
        else:
            asked -= 1
    close = [at for at, count in held.items() if count >= same * max(asked, 1)]
    return min(close, key=lambda at: (-held[at], -sizes[at], at), default=None)
