"""Words and vectors fused behind one port, embedded in one SQLite file or on a Qdrant server.

The names are imported when they are first used, so that ``import llm_twin.retrieval`` is light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llm_twin.retrieval.cache import CachedEmbedder
    from llm_twin.retrieval.embedders import open_embedder
    from llm_twin.retrieval.opening import open_index
    from llm_twin.retrieval.ports import Embedder, Hit, Index
    from llm_twin.retrieval.search import Retriever

__all__ = [
    "CachedEmbedder",
    "Embedder",
    "Hit",
    "Index",
    "Retriever",
    "open_embedder",
    "open_index",
]

_MODULES = {
    "CachedEmbedder": "cache",
    "Embedder": "ports",
    "Hit": "ports",
    "Index": "ports",
    "Retriever": "search",
    "open_embedder": "embedders",
    "open_index": "opening",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
