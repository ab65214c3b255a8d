"""Texts as their style is judged: words and punctuation alone, in pieces of similar length.

Code, links, markup and the shape of quotation marks say how a text was published, not who wrote it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_CODE = re.compile(r"^(```|~~~).*?(^\1|\Z)", re.DOTALL | re.MULTILINE)
_LINE = re.compile(r"^\s*(#{1,6}\s.*|\|.*|[-=*_]{3,}\s*|(>\s*)*([-*+•]|\d+[.)])\s+|>\s*)", re.M)
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_ADDRESS = re.compile(r"\b(?:https?://|www\.)\S+|<[^<>\s][^<>]{0,200}>")
_SAME = str.maketrans({
    "‘": "'", "’": "'", "‚": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
    "–": "-", "—": "-", "−": "-", "…": ".",
})  # fmt: skip
_KEPT = ".,;:!?'\"()-"
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")
WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def plain(text: str) -> str:
    """Return a text's prose on one line: lower case, digits as 0, without code and markup."""
    text = unicodedata.normalize("NFKC", text).translate(_SAME)
    for pattern, instead in ((_CODE, "\n"), (_LINK, r"\1"), (_ADDRESS, " "), (_LINE, "")):
        text = pattern.sub(instead, text)
    kept = (
        "0" if character.isdigit() else character
        for character in text.lower()
        if character.isalnum() or character.isspace() or character in _KEPT
    )
    return " ".join("".join(kept).split())


def words(text: str) -> list[str]:
    """Return the words of a plain text, in order."""
    return WORD.findall(text)


def pieces(texts: Iterable[str], size: int) -> list[str]:
    """Join plain texts and cut them at ends of sentences, into pieces of ``size`` words or more.

    What is left at the end is dropped when it is shorter, unless it is all there is.
    """
    found: list[str] = []
    held: list[str] = []
    count = 0
    for text in texts:
        for sentence in _SENTENCE_END.split(text):
            held.append(sentence)
            count += len(words(sentence))
            if count >= size:
                found.append(" ".join(held))
                held, count = [], 0
    return found or ([" ".join(held)] if count else [])
