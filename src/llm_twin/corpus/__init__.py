"""Documents in: sources, extraction, cleaning, chunking.

::

    source = open_source("docs/", settings)
    collected = source.read(cache, progress)
    cleaned = clean(collected.documents)
    chunks = [c for document in cleaned.documents for c in chunk(document, count_tokens, 256)]

Names are loaded on first use: importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.chunks import chunk
    from llm_twin.corpus.cleaning import Cleaned, clean
    from llm_twin.corpus.document import Chunk, Document
    from llm_twin.corpus.ports import Collected, Skipped, Source
    from llm_twin.corpus.sources import open_source

__all__ = [
    "Chunk",
    "Cleaned",
    "Collected",
    "Document",
    "DocumentCache",
    "Skipped",
    "Source",
    "chunk",
    "clean",
    "open_source",
]

_HOMES = {
    "Chunk": "document",
    "Cleaned": "cleaning",
    "Collected": "ports",
    "Document": "document",
    "DocumentCache": "cache",
    "Skipped": "ports",
    "Source": "ports",
    "chunk": "chunks",
    "clean": "cleaning",
    "open_source": "sources",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
