"""One question to a Qdrant server: who are the candidates, and what speaks for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from qdrant_client import models

from llm_twin.retrieval.fusion import Evidence, rarity
from llm_twin.retrieval.qdrant_points import DENSE, TERMS, WORDS, ones, point_id, term_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qdrant_client import QdrantClient

    from llm_twin.retrieval.ports import Vectors

    Points = list[models.ScoredPoint]
    Scores = dict[int, float]

FILTERS = ("document_id", "title", "link")
CANDIDATES = 60


class Question:
    """Three requests: candidates, all their scores, and their documents' scores."""

    def __init__(
        self,
        client: QdrantClient,
        chunks: str,
        documents: str,
        stems: Sequence[str],
        vector: Vectors | None,
    ) -> None:
        self._client = client
        self._chunks = chunks
        self._documents = documents
        self._terms = sorted({term_id(stem) for stem in stems})
        self._asked: dict[str, Any] = {WORDS: ones(self._terms), TERMS: ones(self._terms)}
        if not self._terms:
            self._asked = {}
        if vector is not None and self._has_vectors():
            self._asked[DENSE] = np.asarray(vector, np.float32).tolist()

    def evidence(
        self, condition: models.Filter | None, least: int
    ) -> tuple[list[Mapping[str, Any]], Evidence]:
        """Return the candidates' payloads and what speaks for each, in the same order."""
        kinds = [kind for kind in (DENSE, WORDS) if kind in self._asked]
        most = max(CANDIDATES, least)
        first = self._ask(self._chunks, kinds, condition, most, self._terms, payload=True)
        found = {int(p.id): p.payload or {} for points in first[: len(kinds)] for p in points}
        total = self._rarities(self._chunks, first[len(kinds) :])
        second = self._scores(self._chunks, (DENSE, WORDS, TERMS), found)
        owners = {one: point_id(str(payload["document_id"])) for one, payload in found.items()}
        third = self._scores(self._documents, (DENSE, TERMS), set(owners.values()))
        documents = self._ask(self._documents, [], None, 1, self._terms)
        document_total = self._rarities(self._documents, documents)

        def column(scores: Scores, ids: Iterable[int], total: float = 1.0) -> Any:
            return np.array([scores.get(one, 0.0) for one in ids]) / total

        return list(found.values()), Evidence(
            bm25=column(second[WORDS], found),
            coverage=column(second[TERMS], found, total),
            cosine=column(second[DENSE], found),
            document_coverage=column(third[TERMS], owners.values(), document_total),
            document_cosine=column(third[DENSE], owners.values()),
        )

    def _has_vectors(self) -> bool:
        held = self._client.get_collection(self._chunks).config.params.vectors
        return isinstance(held, dict) and DENSE in held

    def _scores(
        self, collection: str, kinds: Sequence[str], ids: Iterable[int]
    ) -> dict[str, Scores]:
        """Exact scores of just these points, by kind."""
        wanted = list(ids)
        asked = [kind for kind in kinds if kind in self._asked]
        scores: dict[str, Scores] = {kind: {} for kind in kinds}
        if wanted and asked:
            only = models.Filter(must=[models.HasIdCondition(has_id=list(wanted))])
            answers = self._ask(collection, asked, only, len(wanted))
            for kind, points in zip(asked, answers, strict=True):
                scores[kind] = {int(point.id): point.score for point in points}
        return scores

    def _rarities(self, collection: str, answers: Sequence[Points]) -> float:
        """Sum of the question's rarities: a lone term's best score in a set of ones is its own."""
        count = self._client.count(collection, exact=True).count
        return sum(
            (points[0].score if points else rarity(count, 0) for points in answers), start=1e-12
        )

    def _ask(
        self,
        collection: str,
        kinds: Sequence[str],
        condition: models.Filter | None,
        limit: int,
        lone: Sequence[int] = (),
        payload: bool = False,
    ) -> list[Points]:
        """One request for the best points by each kind, then for the best one by each lone term."""
        requests = [
            models.QueryRequest(
                query=self._asked[kind],
                using=kind,
                filter=condition,
                limit=limit,
                with_payload=payload,
            )
            for kind in kinds
        ]
        requests += [models.QueryRequest(query=ones([term]), using=TERMS, limit=1) for term in lone]
        if not requests:
            return []
        answers = self._client.query_batch_points(collection, requests)
        return [list(answer.points) for answer in answers]
