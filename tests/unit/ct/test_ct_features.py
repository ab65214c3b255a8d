"""An index brought to exactly its corpus: what comes out, and what is not done again."""

import dataclasses
import json
import os
import time
from pathlib import Path

import pytest

from llm_twin.corpus import Document, clean
from llm_twin.corpus.prepared import Prepared
from llm_twin.ct import catalog, features, tasks, work
from llm_twin.ct.scale import Local, Pace, open_workers
from llm_twin.errors import BusyError, ConfigError, CorpusError, TwinError
from llm_twin.retrieval.sqlite import SqliteIndex
from llm_twin.settings import Settings

WORK = ("opened", "cleaned", "cut", "embedded", "written", "deleted")


@pytest.fixture
def settings(tmp_path):
    return Settings.load({"TWIN_HOME": str(tmp_path / "home"), "TWIN_EMBEDDER": "words"})


@pytest.fixture
def corpus(tmp_path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("bread", "boats", "bees", "glass"):
        body = " ".join(f"The {name} of day {day} is told {day} times over." for day in range(40))
        write(folder / f"{name}.md", f"# About {name}\n\n{body}\n")
    return folder


def write(path: Path, text: str) -> None:
    """Write a file that has been as it is for some seconds."""
    path.write_text(text, "utf-8")
    before = time.time() - 60
    os.utime(path, (before, before))


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    """Let files count as settled at once: a test cannot set when an inode changed."""
    monkeypatch.setattr(catalog, "SETTLED", 0.0)


def brought(corpus: Path, settings: Settings, workers: object = None) -> dict:
    return features.bring_up_to_date(str(corpus), (), settings, str, workers)


def done(report: dict) -> dict:
    return {name: report[name] for name in WORK if report[name]}


def held(settings: Settings) -> list:
    with SqliteIndex.open(settings.home / "features" / "index.db", readonly=True) as index:
        return index.chunks()


def from_scratch(corpus: Path, settings: Settings) -> list:
    """What the pipeline's steps make of the corpus in an empty state folder."""
    empty = dataclasses.replace(settings, home=settings.home.parent / f"empty-{time.time_ns()}")
    rows, _ = work.collect(str(corpus), (), empty, str)
    documents, _ = work.tidy(rows)
    chunks = [tasks.Chunk.from_dict(row) for row in work.split(documents, empty, str)]
    return sorted(chunks, key=lambda chunk: (chunk.document_id, chunk.position))


def test_an_unchanged_corpus_is_no_work(corpus, settings):
    first = brought(corpus, settings)
    assert (first["documents"], first["opened"], first["cut"]) == (4, 4, 4)
    assert held(settings) == from_scratch(corpus, settings)
    before = (settings.home / "features" / "index.db").read_bytes()
    again = brought(corpus, settings)
    assert done(again) == {}
    assert again["chunks"] == first["chunks"]
    assert (settings.home / "features" / "index.db").read_bytes() == before


def test_an_unchanged_file_is_not_opened(corpus, settings, monkeypatch):
    brought(corpus, settings)
    write(corpus / "glass.md", "# Glass\n\nIt is turned on the pipe so that gravity never wins.")
    opened = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or read(path))
    brought(corpus, settings)
    assert [name for name in opened if name.endswith(".md")] == ["glass.md"]


def test_a_file_that_changed_just_now_is_read_again(corpus, settings, monkeypatch):
    brought(corpus, settings)
    monkeypatch.setattr(catalog, "SETTLED", 3600.0)
    assert done(brought(corpus, settings)) == {"opened": 4}


def test_a_changed_a_new_and_a_vanished_document(corpus, settings):
    brought(corpus, settings)
    write(corpus / "bees.md", "# Bees\n\nThey left in the spring of that year, all of them.")
    write(corpus / "rope.md", "# Rope\n\nIt is laid from three strands, each of them twisted.")
    (corpus / "boats.md").unlink()
    report = brought(corpus, settings)
    assert done(report) == {"opened": 2, "cleaned": 2, "cut": 2, "written": 2, "deleted": 1}
    assert held(settings) == from_scratch(corpus, settings)
    assert b"boats" not in (settings.home / "features" / "index.db").read_bytes()


def test_a_document_that_becomes_a_copy_goes_and_comes_back(corpus, settings):
    brought(corpus, settings)
    bread, bees = (corpus / "bread.md").read_text(), (corpus / "bees.md").read_text()
    write(corpus / "bees.md", bread)
    assert brought(corpus, settings)["dropped"] == 1
    assert held(settings) == from_scratch(corpus, settings)
    write(corpus / "bees.md", bees)
    report = brought(corpus, settings)
    assert (report["cleaned"], report["cut"]) == (0, 0)
    assert held(settings) == from_scratch(corpus, settings)


def test_what_recurs_changes_pages_that_did_not_change(tmp_path, settings):
    notice = "Thanks for reading the Mill Letter! It is free and comes by post every Monday."

    def rows(count: int) -> str:
        pages = [
            {
                "content": f"{story(number)}\n\n{notice}\n\n{story(number + 50)}",
                "title": f"Page {number}",
                "link": f"https://letters.org/{number}",
            }
            for number in range(count)
        ]
        return json.dumps(pages)

    def story(number: int) -> str:
        return "\n\n".join(
            f"The wheel{number} of day {day} turns slowly, and mill{number} is what they speak of."
            for day in range(12)
        )

    path = tmp_path / "pages.json"
    write(path, rows(3))
    brought(path, settings)
    assert any("Mill Letter" in chunk.text for chunk in held(settings))
    write(path, rows(4))
    report = brought(path, settings)
    assert report["cleaned"] == 4
    assert not any("Mill Letter" in chunk.text for chunk in held(settings))
    assert held(settings) == from_scratch(path, settings)
    assert done(brought(path, settings)) == {}


def test_vectors_are_kept_and_only_new_passages_embedded(corpus, settings, minilm):
    home = Settings.load().embedder_home
    settings = dataclasses.replace(settings, embedder="minilm", embedder_home=home)
    first = brought(corpus, settings)
    assert first["embedded"] == first["written"] == first["chunks"]
    (settings.home / "features" / "index.db").unlink()
    second = brought(corpus, settings)
    assert done(second) == {"written": first["chunks"]}
    write(corpus / "bees.md", "# Bees\n\nThey left in the spring of that year, all of them.")
    assert done(brought(corpus, settings))["embedded"] == 1


def test_another_embedder_is_another_index(corpus, settings, minilm):
    brought(corpus, settings)
    home = Settings.load().embedder_home
    other = dataclasses.replace(settings, embedder="minilm", embedder_home=home)
    report = brought(corpus, other)
    assert report["embedded"] == report["chunks"] == len(held(other))


def test_an_index_that_another_wrote_to_is_made_whole(corpus, settings):
    chunks = brought(corpus, settings)["chunks"]
    path = settings.home / "features" / "index.db"
    with SqliteIndex.open(path) as index:
        index.upsert([dataclasses.replace(index.chunks()[0], text="something else")], None)
    assert brought(corpus, settings)["chunks"] == chunks
    assert held(settings) == from_scratch(corpus, settings)


def test_a_run_that_was_cut_short_goes_on(corpus, settings, monkeypatch):
    written = []
    upsert = SqliteIndex.upsert

    def dying(self, chunks, vectors):
        if written:
            raise KeyboardInterrupt
        written.extend(chunks)
        upsert(self, chunks, vectors)

    monkeypatch.setattr(features, "CHUNKS_A_BATCH", 1)
    monkeypatch.setattr(SqliteIndex, "upsert", dying)
    with pytest.raises(KeyboardInterrupt):
        brought(corpus, settings)
    monkeypatch.setattr(SqliteIndex, "upsert", upsert)
    report = brought(corpus, settings)
    assert done(report) == {"written": report["chunks"] - len(written)}
    assert held(settings) == from_scratch(corpus, settings)


def test_a_forgotten_document_leaves_the_index(corpus, settings):
    from llm_twin.corpus import forgotten

    brought(corpus, settings)
    gone = Document(uri="boats.md", title="", text="").id
    wish = forgotten.Request("r1", "boats.md", 0.0, 0.0, (gone,))
    (settings.home / forgotten.FILE).write_text(
        json.dumps({"requests": [dataclasses.asdict(wish)]})
    )
    report = brought(corpus, settings)
    assert (report["documents"], report["deleted"]) == (3, 1)
    assert report["skipped"] == [["boats.md", forgotten.REASON]]


def test_two_at_once_are_refused(corpus, settings):
    from llm_twin.ct.ledger import alone

    with alone(settings.home / "cache" / "features.lock"), pytest.raises(BusyError, match="Wait"):
        brought(corpus, settings)


def test_nothing_left_is_said_and_changes_no_index(corpus, settings):
    brought(corpus, settings)
    before = held(settings)
    for path in corpus.iterdir():
        write(path, "# \n")
    with pytest.raises(CorpusError, match="nothing is left"):
        brought(corpus, settings)
    assert held(settings) == before


def test_rows_that_were_edited_are_made_again(tmp_path):
    documents = [Document(uri="a", title="A", text="one two three four five six seven eight nine")]
    with Prepared(tmp_path / "prepared.db") as prepared:
        first = clean(documents, prepared).documents
        prepared._db.execute("UPDATE prepared SET text = '\"(forgotten)\"'")
        prepared._db.execute("DELETE FROM prepared WHERE 0")
        key = prepared._db.execute("SELECT key FROM prepared").fetchone()[0]
        assert prepared.get([key]) == {}
    with Prepared(tmp_path / "prepared.db") as prepared:
        assert clean(documents, prepared).documents == first


def test_an_item_that_fails_is_named():
    def fail(document: Document) -> None:
        raise ValueError("no such letter")

    items = [(1, Document(uri="notes/b.md", title="", text=""))]
    with pytest.raises(TwinError, match=r"cutting failed \(ValueError: no such letter\): notes/b"):
        list(Local().map(lambda pair: fail(pair[1]), items, batch=1, what="cutting"))


def test_local_workers_take_an_item_when_a_result_is_asked_for():
    taken = []
    made = Local().map(str, (taken.append(n) or n for n in range(9)), batch=4, what="x")
    assert next(made) == "0"
    assert taken == [0]


def test_other_workers_are_refused():
    with pytest.raises(ConfigError, match="local or ray"), open_workers("dask"):
        pass


def test_progress_says_rate_and_what_is_left():
    said: list[str] = []
    pace = Pace("cutting", said.append, 400)
    pace._begun -= 10
    pace._told -= 10
    pace.step(100)
    assert said == ["cutting 100/400, 10.0/s, 0:30 left"]
