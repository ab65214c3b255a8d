"""A text that repeats a question, as a command's example does, does not answer it thereby."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.retrieval.ports import Embedder, Hit


def without_echoes(question: str, hits: Sequence[Hit], embedder: Embedder | None) -> list[Hit]:
    """Return the hits as they are to be judged: the question itself taken out of their texts.

    Only the whole question with its question mark counts, and only in a passage's text: a heading
    that asks it is answered below.
    """
    echo = pattern(question)
    return [_without(echo, question, hit, embedder) for hit in hits]


def pattern(question: str) -> re.Pattern[str]:
    """Match the question in a text, whatever its case and line breaks."""
    words = re.findall(r"[^\s?]+", question)
    return re.compile(r"\s+".join(map(re.escape, words)) + r"\s*\?", re.IGNORECASE)


def _without(echo: re.Pattern[str], question: str, hit: Hit, embedder: Embedder | None) -> Hit:
    text = echo.sub("", hit.chunk.text)
    if text == hit.chunk.text:
        return hit
    chunk = replace(hit.chunk, text=text)
    if embedder is None:
        return replace(hit, chunk=chunk)
    vectors = embedder.embed([question, chunk.passage])
    return replace(hit, chunk=chunk, cosine=float(vectors[0] @ vectors[1]))
