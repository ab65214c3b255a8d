"""What is done for a single document or batch, in this process or on another machine.

Ray finds these functions by their module's name. What they need is opened once in a process.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING

from llm_twin.corpus import chunk
from llm_twin.corpus.document import Chunk, content_id
from llm_twin.corpus.prepared import rules
from llm_twin.retrieval import open_embedder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llm_twin.corpus.document import Document
    from llm_twin.corpus.prepared import Prepared, Row, Run
    from llm_twin.retrieval.ports import Embedder, Vectors
    from llm_twin.settings import Settings

LARGEST_WINDOW = 256
BY_LENGTH = "by-length"
RULES = ("chunks", "atoms", "markdown", "document")


@lru_cache(2)
def embedder_of(settings: Settings) -> Embedder | None:
    """The configured embedder, opened once in a process; None means words alone."""
    return open_embedder(settings, _quiet)


def window_of(embedder: Embedder | None) -> int:
    """Most tokens of a passage."""
    return min(embedder.window, LARGEST_WINDOW) if embedder else LARGEST_WINDOW


def approximate_tokens(text: str) -> int:
    """Tokens where there is no embedder to ask: four characters each, a word at least."""
    return max(len(text) // 4, len(text.split())) + 2


def cut_key(digest: str, embedder: Embedder | None) -> str:
    """What the passages of a clean document with this digest are kept under."""
    counter = embedder.name if embedder else BY_LENGTH
    return content_id(
        "cut", rules(*RULES), digest, counter, str(window_of(embedder)), length=32
    )  # fmt: skip


def cut(given: tuple[Settings, Document]) -> Row:
    """A document's chunks, as JSON."""
    settings, document = given
    embedder = embedder_of(settings)
    count = embedder.count_tokens if embedder else approximate_tokens
    made = chunk(document, count, window_of(embedder))
    return json.dumps([item.to_dict() for item in made]), b"", b""


def chunks_in(row: Row) -> list[Chunk]:
    """Reverse of ``cut``."""
    return [Chunk.from_dict(item) for item in json.loads(row[0])]


def cut_all(
    documents: Sequence[Document], settings: Settings, prepared: Prepared, run: Run = map
) -> Iterator[Row]:
    """Yield the passages of each document, cutting only those that are not known."""
    embedder = embedder_of(settings)
    keys = (cut_key(document.digest, embedder) for document in documents)
    return prepared.rows("cut", keys, cut, lambda at: (settings, documents[at]), run)


def embed(given: tuple[Settings, list[str]]) -> Vectors:
    """Vectors of shape (len(texts), dimension); there has to be an embedder."""
    settings, texts = given
    embedder = embedder_of(settings)
    if embedder is None:
        raise ValueError("there is no embedder")
    return embedder.embed(texts)


def batches(sized: Iterable[tuple[str, list[Chunk]]], least: int) -> Iterator[
    list[tuple[str, list[Chunk]]]
]:  # fmt: skip
    """Whole documents together, so that each lot but the last has at least so many chunks."""
    held: list[tuple[str, list[Chunk]]] = []
    count = 0
    for name, chunks in sized:
        held.append((name, chunks))
        count += len(chunks)
        if count >= least:
            yield held
            held, count = [], 0
    if held:
        yield held


def _quiet(text: str) -> None:
    """Nothing: the driver's progress is told by the driver."""
