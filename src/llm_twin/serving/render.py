"""An answer as a person reads it in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_twin.serving.answer import Answer
    from llm_twin.serving.citations import Citation


def render(found: Answer) -> str:
    """Return the text, the numbered sources and where it comes from, as lines."""
    parts = [found.text]
    if found.citations:
        parts.append("\n".join(map(_source, found.citations, range(1, len(found.citations) + 1))))
    label = _label(found)
    if label:
        parts.append(label)
    return "\n\n".join(parts)


def _source(citation: Citation, number: int) -> str:
    place = f"{citation.title} > {citation.heading}" if citation.heading else citation.title
    return f"[{number}] {place}\n    {citation.link}" if citation.link else f"[{number}] {place}"


def _label(found: Answer) -> str:
    if found.abstained:
        return ""
    origin = f"Written by {found.model}" if found.model else "Quoted from the author's texts"
    return f"({origin}; confidence {found.confidence:.2f}{f'; {found.note}' if found.note else ''})"
