"""Opens the embedder that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_twin.retrieval.ports import Embedder
    from llm_twin.settings import Settings


def open_embedder(settings: Settings, progress: Callable[[str], object] = print) -> Embedder | None:
    """Return the embedder named by ``settings.embedder``; None means words alone.

    Raises:
        ConfigError: the name is none of the four kinds, or MiniLM's folder holds other weights.
        NotReadyError: sentence-transformers is named but not installed.
        RemoteError: MiniLM's weights could not be fetched.

    """
    kind, _, model = settings.embedder.partition(":")
    if kind == "words" and not model:
        return None
    if kind == "minilm" and not model:
        from llm_twin.retrieval.minilm import MiniLM

        return MiniLM.open(settings, progress)
    if kind == "sentence-transformers" and model:
        from llm_twin.retrieval.sentence_transformer import SentenceTransformerEmbedder

        return SentenceTransformerEmbedder.open(model)
    if kind == "openai" and model:
        from llm_twin.retrieval.openai import OpenAIEmbedder

        return OpenAIEmbedder(settings.embedder_url, model, settings.embedder_key)
    raise ConfigError(
        "TWIN_EMBEDDER is not an embedder",
        repr(settings.embedder),
        "Use minilm, words, sentence-transformers:MODEL or openai:MODEL",
    )
