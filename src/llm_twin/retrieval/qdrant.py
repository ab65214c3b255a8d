"""The same index on a Qdrant server, for corpora that outgrow one file.

Each version has two collections: its passages, and its documents (mean vector and all terms), which
fusion needs as well. Words are sparse vectors of hashed stems with Qdrant's IDF modifier. The
aliases ``twin-production`` and ``twin-production-documents`` are switched in one request.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from qdrant_client import models

from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.retrieval.fusion import distinct, fuse
from llm_twin.retrieval.ports import Hit
from llm_twin.retrieval.qdrant_points import (
    DENSE,
    TERMS,
    WORDS,
    blamed,
    chunk_of,
    chunk_point,
    document_point,
    point_id,
)
from llm_twin.retrieval.qdrant_query import FILTERS, Question
from llm_twin.retrieval.terms import question_terms

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from qdrant_client import QdrantClient

    from llm_twin.corpus.document import Chunk
    from llm_twin.retrieval.ports import Vectors
    from llm_twin.settings import Settings

PRODUCTION = "twin-production"
DOCUMENTS = "-documents"
META = point_id("meta")
BATCH = 256
DOCUMENTS_AT_ONCE = 64
TIMEOUT = 30
MARGIN = 4


class QdrantIndex:
    """An Index on a server. Use connect, or give a client and a version."""

    def __init__(
        self, client: QdrantClient, version: str, embedder: str = "", readonly: bool = False
    ) -> None:
        """Open the version's collections.

        Raises:
            NotReadyError: readonly, and the server does not hold the version.
            RemoteError: the server does not answer.

        """
        self._client = client
        self._chunks = f"twin-{version}"
        self._documents = self._chunks + DOCUMENTS
        self.version = version
        self.embedder = embedder
        with blamed():
            exists = client.collection_exists(self._documents)
        if exists:
            self._recall()
        elif readonly:
            raise NotReadyError(
                "The Qdrant server does not hold this version", self._chunks, "Run invoke ct"
            )

    @classmethod
    def connect(
        cls, settings: Settings, version: str, embedder: str, readonly: bool = False
    ) -> QdrantIndex:
        """Open a version on the server at ``settings.index_url``.

        Raises:
            NotReadyError: readonly, and the server does not hold the version.
            RemoteError: the server does not answer.

        """
        from qdrant_client import QdrantClient

        with blamed():
            client = QdrantClient(
                url=settings.index_url,
                api_key=settings.index_key or None,
                timeout=TIMEOUT,
                check_compatibility=False,
            )
        return cls(client, version, embedder, readonly)

    def upsert(self, chunks: Sequence[Chunk], vectors: Vectors | None) -> None:
        """Add or replace chunks by id; vectors of shape (len(chunks), dimension), or None."""
        if vectors is not None and len(vectors) != len(chunks):
            raise ValueError(f"{len(vectors)} vectors for {len(chunks)} chunks")
        with blamed():
            self._ensure(0 if vectors is None else vectors.shape[1])
            rows = [None] * len(chunks) if vectors is None else list(vectors)
            points = (chunk_point(c, row) for c, row in zip(chunks, rows, strict=True))
            self._client.upload_points(self._chunks, points, batch_size=BATCH, wait=True)
            self._sum_up({chunk.document_id: chunk for chunk in chunks})

    def delete_document(self, document_id: str) -> int:
        """Remove every chunk of a document and return how many there were."""
        return self.delete_documents([document_id])

    def delete_documents(self, document_ids: Iterable[str]) -> int:
        """Remove every chunk of many documents and return how many there were."""
        gone, left = 0, iter(document_ids)
        with blamed():
            while self._exists() and (some := list(islice(left, BATCH))):
                theirs = _of(some)
                gone += self._client.count(self._chunks, count_filter=theirs, exact=True).count
                self._client.delete(self._chunks, models.FilterSelector(filter=theirs), wait=True)
                points = models.PointIdsList(points=[point_id(one) for one in some])
                self._client.delete(self._documents, points, wait=True)
        return gone

    def documents(self) -> dict[str, str]:
        """Document ids held, each with the digest its chunks were made from."""
        with blamed():
            payloads = [record.payload or {} for record in self._scroll(self._documents)]
        return {
            str(payload["document_id"]): str(payload["document_digest"])
            for payload in payloads
            if "document_id" in payload
        }

    def search(
        self,
        text: str,
        vector: Vectors | None,
        k: int = 5,
        where: Mapping[str, str] | None = None,
    ) -> list[Hit]:
        """Return the k best chunks for a question, best first; see Index.search."""
        stems = list(question_terms(text))
        condition = _filter(where or {})
        if k < 1 or (not stems and vector is None):
            return []
        with blamed():
            if not self._exists():
                return []
            question = Question(self._client, self._chunks, self._documents, stems, vector)
            found, evidence = question.evidence(condition, MARGIN + MARGIN * k)
        scores = fuse(evidence)
        order = sorted(range(len(found)), key=lambda row: -scores[row])
        hits = (
            Hit(
                chunk=chunk_of(found[row]),
                score=float(scores[row]),
                words=float(evidence.coverage[row]),
                cosine=float(evidence.cosine[row]),
            )
            for row in order
        )
        return distinct(hits, k)

    def count(self) -> int:
        """How many chunks are held."""
        with blamed():
            return self._client.count(self._chunks, exact=True).count if self._exists() else 0

    def chunks(self) -> list[Chunk]:
        """Every chunk held, in the order of document and position."""
        with blamed():
            found = [chunk_of(record.payload or {}) for record in self._scroll(self._chunks)]
        return sorted(found, key=lambda chunk: (chunk.document_id, chunk.position))

    def promote(self, version: str) -> None:
        """Point the production aliases here, and the version's own, all in one request."""
        with blamed():
            if not self._exists():
                raise NotReadyError("The index is empty", self._chunks, "Run invoke ct")
            held = {alias.alias_name for alias in self._client.get_aliases().aliases}
            wanted = {PRODUCTION: self._chunks, PRODUCTION + DOCUMENTS: self._documents}
            if f"twin-{version}" != self._chunks:
                wanted[f"twin-{version}"] = self._chunks
                wanted[f"twin-{version}{DOCUMENTS}"] = self._documents
            self.version = version
            self._remember()
            self._client.update_collection_aliases([*_dropped(held & set(wanted)), *_made(wanted)])

    def close(self) -> None:
        """Release the connection."""
        self._client.close()

    def __enter__(self) -> QdrantIndex:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exists(self) -> bool:
        return self._client.collection_exists(self._documents)

    def _ensure(self, dimension: int) -> None:
        """Make the collections at the first upsert, which tells how long a vector is."""
        if self._exists():
            return
        size = models.VectorParams(size=dimension, distance=models.Distance.COSINE)
        sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
        for name, fields in ((self._chunks, (WORDS, TERMS)), (self._documents, (TERMS,))):
            if not self._client.collection_exists(name):
                self._client.create_collection(
                    name,
                    vectors_config={DENSE: size} if dimension else {},
                    sparse_vectors_config=dict.fromkeys(fields, sparse),
                )
        for field in FILTERS:
            self._client.create_payload_index(
                self._chunks, field, models.PayloadSchemaType.KEYWORD, wait=True
            )
        self._remember()

    def _remember(self) -> None:
        """Keep the version and the embedder's name in a point that has no vectors."""
        payload = {"version": self.version, "embedder": self.embedder}
        point = models.PointStruct(id=META, vector={}, payload=payload)
        self._client.upsert(self._documents, [point], wait=True)

    def _recall(self) -> None:
        with blamed():
            found = self._client.retrieve(self._documents, [META], with_payload=True)
        payload = (found[0].payload if found else None) or {}
        self.version = str(payload.get("version", self.version))
        self.embedder = str(payload.get("embedder", self.embedder))

    def _sum_up(self, written: Mapping[str, Chunk]) -> None:
        """Write the documents' own points anew from the passages that the server holds of them."""
        left = iter(written)
        while some := list(islice(left, DOCUMENTS_AT_ONCE)):
            parts: dict[str, list[Any]] = {document: [] for document in some}
            for record in self._scroll(self._chunks, _of(some), vectors=True):
                parts[(record.payload or {})["document_id"]].append(record.vector)
            points = [document_point(written[one], vectors) for one, vectors in parts.items()]
            self._client.upsert(self._documents, points, wait=True)

    def _scroll(
        self, collection: str, condition: models.Filter | None = None, vectors: bool = False
    ) -> Iterator[models.Record]:
        if not self._exists():
            return
        offset = None
        while True:
            records, offset = self._client.scroll(
                collection,
                scroll_filter=condition,
                limit=BATCH,
                offset=offset,
                with_payload=True,
                with_vectors=vectors,
            )
            yield from records
            if offset is None:
                return


def _filter(where: Mapping[str, str]) -> models.Filter | None:
    for key in where:
        if key not in FILTERS:
            raise ConfigError("Not a field to filter by", repr(key), f"Use {', '.join(FILTERS)}")
    return _matching(where) if where else None


def _of(documents: Sequence[str]) -> models.Filter:
    wanted = models.MatchAny(any=list(documents))
    return models.Filter(must=[models.FieldCondition(key="document_id", match=wanted)])


def _matching(where: Mapping[str, str]) -> models.Filter:
    return models.Filter(
        must=[
            models.FieldCondition(key=key, match=models.MatchValue(value=value))
            for key, value in where.items()
        ]
    )


def _dropped(names: Iterable[str]) -> list[models.DeleteAliasOperation]:
    return [
        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name))
        for name in sorted(names)
    ]


def _made(wanted: Mapping[str, str]) -> list[models.CreateAliasOperation]:
    return [
        models.CreateAliasOperation(
            create_alias=models.CreateAlias(alias_name=name, collection_name=collection)
        )
        for name, collection in wanted.items()
    ]
