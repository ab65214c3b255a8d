"""Where features are indexed: a file in the state folder, or a collection on a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.corpus.document import content_id
from llm_twin.retrieval import open_index

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.retrieval.ports import Embedder, Index
    from llm_twin.settings import Settings

FOLDER = "features"
VERSION = "features"


def path_of(settings: Settings) -> Path:
    """The file; not used with a server."""
    return settings.home / FOLDER / "index.db"


def version_of(settings: Settings, embedder: str) -> str:
    """The index's version; on a server, vectors of different lengths need different collections."""
    by_name = settings.index_url and embedder
    return f"{VERSION}-{content_id(embedder, length=8)}" if by_name else VERSION


def open_at(settings: Settings, embedder: Embedder | None) -> Index:
    """The index; one of another embedder is another collection, or a file that is made anew."""
    name = embedder.name if embedder else ""
    path, version = path_of(settings), version_of(settings, name)
    index = open_index(settings, path, version, name)
    if index.embedder == name:
        return index
    index.close()
    for end in ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)
    return open_index(settings, path, version, name)
