"""The two ports of retrieval: what turns text into vectors, and what finds chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from llm_twin.corpus.document import Chunk

    Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def name(self) -> str:
        """Identifies the vector space; stored with an index."""
        ...

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        ...

    @property
    def window(self) -> int:
        """Most tokens of a text that are embedded, special tokens included."""
        ...

    def count_tokens(self, text: str) -> int:
        """Tokens of the text in this embedder's own vocabulary, special tokens included."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), dimension), each of length 1."""
        ...


@dataclass(frozen=True)
class Hit:
    """A chunk found for a question.

    Attributes:
        chunk: the passage.
        score: the fused score that orders hits, higher is better.
        words: the share from words, 0..1.
        cosine: similarity of question and passage, -1..1; 0 without an embedder.

    """

    chunk: Chunk
    score: float
    words: float
    cosine: float


class Index(Protocol):
    """A searchable set of chunks at one version; every write is durable when it returns."""

    @property
    def version(self) -> str:
        """The version its content stands for."""
        ...

    @property
    def embedder(self) -> str:
        """Name of the embedder that made its vectors; ``words`` or "" if there are none."""
        ...

    def upsert(self, chunks: Sequence[Chunk], vectors: Vectors | None) -> None:
        """Add or replace chunks by id; vectors of shape (len(chunks), dimension), or None."""
        ...

    def delete_document(self, document_id: str) -> int:
        """Remove every chunk of a document and return how many there were."""
        ...

    def delete_documents(self, document_ids: Iterable[str]) -> int:
        """Remove every chunk of many documents at once and return how many there were."""
        ...

    def documents(self) -> dict[str, str]:
        """Document ids held, each with the digest its chunks were made from."""
        ...

    def search(
        self,
        text: str,
        vector: Vectors | None,
        k: int = 5,
        where: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """Return the k best chunks for a question, best first.

        Args:
            text: the question; any characters, never parsed as query syntax.
            vector: its embedding of shape (dimension,), or None to search by words alone.
            k: most hits to return.
            where: equality filter over ``document_id``, ``title`` or ``link``.

        """
        ...

    def count(self) -> int:
        """How many chunks are held."""
        ...

    def chunks(self) -> list[Chunk]:
        """Every chunk held, in the order of document and position."""
        ...

    def promote(self, version: str) -> None:
        """Make this content the production version under that name, atomically."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...
