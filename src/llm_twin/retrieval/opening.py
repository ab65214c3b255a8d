"""Opens the index that the settings name: the bundle's own file, or a Qdrant server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.retrieval.ports import Index
    from llm_twin.settings import Settings


def open_index(
    settings: Settings, path: Path, version: str, embedder_name: str, readonly: bool = False
) -> Index:
    """Open the index of a version, made empty first if there is none and readonly is false.

    Args:
        settings: ``index_url`` chooses: empty is the SQLite file at path, else a Qdrant server.
        path: the SQLite file; not used with a server.
        version: the version its content stands for.
        embedder_name: ``Embedder.name``, or ``words`` without one; kept with a new index. One
            that is there keeps its own: compare ``index.embedder``, as Retriever does.
        readonly: open for answering alone.

    Raises:
        NotReadyError: readonly, and there is no such index.
        ConfigError: the file is not an index.
        RemoteError: the server does not answer.

    """
    if settings.index_url:
        from llm_twin.retrieval.qdrant import QdrantIndex

        return QdrantIndex.connect(settings, version, embedder_name, readonly)
    from llm_twin.retrieval.sqlite import SqliteIndex

    if not readonly and not path.exists():
        return SqliteIndex.create(path, version, embedder_name)
    index = SqliteIndex.open(path, readonly)
    if not readonly and index.version != version:
        index.promote(version)
    return index
