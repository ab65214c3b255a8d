"""Any sentence-transformers model as the embedder, for teams that already run torch."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Protocol

import numpy as np

from llm_twin.errors import NotReadyError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.retrieval.ports import Vectors


class _Tokenizer(Protocol):
    def encode(self, text: str) -> Sequence[int]: ...


class _Model(Protocol):
    max_seq_length: int
    tokenizer: _Tokenizer

    def encode(
        self, sentences: list[str], *, normalize_embeddings: bool, show_progress_bar: bool
    ) -> Vectors: ...

    def get_sentence_embedding_dimension(self) -> int: ...


class SentenceTransformerEmbedder:
    """Wraps a loaded model; its window is the model's own ``max_seq_length``."""

    def __init__(self, name: str, model: _Model) -> None:
        self.name = f"sentence-transformers:{name}"
        self.window = int(model.max_seq_length)
        self.dimension = int(model.get_sentence_embedding_dimension())
        self._model = model

    @classmethod
    def open(cls, name: str) -> SentenceTransformerEmbedder:
        """Load a model by its name on the hub, or from a folder.

        Raises:
            NotReadyError: the package is not installed.

        """
        if importlib.util.find_spec("sentence_transformers") is None:
            raise NotReadyError(
                "sentence-transformers is not installed",
                f"TWIN_EMBEDDER=sentence-transformers:{name}",
                "Run: pip install sentence-transformers, or set TWIN_EMBEDDER=minilm",
            )
        package = importlib.import_module("sentence_transformers")
        return cls(name, package.SentenceTransformer(name))

    def count_tokens(self, text: str) -> int:
        """Tokens in the model's vocabulary, special tokens included."""
        return len(self._model.tokenizer.encode(text))

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return float32 vectors of shape (len(texts), dimension), each of length 1."""
        if not texts:
            return np.zeros((0, self.dimension), np.float32)
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, np.float32)
