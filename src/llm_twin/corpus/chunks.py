"""Documents cut by structure into passages that fit the embedder's window.

A passage is embedded together with its title and heading path: measured to matter more than the
embedder. Chunks never overlap, and no word of the document is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.corpus.atoms import Atom, prose, sections
from llm_twin.corpus.document import Chunk
from llm_twin.corpus.markdown import words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llm_twin.corpus.atoms import Section
    from llm_twin.corpus.document import Document

CHARACTERS_PER_TOKEN = 10
"""A tokenizer may see a whole unbroken string as one unknown token; this bounds such a chunk."""

SMALL = 20
"""A piece of fewer words is put together with a neighbour."""


@dataclass
class _Piece:
    headings: tuple[str, ...]
    text: str


def chunk(document: Document, count_tokens: Callable[[str], int], window: int) -> list[Chunk]:
    """Cut a document into chunks with ``count_tokens(chunk.passage) <= window``, in order.

    Args:
        document: a cleaned document.
        count_tokens: tokens of a text, special tokens included.
        window: most tokens of a passage.

    Raises:
        ValueError: the window is too small for even one character.

    """
    return _Chunker(document, count_tokens, window).chunks()


class _Chunker:
    """Cuts one document; titles and headings that would eat the window are shortened."""

    def __init__(self, document: Document, count_tokens: Callable[[str], int], window: int) -> None:
        self.document = document
        self.count = count_tokens
        self.window = window
        self.room = window * CHARACTERS_PER_TOKEN
        self.title = self._shortened(" ".join(document.title.split()), window // 5)

    def chunks(self) -> list[Chunk]:
        pieces = [
            piece
            for section in sections(self.document.text, self.document.title)
            for piece in self._pieces(section)
        ]
        document = self.document
        return [
            Chunk(
                document_id=document.id,
                document_digest=document.digest,
                title=self.title,
                headings=piece.headings,
                text=piece.text,
                link=document.link,
                position=position,
            )
            for position, piece in enumerate(self._joined(pieces))
        ]

    def _pieces(self, section: Section) -> Iterator[_Piece]:
        """Pack a section's atoms, in order, into as few pieces as fit."""
        headings = self._headings(section.headings)
        held: list[str] = []
        if headings != section.headings:
            # The path was shortened: its words must still arrive somewhere.
            section.atoms[:0] = prose(" > ".join(section.headings))
        for atom in section.atoms:
            for part in self._split(headings, atom):
                if not self._fits(headings, _text([*held, part])):
                    keep = self._lead_in(headings, held, part)
                    yield _Piece(headings, _text(held[:keep]))
                    held = held[keep:]
                held.append(part)
        if held:
            yield _Piece(headings, _text(held))

    def _lead_in(self, headings: tuple[str, ...], held: list[str], part: str) -> int:
        """Return how many parts stay: a line that ends in a colon goes with what it announces."""
        announces = len(held) > 1 and held[-1].endswith((":", "："))
        moves = announces and self._fits(headings, _text([held[-1], part]))
        return len(held) - moves

    def _split(self, headings: tuple[str, ...], atom: Atom) -> Iterator[str]:
        """Cut an atom at its parts, and a part that is too long by itself at its words."""
        if self._fits(headings, atom.render()):
            yield atom.render()
            return
        if atom.head and not self._fits(headings, atom.render(["x" * (self.window // 2)])):
            # A table's header that leaves no room for rows is a row like any other.
            atom = Atom((*atom.head.rstrip().splitlines(), *atom.parts), atom.joiner)
        held: list[str] = []
        for part in self._parts(headings, atom):
            if held and not self._fits(headings, atom.render([*held, part])):
                yield atom.render(held).strip("\n").rstrip()
                held = []
            held.append(part)
        yield atom.render(held).strip("\n").rstrip()

    def _parts(self, headings: tuple[str, ...], atom: Atom) -> Iterator[str]:
        for part in atom.parts:
            rest = part
            while not self._fits(headings, atom.render([rest])):
                cut = self._cut(rest, lambda text: self._fits(headings, atom.render([text])))
                yield rest[:cut]
                rest = rest[cut:]
            yield rest

    def _cut(self, text: str, fits: Callable[[str], bool]) -> int:
        """Return where to cut: the longest start that fits, at a space where there is one."""
        low, high = 0, min(len(text), self.room)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(text[:middle]) else (low, middle - 1)
        if not low:
            raise ValueError(f"a window of {self.window} tokens cannot hold a passage")
        space = text.rfind(" ", low // 2, low)
        return space + 1 if space > 0 else low

    def _fits(self, headings: Sequence[str], text: str) -> bool:
        if len(text) > self.room:
            return False
        prefix = " > ".join((self.title, *headings))
        return self.count(f"{prefix}\n{text}") <= self.window

    def _headings(self, headings: tuple[str, ...]) -> tuple[str, ...]:
        """Shorten a heading path to a third of the window: outermost steps go first."""
        limit = self.window // 3
        while len(headings) > 1 and self.count(" > ".join(headings)) > limit:
            headings = headings[1:]
        return tuple(self._shortened(heading, limit) for heading in headings)

    def _shortened(self, text: str, limit: int) -> str:
        if not text or (len(text) <= self.room // 5 and self.count(text) <= limit):
            return text
        low, high = 0, min(len(text), self.room // 5)
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.count(f"{text[:middle]}…") <= limit
            low, high = (middle, high) if fits else (low, middle - 1)
        return f"{text[:low].rstrip()}…" if low else ""

    def _joined(self, pieces: list[_Piece]) -> list[_Piece]:
        """Put a piece of a few words together with a neighbour under the same parent."""
        joined: list[_Piece] = []
        for piece in pieces:
            last = joined[-1] if joined else None
            if last and (_is_small(last) or _is_small(piece)):
                both = _together(last, piece)
                if both and self._fits(both.headings, both.text):
                    joined[-1] = both
                    continue
            joined.append(piece)
        return joined


def _text(parts: Sequence[str]) -> str:
    return "\n\n".join(parts)


def _is_small(piece: _Piece) -> bool:
    return len(words(piece.text)) < SMALL and len(piece.text) < SMALL * CHARACTERS_PER_TOKEN


def _together(first: _Piece, second: _Piece) -> _Piece | None:
    """Join two pieces under what their heading paths share, or None when they are too far apart."""
    shared = 0
    while first.headings[shared : shared + 1] == second.headings[shared : shared + 1] != ():
        shared += 1
    below = max(len(first.headings), len(second.headings)) - shared
    if below > 1:
        return None
    text = "\n\n".join(
        "\n\n".join((*piece.headings[shared:], piece.text)) for piece in (first, second)
    )
    return _Piece(first.headings[:shared], text)
