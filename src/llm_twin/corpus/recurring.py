"""What recurs over the pages of one site, counted over all of them without their texts."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from llm_twin.corpus.duplicates import duplicates_among

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

RECURS_AT_EDGE = 2
RECURS_INSIDE = 4
"""A block found in this many documents of a site, and in a quarter of them, is boilerplate."""


@dataclass(frozen=True)
class Seen:
    """What the other pages of its site have to know of a page.

    Attributes:
        site: host in the page's address.
        lines: numbers of the distinct blocks' normalized texts, ascending.
        sketch: of the text; see ``duplicates.sketch``.

    """

    site: str
    lines: tuple[int, ...]
    sketch: bytes


Recurring = tuple[tuple[int, ...], tuple[int, ...]]
"""Numbers of a page's lines that are boilerplate at its edges, and of those that are anywhere."""


def number(key: str) -> int:
    """Stand-in for a normalized text, below 2**63."""
    digest = blake2b(key.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def recurring(pages: Sequence[Seen], text_at: Callable[[int], str]) -> list[Recurring]:
    """Return, for each page, which of its lines recur enough to go at the edges, and anywhere.

    Copies of one text count once, or the text itself would look like a frame.

    Args:
        pages: all pages of the corpus.
        text_at: the text of the page at a position, should two be of equal length.

    """
    copies = duplicates_among([page.sketch for page in pages], text_at, same=0.6)
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    sizes: Counter[str] = Counter()
    for position, page in enumerate(pages):
        counts[page.site].update(() if position in copies else page.lines)
        sizes[page.site] += position not in copies
    often = {
        name: tuple(
            _frequent(seen, sizes[name], least) for least in (RECURS_AT_EDGE, RECURS_INSIDE)
        )
        for name, seen in counts.items()
    }
    return [
        (
            tuple(line for line in page.lines if line in often[page.site][0]),
            tuple(line for line in page.lines if line in often[page.site][1]),
        )
        for page in pages
    ]


def _frequent(seen: Counter[int], pages: int, least: int) -> frozenset[int]:
    needed = max(least, pages / 4)
    return frozenset(line for line, count in seen.items() if count >= needed)
