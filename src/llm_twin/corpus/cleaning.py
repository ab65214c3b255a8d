"""Documents made fit to learn from: one alphabet, no boilerplate, each text once."""

from __future__ import annotations

import dataclasses
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from llm_twin.corpus.boilerplate import strip_boilerplate
from llm_twin.corpus.duplicates import duplicates
from llm_twin.corpus.markdown import words
from llm_twin.corpus.ports import Skipped

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from llm_twin.corpus.document import Document

FEWEST_WORDS = 5


@dataclass
class Cleaned:
    """What cleaning left.

    Attributes:
        documents: clean documents, in the order they came.
        dropped: the others, each with its reason.

    """

    documents: list[Document] = field(default_factory=list)
    dropped: list[Skipped] = field(default_factory=list)


def clean(documents: Sequence[Document]) -> Cleaned:
    """Normalise characters, remove boilerplate, and drop empty and duplicate documents.

    What recurs over the documents of one site is seen only with all of them at hand, so this
    takes the whole corpus; which duplicate is kept does not depend on their order.
    """
    cleaned = Cleaned()
    kept = []
    for document in strip_boilerplate([_plain_letters(document) for document in documents]):
        if _is_empty(document.text):
            cleaned.dropped.append(Skipped(document.uri, "empty, or nothing but boilerplate"))
        else:
            kept.append(document)
    ordered = sorted(kept, key=lambda document: document.uri)
    copies = duplicates([document.text for document in ordered])
    originals = {ordered[at].uri: ordered[copy].uri for at, copy in copies.items()}
    for document in kept:
        if document.uri in originals:
            reason = f"says the same as {originals[document.uri]}"
            cleaned.dropped.append(Skipped(document.uri, reason))
        else:
            cleaned.documents.append(document)
    return cleaned


def _is_empty(text: str) -> bool:
    """Tell whether there is too little to learn from."""
    return len(words(text)) < FEWEST_WORDS


def _plain_letters(document: Document) -> Document:
    """Write letters that only look different (fake bold, ligatures, full width) as plain ones."""
    title = " ".join(_translated(document.title).split())
    return dataclasses.replace(document, title=title, text=_translated(document.text))


def _translated(text: str) -> str:
    return unicodedata.normalize("NFC", text.translate(_plain()))


@cache
def _plain() -> dict[int, str]:
    """Return the look-alikes and what they stand for.

    Not NFKC over the whole text: that would also turn x² into x2, ½ into 1⁄2 and the full-width
    punctuation of Chinese into ASCII.
    """
    table = {code: unicodedata.normalize("NFKC", chr(code)) for code in _lookalikes()}
    table |= dict.fromkeys((0x00AD, 0x200B, 0x2060, 0xFEFF), "")
    return table | {0x00A0: " ", 0x202F: " ", 0x2028: "\n", 0x2029: "\n\n", 0x000B: "\n"}


def _lookalikes() -> Iterator[int]:
    for first, last in (
        (0x1D400, 0x1D7FF),  # mathematical bold, italic, script, sans-serif, monospace
        (0xFB00, 0xFB06),  # ligatures
        (0xFF10, 0xFF19),  # full-width digits and letters
        (0xFF21, 0xFF3A),
        (0xFF41, 0xFF5A),
        (0x1F130, 0x1F149),  # squared letters
        (0x24B6, 0x24E9),  # circled letters
    ):
        yield from range(first, last + 1)
    yield from (0x210A, 0x210B, 0x210C, 0x210D, 0x210E, 0x2110, 0x2111, 0x2112, 0x2113, 0x2115)
    yield from (0x2119, 0x211A, 0x211B, 0x211C, 0x211D, 0x2124, 0x2128, 0x212C, 0x212D, 0x212F)
    yield from (0x2130, 0x2131, 0x2133, 0x2134, 0x2139)
