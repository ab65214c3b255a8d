"""The train and held-out sides of a corpus, stable from one version of the corpus to the next."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from llm_twin.corpus.document import content_id
from llm_twin.model.near_duplicates import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_twin.corpus.document import Chunk

SHARE = 0.10
"""Documents whose hash falls below this are held out."""
FEWEST, MOST = 0.05, 0.20
"""The held-out share of characters that a small corpus is kept within, as far as it can be."""
LARGE = 0.25
"""A document with a larger share of the corpus than this is always learned from."""
SHINGLE = 8
COPIED = 0.5
"""A held-out passage with this share of its 8-word shingles in training texts is dropped."""


@dataclass(frozen=True)
class Section:
    """Consecutive chunks of one document under one heading path."""

    document_id: str
    title: str
    headings: tuple[str, ...]
    chunks: tuple[Chunk, ...]

    @property
    def text(self) -> str:
        """Its chunks, a blank line between."""
        return "\n\n".join(chunk.text for chunk in self.chunks)


@dataclass(frozen=True)
class Sides:
    """The chunks of each side, in corpus order; see ``Dataset`` for ``by`` and ``dropped``."""

    train: list[Chunk]
    heldout: list[Chunk]
    by: str
    dropped: int


def sections_of(chunks: Sequence[Chunk]) -> list[Section]:
    """Group consecutive chunks that share document and heading path."""
    return [
        Section(document_id, members[0].title, headings, members)
        for (document_id, headings), group in groupby(
            chunks, key=lambda chunk: (chunk.document_id, chunk.headings)
        )
        if (members := tuple(group))
    ]


def split(chunks: Sequence[Chunk], seed: int) -> Sides:
    """Hold out whole documents; with too few of them sections; with too few of those chunks."""
    units: dict[str, Callable[[Chunk], str]] = {
        "document": lambda chunk: chunk.document_id,
        "section": lambda chunk: content_id(chunk.document_id, *chunk.headings),
        "chunk": lambda chunk: chunk.id,
    }
    for by, unit in units.items():
        held = _held_out(chunks, unit, seed, by)
        train = [chunk for chunk in chunks if unit(chunk) not in held]
        candidates = [chunk for chunk in chunks if unit(chunk) in held]
        heldout = _without_copies(candidates, train)
        if train and heldout:
            return Sides(train, heldout, by, len(candidates) - len(heldout))
    return Sides([], [], "chunk", 0)


def _held_out(
    chunks: Sequence[Chunk], unit: Callable[[Chunk], str], seed: int, by: str
) -> set[str]:
    """Choose units in the order of their hash: those below SHARE, within FEWEST and MOST."""
    sizes: dict[str, int] = {}
    for chunk in chunks:
        sizes[unit(chunk)] = sizes.get(unit(chunk), 0) + len(chunk.text)
    total = sum(sizes.values())
    held: set[str] = set()
    share = 0.0
    for place, key in sorted((_place(key, seed), key) for key in sizes):
        part = sizes[key] / total
        if part <= LARGE and (share < FEWEST or (place < SHARE and share + part <= MOST)):
            held.add(key)
            share += part
    if not held and by == "chunk" and len(sizes) > 1:
        return {min(sizes, key=lambda key: (sizes[key], key))}
    return held


def _place(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on the key and the seed alone."""
    return int(content_id(str(seed), key), 16) / 16**16


def _without_copies(candidates: Sequence[Chunk], train: Sequence[Chunk]) -> list[Chunk]:
    """Drop candidates that training texts say too."""
    copied = copies([chunk.text for chunk in candidates], [chunk.text for chunk in train])
    return [chunk for chunk, copy in zip(candidates, copied, strict=True) if not copy]


def copies(texts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """Whether other texts say what each of these says; only what these say is looked for, held."""
    own = [_shingles(text) for text in texts]
    wanted = set().union(*own)
    said = {found for other in others for found in _shingles(other) & wanted}
    return [len(shingles & said) >= COPIED * len(shingles) for shingles in own]


def _shingles(text: str) -> set[tuple[str, ...]]:
    """The 8-word sequences of a text; a shorter text is one sequence."""
    words = words_of(text)
    size = max(1, min(SHINGLE, len(words)))
    return {words[at : at + size] for at in range(max(1, len(words) - size + 1))}
