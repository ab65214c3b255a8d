import dataclasses
import gzip
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing

import pytest
from recorded import HEADING, SECRET, SUBJECTS, Vectors

from llm_twin.corpus import Chunk, forgotten
from llm_twin.ct import work
from llm_twin.errors import BusyError, NotReadyError
from llm_twin.flow.locks import claim
from llm_twin.loop import content, forget, purge, texts
from llm_twin.model import feedback
from llm_twin.model.bundles import Bundles
from llm_twin.retrieval.cache import CachedEmbedder
from llm_twin.retrieval.sqlite import SqliteIndex

DAY = 86400.0
PHRASES = [
    re.sub(r"\W+", " ", text).lower().strip().encode()
    for text in ("violet heron of tarnowitz", "waits for him in the rain every single", HEADING)
]


def unpacked(path):
    """Everything that a file says, whatever it is packed in; SQLite by rows as well."""
    data = path.read_bytes()
    yield data
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    if data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as kept:
            yield from (kept.read(name) for name in kept.namelist())
    if data[:6] == b"SQLite" and path.name != "traces.db-journal":
        with closing(sqlite3.connect(path)) as db:
            yield "\n".join(line for line in db.iterdump()).encode()


def holders(home):
    """Files in which a sentence, or the heading, can still be read."""
    found = []
    for path in sorted(home.rglob("*")):
        if path.is_file() and not path.is_symlink():
            said = b" ".join(unpacked(path)).replace(b"\\n", b" ").lower()
            plain = re.sub(rb"[^\w]+", b" ", said)
            if any(phrase in plain for phrase in PHRASES):
                found.append(path.relative_to(home).as_posix())
    return found


def said(scene, what="heron.md", seconds=DAY):
    lines = []
    wish = forget.plan(scene.settings, what, seconds).wish
    forget.carry_out(scene.settings, wish, lines.append)
    return "\n".join(lines)


def trace_ids(scene):
    with closing(sqlite3.connect(scene.settings.traces / "traces.db")) as db:
        return {row[0] for row in db.execute("SELECT id FROM trace")}


def test_nothing_holds_the_text_afterwards(full):
    assert len(holders(full.home)) > 8
    told = said(full)
    assert holders(full.home) == []
    assert "tainted: v1, v1.1" in told
    assert "index: v1.1, v1" in told
    assert "traces: 1 trace, 1 dataset item" in told


def test_what_others_say_stays(full):
    said(full)
    assert trace_ids(full) == {full.traces["bees"]}
    served = Bundles(full.home / "models").production()
    served.verify()
    with SqliteIndex.open(served.index_path, readonly=True) as index:
        assert len(index.documents()) == 4
        assert not index.search("violet heron umbrella", None)
        assert index.search("shivering hive", None)[0].chunk.title.startswith("Bees")
    (kept,) = feedback.read(feedback.current(full.home))
    assert kept.wanted == SUBJECTS["boats"]
    assert "At six." in (full.home / "export.jsonl").read_text()
    blobs = [path.read_bytes() for path in (full.home / "cache" / "stages").rglob("*")
             if path.is_file()]  # fmt: skip
    assert SUBJECTS["bees"].encode() in blobs
    bread = full.chunk_of(full.chunks, "bread")
    with CachedEmbedder(Vectors(), full.home / "cache" / "embeddings.db", str) as embedder:
        kept_keys = embedder._database.execute("SELECT count(*) FROM vectors").fetchone()[0]
        assert 0 < kept_keys < len({chunk.passage for chunk in full.chunks})
        embedder.embed([bread.passage])
        assert embedder._database.execute("SELECT count(*) FROM vectors").fetchone()[0] == kept_keys


def test_every_bundle_is_whole_and_the_model_stays_for_the_deadline(full):
    said(full)
    shelf = Bundles(full.home / "models")
    assert [bundle.version for bundle in shelf.versions()] == ["v1", "v1.1"]
    for bundle in shelf.versions():
        bundle.verify()
    assert shelf.production().manifest["details"]["before"] == "v1"


def test_training_goes_on_without_it_wherever_it_lies_now(full):
    said(full)
    shutil.copy(full.corpus / "heron.md", full.corpus / "renamed.md")
    moved = (full.corpus / "renamed.md").read_text().replace("told here with care", "told at last")
    (full.corpus / "renamed.md").write_text(moved)
    (full.corpus / "new.md").write_text("# Clocks\n\n" + "A clock that is wound on Sunday. " * 9)
    full.train("v2")
    left_out = {item["uri"]: item["reason"] for item in full.report["skipped"]}
    assert left_out == dict.fromkeys(("heron.md", "renamed.md"), forgotten.REASON)
    documents = Bundles(full.home / "models").production().manifest["details"]["documents"]
    assert len(documents) == 5
    assert forgotten.refusal(full.home, "v2", documents, due=False) == ""
    assert holders(full.home) == []


def test_an_author_is_forgotten_in_old_and_in_new_documents(full):
    said(full, "ada heron")
    assert holders(full.home) == []
    assert len(texts.Texts.known(full.home).chunks) == 3
    assert "Ada" not in (full.home / forgotten.FILE).read_text()
    full.write("bees", author="ADA HERON")
    _, report = work.collect(str(full.corpus), (), full.settings, str)
    assert {item["uri"] for item in report["skipped"]} == {"bees.md", "glass.md", "heron.md"}
    assert holders(full.home) == []


def test_a_clone_is_read_and_not_kept(full):
    said(full)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(full.corpus)]
    for line in (["init", "-q"], ["add", "."], ["commit", "-qm", "All"]):
        subprocess.run([*git, *line], check=True, timeout=60)
    rows, report = work.collect(f"file://{full.corpus}/.git", (), full.settings, str)
    assert [item["uri"] for item in report["skipped"]] == ["heron.md"]
    assert len(rows) == 4
    assert not (full.home / "cache" / "git").exists()
    assert holders(full.home) == []


@pytest.mark.parametrize("name", ["the id", "the link", "the path on the disk"])
def test_a_document_has_several_names(scene, name):
    chunk = scene.chunk_of(scene.chunks, "heron")
    path = str(scene.corpus / "heron.md")
    what = {"the id": chunk.document_id, "the link": chunk.link, "the path on the disk": path}[name]
    plan = forget.plan(scene.settings, what, DAY)
    assert plan.wish.documents == (chunk.document_id,)
    assert plan.titles == (HEADING,)
    assert not (scene.home / forgotten.FILE).exists()


def test_what_is_known_of_no_document_is_told(scene):
    with pytest.raises(NotReadyError, match="no known document or author has this name: nobody"):
        forget.plan(scene.settings, "nobody", DAY)


def test_what_other_documents_say_too_is_not_looked_for(scene):
    wish = forget.plan(scene.settings, "heron.md", DAY).wish
    scene.answer("shared", "v1", scene.chunk_of(scene.chunks, "bees"))
    (scene.home / "notes.txt").write_text(
        "Written down by hand at the kitchen table and put on line without any editing."
    )
    forget.carry_out(scene.settings, wish, str)
    assert (scene.home / "notes.txt").exists()


def test_the_list_holds_no_text(full):
    said(full)
    listed = (full.home / forgotten.FILE).read_text().lower()
    assert not any(word in listed for word in ("violet", "tarnowitz", "umbrella", "lighthouse"))
    (wish,) = forgotten.requests(full.home)
    assert (wish.done, wish.needles, wish.names) == (True, {}, ())
    assert forget.serves_still(full.settings, wish) == "v1.1"


def test_not_while_training_runs(full):
    wish = forget.plan(full.settings, "heron.md", DAY).wish
    with claim(full.home / "locks", "ct", "somebody"), pytest.raises(BusyError, match="running"):
        forget.carry_out(full.settings, wish, str)
    assert forgotten.requests(full.home) == []


def test_twice_at_a_time_is_refused(full):
    wish = forget.plan(full.settings, "heron.md", DAY).wish
    with claim(full.home / "locks", "forget", "me"), pytest.raises(BusyError, match="forget"):
        forget.carry_out(full.settings, wish, str)


def test_what_cannot_be_removed_is_named_and_stays_open(full):
    with closing(sqlite3.connect(full.home / "odd.db")) as db:
        db.execute("CREATE TABLE t (said BLOB)")
        db.execute("INSERT INTO t VALUES (?)", (SECRET.encode(),))
        db.commit()
    with pytest.raises(forget.StillThere, match=r"1 files hold some of it yet: .*/odd\.db"):
        said(full)
    (wish,) = forget.unfinished(full.home)
    (full.home / "odd.db").unlink()
    forget.carry_out(full.settings, wish, str)
    assert forget.unfinished(full.home) == []
    assert holders(full.home) == []


def test_a_file_in_use_is_told(full):
    with closing(sqlite3.connect(full.home / "cache" / "documents.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        purge.BUSY_SECONDS, before = 0.1, purge.BUSY_SECONDS
        try:
            with pytest.raises(BusyError, match="a file is in use"):
                said(full)
        finally:
            purge.BUSY_SECONDS = before
    (wish,) = forget.unfinished(full.home)
    forget.carry_out(full.settings, wish, str)
    assert holders(full.home) == []


def test_nothing_but_a_bundle_is_enough(scene):
    for name in ("zenml", "cache"):
        shutil.rmtree(scene.home / name)
    said(scene, scene.chunk_of(scene.chunks, "heron").document_id)
    assert holders(scene.home) == []
    _, report = work.collect(str(scene.corpus), (), scene.settings, str)
    assert [item["uri"] for item in report["skipped"]] == ["heron.md"]


def test_a_second_document_makes_a_third_version(full):
    said(full)
    said(full, "bees.md")
    assert Bundles(full.home / "models").production().version == "v1.2"
    assert [wish.what for wish in forgotten.requests(full.home)] == ["heron.md", "bees.md"]


def test_without_a_twin_the_caches_are_enough(full):
    shutil.rmtree(full.home / "models")
    (full.settings.traces / "traces.db").unlink()
    told = said(full)
    assert "index: held nothing" in told
    assert "traces: held nothing" in told
    assert holders(full.home) == []
    assert forget.serves_still(full.settings, forgotten.requests(full.home)[0]) == ""


def test_a_damaged_twin_is_no_obstacle(full):
    (full.home / "models" / "production" / "model" / "config.json").unlink()
    said(full)
    assert holders(full.home) == []
    assert forget.serves_still(full.settings, forgotten.requests(full.home)[0]) == ""


def test_a_server_that_holds_the_index_is_told(scene, tmp_path, monkeypatch):
    """The client's own engine in a folder stands in for the server."""
    from qdrant_client import QdrantClient

    from llm_twin.retrieval.qdrant import QdrantIndex

    client = QdrantClient(path=str(tmp_path / "qdrant"))
    client.close = lambda: None

    def connect(cls, settings, version, embedder, readonly=False):
        return QdrantIndex(client, version, embedder, readonly)

    monkeypatch.setattr(QdrantIndex, "connect", classmethod(connect))
    scene.settings = dataclasses.replace(scene.settings, index_url="http://127.0.0.1:6333")
    chunks = scene.train("v2")
    heron = scene.chunk_of(chunks, "heron").document_id
    index = QdrantIndex(client, "v2", "", True)
    assert heron in index.documents()
    said(scene, heron)
    assert heron not in index.documents()
    assert len(index.documents()) == 4
    assert Bundles(scene.home / "models").production().version == "v2"


def test_needles_are_found_in_broken_archives_and_json(tmp_path):
    chunk = Chunk("d", "d", "One two three", (), "", "", 0)
    needles = content.needles_of((), [chunk], ())
    broken = tmp_path / "broken.gz"
    broken.write_bytes(gzip.compress(b"x" * 99)[:30] + b" one two three ")
    assert needles.within_file(broken)
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 one two four")
    assert not needles.within_file(tmp_path / "broken.zip")
    assert not needles.within_file(tmp_path / "gone")
    assert needles.within('{"said": "One\\ntwo \\u0074hree"}')
    assert not needles.within("")


EFFECTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.copyfile", "sqlite3.connect"}


def killed(number, work):
    """Run work in a forked child that is killed before its n-th effect; tell if it got through."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if event in EFFECTS or writes:
            seen += 1
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)

    try:
        sys.addaudithook(hook)
        work()
        os._exit(0)
    finally:
        os._exit(1)


def test_killed_anywhere_the_next_call_finishes(full, tmp_path):
    whole = tmp_path / "whole"
    shutil.copytree(full.home, whole, symlinks=True)
    wish = forget.plan(full.settings, "heron.md", 0.0).wish
    outcomes, number = [], 1
    while not outcomes or not outcomes[-1]:
        shutil.rmtree(full.home)
        shutil.copytree(whole, full.home, symlinks=True)
        outcomes.append(killed(number, lambda: forget.carry_out(full.settings, wish, str)))
        number += 3 if number < 30 else 11
        left = forget.unfinished(full.home)
        if left and not outcomes[-1]:
            with pytest.raises(NotReadyError, match="tainted"):
                forgotten.refuse(full.home, "v1")
        for one in left:
            forget.carry_out(full.settings, one, str)
        if forgotten.requests(full.home):
            assert holders(full.home) == []
            Bundles(full.home / "models").production().verify()
    assert len(outcomes) > 8
    assert json.loads((full.home / forgotten.FILE).read_text())["requests"][0]["done"]
