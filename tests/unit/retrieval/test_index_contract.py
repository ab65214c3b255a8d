"""What every index promises, on the SQLite file and on Qdrant's engine in memory."""

from __future__ import annotations

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from qdrant_client import QdrantClient

from llm_twin.corpus.document import Chunk
from llm_twin.errors import ConfigError, NotReadyError, RemoteError
from llm_twin.retrieval import Embedder, Index, Retriever, open_index
from llm_twin.retrieval.qdrant import PRODUCTION, QdrantIndex
from llm_twin.retrieval.sqlite import SqliteIndex
from llm_twin.settings import Settings

pytestmark = [
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect"),
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
]

BREAD = "Sourdough rises slowly because wild yeast works at its own pace in a cool kitchen."
TEA = "Green tea turns bitter when the water boils; eighty degrees keep it sweet."
BIKE = "A loose chain jumps over the sprocket, so tighten the rear axle of the bicycle first."


def chunk(document: str, text: str, title: str = "", position: int = 0, digest: str = "1") -> Chunk:
    return Chunk(
        document_id=document,
        document_digest=digest,
        title=title or document.title(),
        headings=("Notes", f"About {document}"),
        text=text,
        link=f"https://example.org/{document}",
        position=position,
    )


CHUNKS = [chunk("bread", BREAD), chunk("tea", TEA), chunk("bike", BIKE)]


@pytest.fixture(params=["sqlite", "qdrant"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    if request.param == "sqlite":
        return SqliteIndex.create(tmp_path / "index.db", "v1", "minilm-int8")
    return QdrantIndex(QdrantClient(":memory:"), "v1", "minilm-int8")


@pytest.fixture
def index(empty: Index, minilm: Embedder) -> Index:
    empty.upsert(CHUNKS, minilm.embed([one.passage for one in CHUNKS]))
    return empty


def found(index: Index, question: str, embedder: Embedder | None, **options: object) -> list[str]:
    hits = Retriever(index, embedder).search(question, **options)  # type: ignore[arg-type]
    return [hit.chunk.document_id for hit in hits]


def test_many_documents_are_deleted_at_once(index: Index) -> None:
    assert index.delete_documents(["tea", "no such", "bike"]) == 2
    assert index.documents() == {"bread": "1"}
    assert index.delete_documents([]) == 0


def test_a_document_written_in_two_goes_is_one(index: Index, minilm: Embedder) -> None:
    more = [chunk("tea", "White tea wants even less.", position=1), chunk("rope", "It is laid.")]
    index.upsert(more, minilm.embed([one.passage for one in more]))
    assert found(index, "green tea eighty degrees", minilm)[0] == "tea"
    assert set(index.documents()) == {"bread", "tea", "bike", "rope"}
    assert index.count() == 5


def test_finds_by_word_and_by_meaning(index: Index, minilm: Embedder) -> None:
    assert found(index, "sprocket", minilm)[0] == "bike"
    assert found(index, "how hot should I brew my drink?", minilm)[0] == "tea"
    assert found(index, "fixing a two-wheeler", minilm)[0] == "bike"


def test_words_alone_find_only_what_has_a_word(index: Index) -> None:
    assert found(index, "Why does the yeast work slowly?", None) == ["bread"]
    assert found(index, "tightening axles", None) == ["bike"]
    assert found(index, "quantum chromodynamics", None) == []


def test_hits_carry_whole_chunks_and_shares(index: Index, minilm: Embedder) -> None:
    best = Retriever(index, minilm).search("bitter green tea", k=1)[0]
    assert best.chunk == CHUNKS[1]
    assert best.words == pytest.approx(1.0)
    assert 0.3 < best.cosine <= 1.0
    words = Retriever(index, None).search("bitter dragons", k=1)[0]
    assert 0 < words.words < 1
    assert words.cosine == 0


def test_scores_fall(index: Index, minilm: Embedder) -> None:
    scores = [hit.score for hit in Retriever(index, minilm).search("tea and bread", k=3)]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("k", [-1, 0, 1, 2, 3, 50])
def test_k_is_the_most(index: Index, minilm: Embedder, k: int) -> None:
    assert len(found(index, "kitchen", minilm, k=k)) == max(0, min(k, 3))


@pytest.mark.parametrize(
    "where", [{"document_id": "tea"}, {"title": "Tea"}, {"link": "https://example.org/tea"}]
)
def test_where_keeps_to_its_field(index: Index, minilm: Embedder, where: dict[str, str]) -> None:
    assert found(index, "wild yeast sourdough", minilm, where=where) == ["tea"]
    assert found(index, "water", None, where=where) == ["tea"]
    assert found(index, "yeast", None, where={**where, "document_id": "bread"}) == (
        [] if "document_id" not in where else ["bread"]
    )


def test_where_matches_nothing(index: Index, minilm: Embedder) -> None:
    assert found(index, "tea", minilm, where={"title": "No such title"}) == []


def test_where_refuses_other_fields(index: Index, minilm: Embedder) -> None:
    with pytest.raises(ConfigError, match=r"Not a field to filter by: 'text'\. Use document_id"):
        found(index, "tea", minilm, where={"text": "x"})


@pytest.mark.parametrize(
    "question",
    [
        '"',
        'tea" OR "bread',
        "NEAR(a b)",
        "title:tea",
        "tea*",
        "^tea",
        "-",
        "AND",
        "a NOT b",
        "(",
        "'",
    ],
)
def test_questions_are_never_query_syntax(index: Index, minilm: Embedder, question: str) -> None:
    assert len(found(index, question, minilm)) == 3
    assert set(found(index, question, None)) <= {"tea", "bread"}


@pytest.mark.parametrize("question", ["", "   ", "\n\t", "\x00"])
def test_an_empty_question_finds_nothing_by_words(index: Index, question: str) -> None:
    assert found(index, question, None) == []


@pytest.mark.parametrize(
    "question", ["😀🥖", "日本語の質問", "\ud800 tea", "tea " * 2500, "x" * 10_000, "how is it?"]
)
def test_any_characters_are_a_question(index: Index, minilm: Embedder, question: str) -> None:
    assert len(found(index, question, minilm)) == 3
    assert len(found(index, question, None)) <= 3


def test_many_different_words(index: Index, minilm: Embedder) -> None:
    question = " ".join(f"word{number}" for number in range(2000))
    assert len(found(index, f"tea {question}", minilm)) == 3
    assert found(index, f"tea {question}", None) == ["tea"]


def test_an_empty_index(empty: Index, minilm: Embedder) -> None:
    assert found(empty, "tea", minilm) == []
    assert found(empty, "tea", None) == []
    assert (empty.count(), empty.documents(), empty.chunks()) == (0, {}, [])
    assert empty.delete_document("tea") == 0


def test_upsert_replaces_by_id(index: Index, minilm: Embedder) -> None:
    edited = chunk("tea", TEA, digest="2")
    index.upsert([edited], minilm.embed([edited.passage]))
    assert index.count() == 3
    assert index.documents() == {"bread": "1", "tea": "2", "bike": "1"}


def test_chunks_come_back_in_order(index: Index, minilm: Embedder) -> None:
    more = chunk("tea", "Second flush teas are picked in June.", position=1)
    index.upsert([more], minilm.embed([more.passage]))
    assert index.chunks() == [CHUNKS[2], CHUNKS[0], CHUNKS[1], more]


def test_delete_leaves_nothing(index: Index, minilm: Embedder) -> None:
    assert index.delete_document("tea") == 1
    assert index.count() == 2
    assert index.documents() == {"bread": "1", "bike": "1"}
    assert "tea" not in found(index, "green tea bitter water", minilm)
    assert found(index, "bitter", None) == []
    assert index.delete_document("tea") == 0


def test_vectors_must_fit_chunks(empty: Index) -> None:
    with pytest.raises(ValueError, match="1 vectors for 3 chunks"):
        empty.upsert(CHUNKS, np.zeros((1, 384), np.float32))


def test_an_index_without_vectors(empty: Index) -> None:
    empty.upsert(CHUNKS, None)
    assert found(empty, "boiling water", None) == ["tea"]
    hits = empty.search("boiling water", np.ones(384, np.float32), 5)
    assert [hit.chunk.document_id for hit in hits] == ["tea"]


def test_cross_posts_count_once(index: Index, minilm: Embedder) -> None:
    copies = [chunk("medium", BREAD, "Bread"), chunk("substack", f"{BREAD} Share", "Bread")]
    index.upsert(copies, minilm.embed([one.passage for one in copies]))
    documents = found(index, "sourdough wild yeast", minilm, k=5)
    assert len(documents) == 3
    assert len({"bread", "medium", "substack"} & set(documents)) == 1


def test_the_document_speaks_for_its_passages(empty: Index, minilm: Embedder) -> None:
    """Two passages answer alike; the one from the document about the subject wins."""
    same = "Wait for ten minutes, then look at it again."
    chunks = [
        chunk("planes", f"{same} Boarding starts soon.", "Airports", 0),
        chunk("planes", "Airports have runways, gates and lounges.", "Airports", 1),
        chunk("bees", f"{same} Honey runs slowly.", "Beekeeping", 0),
        chunk("bees", "Bees swarm in May; the hive needs a new queen.", "Beekeeping", 1),
    ]
    empty.upsert(chunks, minilm.embed([one.passage for one in chunks]))
    hits = Retriever(empty, minilm).search("how long do I wait with the hive and its swarm?", k=4)
    order = [(hit.chunk.document_id, hit.chunk.position) for hit in hits]
    assert order.index(("bees", 0)) < order.index(("planes", 0))


def test_another_embedder_is_refused(index: Index, minilm: Embedder) -> None:
    index.embedder = "openai:big"
    with pytest.raises(ConfigError, match=r"made with embedder 'openai:big'.*Run invoke ct"):
        Retriever(index, minilm)
    assert found(index, "yeast", None) == ["bread"]


def test_promote_names_the_version(index: Index, minilm: Embedder) -> None:
    index.promote("v1")
    assert index.version == "v1"
    index.promote("v2")
    assert index.version == "v2"
    assert found(index, "yeast", minilm)[0] == "bread"


def test_qdrant_switches_production_and_keeps_the_old_version(minilm: Embedder) -> None:
    client = QdrantClient(":memory:")
    vectors = minilm.embed([one.passage for one in CHUNKS])
    old, new = QdrantIndex(client, "v1", minilm.name), QdrantIndex(client, "v2", minilm.name)
    old.upsert(CHUNKS, vectors)
    old.promote("v1")
    new.upsert(CHUNKS[:1], vectors[:1])
    assert QdrantIndex(client, "production", readonly=True).count() == 3
    new.promote("v2")
    served = QdrantIndex(client, "production", readonly=True)
    assert (served.count(), served.version, served.embedder) == (1, "v2", "minilm-int8")
    assert QdrantIndex(client, "v1", readonly=True).count() == 3
    assert client.collection_exists(PRODUCTION)


def test_qdrant_promotes_under_another_name(minilm: Embedder) -> None:
    with QdrantIndex(QdrantClient(":memory:"), "candidate", minilm.name) as index:
        with pytest.raises(NotReadyError, match="The index is empty"):
            index.promote("v7")
        index.upsert(CHUNKS, minilm.embed([one.passage for one in CHUNKS]))
        index.promote("v7")
        assert QdrantIndex(index._client, "v7", readonly=True).count() == 3


def test_qdrant_misses_a_version() -> None:
    with pytest.raises(NotReadyError, match="does not hold this version: twin-v9"):
        QdrantIndex(QdrantClient(":memory:"), "v9", readonly=True)


def test_a_server_that_is_away_is_a_one_line_error(tmp_path: Path) -> None:
    settings = Settings(index_url="http://127.0.0.1:9", index_key="secret-key")
    with pytest.raises(RemoteError, match=r"does not answer .*Check TWIN_INDEX_URL") as caught:
        open_index(settings, tmp_path / "index.db", "v1", "minilm-int8")
    assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, ConfigError, "refuses the key: TWIN_INDEX_KEY. Set it"),
        (500, RemoteError, "The Qdrant server answered HTTP 500: TWIN_INDEX_URL. Check"),
    ],
)
def test_a_server_that_refuses_is_a_one_line_error(
    tmp_path: Path, status: int, error: type[Exception], message: str
) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    settings = Settings(index_url=f"http://127.0.0.1:{server.server_port}", index_key="secret-key")
    try:
        with pytest.raises(error, match=re.escape(message)) as caught:
            open_index(settings, tmp_path / "index.db", "v1", "minilm-int8")
    finally:
        server.shutdown()
        server.server_close()
    assert "secret-key" not in str(caught.value)
