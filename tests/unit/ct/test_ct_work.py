"""The work of the pipeline's steps, called directly, with words alone."""

import dataclasses
import json
from pathlib import Path

import pytest

from llm_twin.corpus import Chunk
from llm_twin.ct import learning, promotion, tasks, work
from llm_twin.errors import CorpusError
from llm_twin.model.bundles import Bundles
from llm_twin.model.profile import Data
from llm_twin.model.questions import withhold_headings
from llm_twin.settings import Settings

TOPICS = {
    "bread": "Sourdough rises slowly because wild yeast is patient and cold dough is slow.",
    "boats": "The ferry to the island leaves at seven and carries eleven cars at most.",
    "bees": "A hive in winter keeps warm by shivering together around the queen.",
    "glass": "Molten glass is turned on the pipe so that gravity never wins on one side.",
}


@pytest.fixture
def settings(tmp_path):
    return Settings.load({"TWIN_HOME": str(tmp_path / "home"), "TWIN_EMBEDDER": "words"})


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, sentence in TOPICS.items():
        body = "\n\n".join(
            f"## {name.title()} chapter {word}\n\n{sentence} {word} times over. " * 1
            + f"The {name} of {word} morning is told here with care, again and again. " * 6
            for word in ("first", "second", "third")
        )
        (folder / f"{name}.md").write_text(f"# About {name}\n\n{sentence}\n\n{body}\n")
    return folder


def prepared(corpus: Path, settings: Settings) -> tuple[list, list]:
    rows, _ = work.collect(str(corpus), (), settings, str)
    documents, _ = work.tidy(rows)
    return documents, work.split(documents, settings, str)


def test_collect_reports_and_reuses(corpus, settings):
    (corpus / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    rows, report = work.collect(str(corpus), (), settings, str)
    assert len(rows) == report["documents"] == 4
    assert [item["uri"] for item in report["skipped"]] == ["broken.pdf"]
    assert report["reused"] == 0
    (corpus / "bees.md").write_text("# Bees\n\nThey left in the spring of that year.")
    _, again = work.collect(str(corpus), (), settings, str)
    assert again["reused"] == 3
    json.dumps(rows)


def test_known_documents_are_not_cleaned_or_cut_again(corpus, settings, monkeypatch):
    rows, _ = work.collect(str(corpus), (), settings, str)
    documents, report = work.tidy(rows, settings)
    assert work.tidy(rows) == (documents, report)
    chunks = work.split(documents, settings, str)
    cut = []
    chunk = tasks.chunk
    monkeypatch.setattr(tasks, "chunk", lambda *given: cut.append(given[0].uri) or chunk(*given))
    assert work.split(work.tidy(rows, settings)[0], settings, str) == chunks
    assert cut == []
    (corpus / "bees.md").write_text("# Bees\n\nThey left in the spring of that year, all of them.")
    rows, _ = work.collect(str(corpus), (), settings, str)
    work.split(work.tidy(rows, settings)[0], settings, str)
    assert cut == ["bees.md"]


def test_nothing_left_after_cleaning_is_said(settings):
    empty = {"uri": "a", "title": "A", "text": "", "link": "", "author": "", "published": ""}
    with pytest.raises(CorpusError, match="nothing is left of the corpus"):
        work.tidy([empty])


def test_the_index_is_brought_to_exactly_the_chunks(corpus, settings, tmp_path):
    _, chunks = prepared(corpus, settings)
    first, second = tmp_path / "1.db", tmp_path / "2.db"
    report = work.build_index(chunks, None, first, "v1", settings, str)
    assert report["chunks"] == report["indexed"] == len(chunks)
    assert report["embedder"] == ""
    (corpus / "boats.md").unlink()
    (corpus / "bees.md").write_text("# Bees\n\nThey left in the spring of that year, all of them.")
    _, fewer = prepared(corpus, settings)
    report = work.build_index(fewer, first, second, "v2", settings, str)
    assert report["kept_documents"] == 2
    assert report["removed_documents"] == 1
    assert report["indexed"] == 1
    assert report["chunks"] == len(fewer)
    assert b"ferry" not in second.read_bytes()


def test_a_document_that_is_cut_differently_is_indexed_anew(corpus, settings, tmp_path):
    _, chunks = prepared(corpus, settings)
    first, second = tmp_path / "1.db", tmp_path / "2.db"
    work.build_index(chunks, None, first, "v1", settings, str)
    whole = [{**chunks[0], "text": chunks[0]["text"] + " and more"}, *chunks[1:]]
    report = work.build_index(whole, first, second, "v2", settings, str)
    assert report["kept_documents"] == 3
    assert report["chunks"] == len(chunks)
    assert b"and more" in second.read_bytes()


def test_an_index_of_another_embedder_is_made_anew(corpus, settings, tmp_path, minilm):
    _, chunks = prepared(corpus, settings)
    work.build_index(chunks, None, tmp_path / "1.db", "v1", settings, str)
    home = Settings.load().embedder_home
    with_vectors = dataclasses.replace(settings, embedder="minilm", embedder_home=home)
    report = work.build_index(
        chunks[:2], tmp_path / "1.db", tmp_path / "2.db", "v2", with_vectors, str
    )
    assert report["indexed"] == report["chunks"] == 2
    assert report["embedder"].startswith("minilm")


def test_tokens_are_counted_without_an_embedder():
    assert tasks.approximate_tokens("a b c") == 5
    assert tasks.approximate_tokens("x" * 400) == 102


def test_calibration_and_promotion_make_a_bundle_that_answers(corpus, settings, tmp_path):
    from llm_twin.serving.answer import answer
    from llm_twin.serving.twin import open_production

    documents, rows = prepared(corpus, settings)
    made = learning.dataset(documents, rows, 0, (), Data(), settings, str)
    data = made.to_dict()
    index = tmp_path / "index"
    index.mkdir()
    report = work.build_index(rows, None, index / "index.db", "v1", settings, str)
    chunks = [Chunk.from_dict(row) for row in rows]
    line = promotion.calibration(chunks, made, settings, str)
    model = tmp_path / "model"
    model.mkdir()
    (model / "manifest.json").write_text("{}")
    metrics = {"language": {"bits_per_character": 2.0, "items": [1]}}
    trained = {"parameters": 1, "base": "scratch"}
    known = {"indexed": report, "trained": trained, "profile": {"name": "laptop"}, **metrics}
    details = promotion.details({"corpus": str(corpus), "run": "r", "commit": "c"}, known, data)
    assert details["metrics"] == {"language": {"bits_per_character": 2.0}}
    promotion.promote(settings, "v1", index, model, {**details, **line})
    bundle = Bundles(settings.home / "models").production()
    assert bundle is not None
    assert set(work.chunks_of(bundle, settings)) == set(chunks)
    found = answer("When does the ferry to the island leave?", open_production(settings))
    assert "seven" in found.text
    assert found.citations[0].link == "boats.md"


def test_the_same_steps_run_on_a_qdrant_server(corpus, settings, tmp_path, monkeypatch):
    """The client's own engine in a folder stands in for the server."""
    from qdrant_client import QdrantClient

    from llm_twin.retrieval.qdrant import QdrantIndex
    from llm_twin.serving.answer import answer
    from llm_twin.serving.twin import open_production

    def connect(cls, settings, version, embedder, readonly=False):
        return QdrantIndex(QdrantClient(path=str(tmp_path / "qdrant")), version, embedder, readonly)

    monkeypatch.setattr(QdrantIndex, "connect", classmethod(connect))
    settings = dataclasses.replace(settings, index_url="http://127.0.0.1:6333")
    _, rows = prepared(corpus, settings)
    index, model = tmp_path / "index", tmp_path / "model"
    index.mkdir()
    model.mkdir()
    report = work.build_index(rows, None, index / "index.db", "v1", settings, str)
    assert report["chunks"] == len(rows)
    promotion.promote(settings, "v1", index, model, {"embedder": ""})
    found = answer("When does the ferry to the island leave?", open_production(settings))
    assert "seven" in found.text


def test_a_bundle_with_its_own_file_answers_whatever_server_is_named(corpus, settings, tmp_path):
    from llm_twin.serving.twin import open_production

    _, rows = prepared(corpus, settings)
    index, model = tmp_path / "index", tmp_path / "model"
    index.mkdir()
    model.mkdir()
    work.build_index(rows, None, index / "index.db", "v1", settings, str)
    promotion.promote(settings, "v1", index, model, {"embedder": ""})
    moved = dataclasses.replace(settings, index_url="http://127.0.0.1:1")
    bundle = promotion.served(moved)
    assert len(work.chunks_of(bundle, moved)) == len(rows)
    assert open_production(moved).index.count() == len(rows)


def test_a_damaged_bundle_counts_as_none(settings, tmp_path):
    folder = settings.home / "models"
    (folder / "v1").mkdir(parents=True)
    (folder / "production").symlink_to("v1")
    assert promotion.served(settings) is None


def test_searching_is_over_the_given_chunks_alone(corpus, settings):
    _, rows = prepared(corpus, settings)
    chunks = withhold_headings([Chunk.from_dict(row) for row in rows], [])
    with work.searching(chunks[:1], settings, str) as retriever:
        assert retriever.index.count() == 1
        assert {hit.chunk for hit in retriever.search("anything at all")} <= set(chunks[:1])
