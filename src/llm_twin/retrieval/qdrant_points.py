"""Chunks and documents as Qdrant points, and Qdrant's failures as ours."""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from qdrant_client import models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from llm_twin.corpus.document import Chunk
from llm_twin.errors import ConfigError, RemoteError
from llm_twin.retrieval.terms import stems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from llm_twin.retrieval.ports import Vectors

DENSE, WORDS, TERMS = "vector", "words", "terms"
FIELD_WEIGHTS = (2.0, 1.5, 1.0)
SATURATION, LENGTH_SHARE, USUAL_LENGTH = 1.2, 0.75, 150


def point_id(name: str) -> int:
    """Return a stable 63-bit id for any name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1


def term_id(stem: str) -> int:
    """Return a stem's place in the sparse vectors: 32 bits, so that clashes are rare."""
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4])


def chunk_point(chunk: Chunk, vector: Vectors | None) -> models.PointStruct:
    """A passage: its vector, its words as BM25 weighs them, and its set of terms."""
    fields = [stems(text) for text in (chunk.title, " ".join(chunk.headings), chunk.text)]
    counts: Counter[int] = Counter()
    for weight, field in zip(FIELD_WEIGHTS, fields, strict=True):
        for stem in field:
            counts[term_id(stem)] += weight  # type: ignore[assignment]
    length = sum(map(len, fields)) / USUAL_LENGTH
    damping = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * length)
    values = [count * (SATURATION + 1) / (count + damping) for count in counts.values()]
    vectors: dict[str, Any] = {
        WORDS: models.SparseVector(indices=list(counts), values=values),
        TERMS: ones(list(counts)),
    }
    if vector is not None:
        vectors[DENSE] = np.asarray(vector, np.float32).tolist()
    return models.PointStruct(id=point_id(chunk.id), vector=vectors, payload=chunk.to_dict())


def document_point(one: Chunk, parts: Sequence[Any]) -> models.PointStruct:
    """A document: the mean of its passages' vectors and all their terms."""
    vectors: dict[str, Any] = {
        TERMS: ones(sorted({index for part in parts for index in part[TERMS].indices}))
    }
    dense = [part[DENSE] for part in parts if DENSE in part]
    if dense:
        vectors[DENSE] = np.mean(np.array(dense, np.float32), axis=0).tolist()
    payload = {"document_id": one.document_id, "document_digest": one.document_digest}
    return models.PointStruct(id=point_id(one.document_id), vector=vectors, payload=payload)


def ones(indices: list[int]) -> models.SparseVector:
    """A set of terms."""
    return models.SparseVector(indices=indices, values=[1.0] * len(indices))


def chunk_of(payload: Mapping[str, Any]) -> Chunk:
    """Reverse of a passage's payload."""
    return Chunk.from_dict(dict(payload))


@contextmanager
def blamed() -> Iterator[None]:
    """Turn what the client says into an error that says what to do."""
    hint = "Check TWIN_INDEX_URL and that the server runs, or unset it to use one file"
    try:
        yield
    except UnexpectedResponse as error:
        if error.status_code in (401, 403):
            raise ConfigError(
                "The Qdrant server refuses the key", "TWIN_INDEX_KEY", "Set it to the API key"
            ) from None
        raise RemoteError(
            f"The Qdrant server answered HTTP {error.status_code}", "TWIN_INDEX_URL", hint
        ) from None
    except ResponseHandlingException as error:
        reason = type(error.source).__name__
        raise RemoteError(
            f"The Qdrant server does not answer ({reason})", "TWIN_INDEX_URL", hint
        ) from None
