"""Finds a text again by its content, in strings and in files of any kind, from digests alone.

What is looked for must not be written down again, and has to be found even after a crash has
removed half of it: so sequences of its words are known by their digests, and its ids by name.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import re
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.corpus.forgotten import SHINGLE, digest, shingles, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import IO

    from llm_twin.corpus.document import Chunk, Document

SHORTEST = 3
"""Titles and headings of fewer words than this say too little to be found by."""
PIECE = 2**24
OVERLAP = 2**12
ID = re.compile(r"(?<![0-9a-z])[0-9a-f]{16}(?![0-9a-z])")
GZIP, ZIP = b"\x1f\x8b", b"PK\x03\x04"


@dataclass(frozen=True)
class Needles:
    """What to find.

    Attributes:
        digests: of word sequences, by their number of words; those of single words are no
            needles, but say where one may be.
        ids: of documents and chunks, 16 hex digits each.

    """

    digests: dict[int, frozenset[str]]
    ids: frozenset[str]

    def within(self, text: str | None) -> bool:
        """Whether a text holds one of them."""
        if not text:
            return False
        if not self.ids.isdisjoint(ID.findall(text)):
            return True
        found, run = words(text), 0
        known = self.digests.get(1, frozenset())
        for end, word in enumerate(found, start=1):
            run = run + 1 if _word(word) in known else 0
            for size, wanted in self.digests.items():
                if 1 < size <= run and digest(found[end - size : end]) in wanted:
                    return True
        return False

    def within_file(self, path: Path) -> bool:
        """Whether a file holds one, packed by gzip or zip or not; a vanished one does not."""
        with contextlib.suppress(FileNotFoundError):
            return any(self.within(piece) for piece in _pieces(path))
        return False


def needles_of(
    documents: Iterable[Document], chunks: Iterable[Chunk], others: Iterable[str]
) -> Needles:
    """Everything that is only in these documents.

    Args:
        documents: as they were collected.
        chunks: of the same, and of what they were before.
        others: texts that stay; what they say too is not looked for.

    """
    texts, headings, ids = [], set(), set()
    for document in documents:
        texts.append(document.text)
        headings.add(document.title)
        ids.add(document.id)
    for chunk in chunks:
        texts.append(chunk.text)
        headings |= {chunk.title, *chunk.headings}
        ids |= {chunk.document_id, chunk.id}
    found: dict[int, set[str]] = {SHINGLE: {one for text in texts for one in shingles(text)}}
    for heading in headings:
        size = len(words(heading))
        if SHORTEST <= size < SHINGLE:
            found.setdefault(size, set()).update(shingles(heading, size))
    for text in others:
        for size, own in found.items():
            own.difference_update(shingles(text, size))
    found[1] = {_word(word) for text in (*texts, *headings) for word in words(text)}
    kept = {size: frozenset(own) for size, own in found.items() if own}
    return Needles(kept, frozenset(ids))


@functools.lru_cache(2**16)
def _word(word: str) -> str:
    return digest([word])


def _pieces(path: Path) -> Iterator[str]:
    """A file's text, unpacked, in pieces that overlap."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:2] == GZIP:
        with contextlib.suppress(OSError, EOFError, zlib.error), gzip.open(path) as packed:
            yield from _texts(packed)
    elif start == ZIP:
        yield from _members(path)
    with path.open("rb") as file:
        yield from _texts(file)


def _members(path: Path) -> Iterator[str]:
    with (
        contextlib.suppress(zipfile.BadZipFile, OSError, zlib.error),
        zipfile.ZipFile(path) as kept,
    ):
        for name in kept.namelist():
            with kept.open(name) as member:
                yield from _texts(member)


def _texts(file: IO[bytes] | gzip.GzipFile) -> Iterator[str]:
    before = b""
    while data := file.read(PIECE):
        yield (before + data).decode("utf-8", "replace")
        before = data[-OVERLAP:]
