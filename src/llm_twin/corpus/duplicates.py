"""Which documents say the same: exact copies, cross-posts, and excerpts of another one.

Each document is sketched by the hashes of its five-word shingles that fall into one of eight
classes, a fixed sample that is the same in every document. The share of the smaller sketch found
in the larger one estimates how much of the smaller document the larger one contains.
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from llm_twin.corpus.markdown import words

if TYPE_CHECKING:
    from collections.abc import Sequence

SHINGLE = 5
SAMPLED = 8
"""One hash in this many is kept, but no fewer than `SMALLEST`."""
SMALLEST = 64
SAME = 0.7
"""Contained to this share, a document is a duplicate."""
COMMON = 40
"""A shingle found in more documents than this is boilerplate and says nothing."""


def duplicates(texts: Sequence[str], same: float = SAME) -> dict[int, int]:
    """Map the position of each duplicate to the position of the text that stands for it.

    The longest text stands for the others; among equals, the first in alphabetical order of the
    text itself, so the answer does not depend on the order of the input.
    """
    sketches = [_sketch(text) for text in texts]
    order = sorted(range(len(texts)), key=lambda at: (-len(sketches[at][1]), texts[at], at))
    holders: dict[int, list[int]] = defaultdict(list)
    found: dict[int, int] = {}
    for at in order:
        original = _original(sketches[at], holders, sketches, same)
        if original is not None:
            found[at] = original
            continue
        for shingle in sketches[at][1]:
            holders[shingle].append(at)
    return found


Sketch = tuple[frozenset[int], frozenset[int]]


def _sketch(text: str) -> Sketch:
    """Return the sampled shingles to look up with, and all of them to be found by."""
    spoken = words(text)
    size = min(SHINGLE, len(spoken))
    shingles = frozenset(
        zlib.crc32("\x1f".join(spoken[at : at + size]).encode("utf-8", "replace"))
        for at in range(len(spoken) - size + 1 if spoken else 0)
    )
    sampled = frozenset(shingle for shingle in shingles if shingle % SAMPLED == 0)
    return (sampled if len(sampled) >= SMALLEST else shingles), shingles


def _original(
    sketch: Sketch, holders: dict[int, list[int]], sketches: list[Sketch], same: float
) -> int | None:
    """Return the kept text that contains this one, or None."""
    shared: Counter[int] = Counter()
    asked = 0
    for shingle in sketch[0]:
        holding = holders.get(shingle, [])
        if len(holding) <= COMMON:
            shared.update(holding)
            asked += 1
    close = [at for at, count in shared.items() if count >= same * max(asked, 1)]
    return min(close, key=lambda at: (-shared[at], -len(sketches[at][1]), at), default=None)
