"""What callers use: a question in, the best chunks out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llm_twin.retrieval.ports import Embedder, Hit, Index


class Retriever:
    """Embeds a question and searches an index; without an embedder, by words alone."""

    def __init__(self, index: Index, embedder: Embedder | None) -> None:
        """Pair them.

        Raises:
            ConfigError: the index was made with another embedder than this one.

        """
        if embedder is not None and index.embedder != embedder.name:
            raise ConfigError(
                f"The index was made with embedder {index.embedder or 'words'!r}",
                f"TWIN_EMBEDDER is now {embedder.name!r}",
                "Run invoke ct to make the index again, or set TWIN_EMBEDDER back",
            )
        self.index = index
        self.embedder = embedder

    def search(
        self, question: str, k: int = 5, where: Mapping[str, str] | None = None
    ) -> list[Hit]:
        """Return the k best chunks, best first; see Index.search."""
        vector = None
        if self.embedder is not None and question.strip():
            vector = self.embedder.embed([question])[0]
        return self.index.search(question, vector, k, where)
