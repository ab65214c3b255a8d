"""A citation: where in the author's texts an answer comes from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.corpus.document import Chunk

_MARK = re.compile(r"([ \t]*)\[(?:\^?\d{1,3})(?:\s*[,;]\s*\^?\d{1,3})*\](?!\()")
_NUMBER = re.compile(r"\d+")
_ENDS = (".", "!", "?", "…", ".”", '."', ")")


@dataclass(frozen=True)
class Citation:
    """One source of an answer.

    Attributes:
        title: of the document.
        heading: path of section headings, ``Section > Subsection``, or "".
        link: URL or path.
        quote: the author's words, verbatim.

    """

    title: str
    heading: str
    link: str
    quote: str

    @classmethod
    def of(cls, chunk: Chunk, quote: str) -> Citation:
        """Cite a passage by some of its words."""
        return cls(chunk.title, " > ".join(chunk.headings), chunk.link, quote)


def numbered(citation: Citation, number: int) -> str:
    """Return the quote with its mark, which after a list or code block stands on its own line."""
    last = citation.quote.rsplit("\n", 1)[-1]
    apart = "\n" if citation.quote.count("\n") and not last.rstrip().endswith(_ENDS) else " "
    return f"{citation.quote}{apart}[{number}]"


def used(text: str, offered: Sequence[Citation]) -> tuple[str, list[Citation]]:
    """Keep the [n] marks that exist, numbered anew in order of use, and return their citations.

    Marks may be grouped (``[1, 3]``); marks of passages that were not offered are dropped.
    """
    order: dict[int, int] = {}

    def renumber(match: re.Match[str]) -> str:
        known = [int(mark) for mark in _NUMBER.findall(match[0])]
        known = [mark for mark in known if 1 <= mark <= len(offered)]
        marks = dict.fromkeys(order.setdefault(mark, len(order) + 1) for mark in known)
        return match[1] * bool(marks) + "".join(f"[{mark}]" for mark in marks)

    kept = _MARK.sub(renumber, text)
    return kept.strip(), [offered[mark - 1] for mark in order]
