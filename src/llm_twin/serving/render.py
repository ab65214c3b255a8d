"""Answers and passages as a person reads them in a terminal, and as a program does."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.retrieval.ports import Hit
    from llm_twin.serving.answer import Answer
    from llm_twin.serving.citations import Citation


BEGINNING = 160


def render(found: Answer) -> str:
    """Return the text, the numbered sources and where it comes from, as lines."""
    parts = [found.text]
    if found.citations:
        parts.append("\n".join(map(_source, found.citations, range(1, len(found.citations) + 1))))
    label = _label(found)
    if label:
        parts.append(label)
    return "\n\n".join(parts)


def found_passages(hits: Sequence[Hit]) -> list[dict[str, object]]:
    """Hits as plain JSON types, best first."""
    return [
        {
            "title": hit.chunk.title,
            "headings": list(hit.chunk.headings),
            "link": hit.chunk.link,
            "text": hit.chunk.text,
            "score": round(float(hit.score), 4),
            "words": round(float(hit.words), 4),
            "cosine": round(float(hit.cosine), 4),
        }
        for hit in hits
    ]


def render_passages(hits: Sequence[Hit]) -> str:
    """Hits as lines: score, where it stands, how it begins."""
    if not hits:
        return "nothing found"
    return "\n".join(
        f"{hit.score:.2f}  {hit.chunk.prefix}\n      {hit.chunk.link}\n"
        f"      {textwrap.shorten(hit.chunk.text, BEGINNING, placeholder=' …')}"
        for hit in hits
    )


def _source(citation: Citation, number: int) -> str:
    place = f"{citation.title} > {citation.heading}" if citation.heading else citation.title
    return f"[{number}] {place}\n    {citation.link}" if citation.link else f"[{number}] {place}"


def _label(found: Answer) -> str:
    if found.abstained:
        return ""
    origin = f"Written by {found.model}" if found.model else "Quoted from the author's texts"
    return f"({origin}; confidence {found.confidence:.2f}{f'; {found.note}' if found.note else ''})"
