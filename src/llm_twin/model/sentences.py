"""Sentences of prose in any script, and cuts that end where a sentence ends.

Passages hold code, lists and tables too: those lines are no sentences and are never cut into.
"""

from __future__ import annotations

import re
from itertools import pairwise

_CLOSING = "\"'”’»)\\]』」"
_ENDS = re.compile(
    rf"(?<=[.!?…؟۔।॥;])[{_CLOSING}]*[ \t]+(?![a-zà-ÿ])|(?<=[。！？｡])[{_CLOSING}]*(?=\S)|\n+"
)
_ENDED = re.compile(rf"[.!?…؟۔।॥;:。！？｡：][{_CLOSING}*_]*$")
_NUMBER = re.compile(r"\n\s*(\d+[.)]|[-*+])$")
CAPTION = 120
_FENCE = re.compile(r"^(`{3,}|~{3,}).*?^\1[ \t]*$", re.MULTILINE | re.DOTALL)
_NOT_PROSE = re.compile(r"^\s*([-*+|#>]|\d+[.)] |`{3}|\$\$)")
_ABBREVIATED = re.compile(r"(\b(e\.g|i\.e|etc|vs|cf|Mr|Mrs|Dr|Fig|al|z\.B|d\.h)|^\d{1,3})\.$")
_DENSE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]")
_GREEK = re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]")
_QUESTION = re.compile(rf"[?？؟;][{_CLOSING}*_]*$")


def size(text: str) -> int:
    """Characters, where one of Chinese, Japanese or Korean counts as three: it says as much."""
    return len(text) + 2 * len(_DENSE.findall(text))


def sentences(text: str) -> list[str]:
    """The sentences of a text's prose in order; code, lists, tables and headings are left out."""
    return [
        sentence
        for paragraph in paragraphs(text)
        if not _NOT_PROSE.match(paragraph) and not _is_caption(paragraph)
        for sentence in _cut(paragraph)
    ]


def _is_caption(paragraph: str) -> bool:
    """Whether a short line ends as no sentence does: a subtitle, or what stands under a picture."""
    return size(paragraph) < CAPTION and not _ENDED.search(paragraph)


def paragraphs(text: str) -> list[str]:
    """The lines of a text that are not in code blocks."""
    return [line.strip() for line in _FENCE.sub("\n", text).split("\n") if line.strip()]


def _cut(line: str) -> list[str]:
    found: list[str] = []
    for start, end in pairwise([0, *_places(line), len(line)]):
        part = line[start:end].strip()
        if found and _ABBREVIATED.search(found[-1]):
            found[-1] = f"{found[-1]} {part}"
        elif part:
            found.append(part)
    return found


def _places(line: str) -> list[int]:
    """Where sentences end; a semicolon ends one in Greek alone, where it asks."""
    return [
        match.end()
        for match in _ENDS.finditer(line)
        if line[match.start() - 1] != ";" or _GREEK.search(line[: match.start()])
    ]


def is_question(sentence: str) -> bool:
    """Whether a sentence asks; in Greek a semicolon does."""
    if not _QUESTION.search(sentence):
        return False
    return "?" in sentence[-4:] or ";" not in sentence[-4:] or bool(_GREEK.search(sentence))


def cut(text: str, longest: int) -> str:
    """The beginning of a text, at most so many characters, ending with a paragraph or sentence.

    Where none ends in the second half, it ends with a word; a text without spaces is cut anywhere.
    """
    if len(text) <= longest:
        return text
    head = text[:longest]
    ends = [match.start() for match in _ENDS.finditer(head)]
    if ends and ends[-1] >= longest // 2:
        return _closed(_NUMBER.sub("", head[: ends[-1]].rstrip()))
    spaces = head.rfind(" ")
    return _closed(head[: spaces if spaces >= longest // 2 else longest].rstrip())


def _closed(text: str) -> str:
    """Close a code block that the cut left open."""
    fences = re.findall(r"^(`{3,})", text, re.MULTILINE)
    return f"{text}\n{fences[-1]}" if len(fences) % 2 else text
