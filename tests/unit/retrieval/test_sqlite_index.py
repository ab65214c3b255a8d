"""The SQLite index as a file: what is in it, who may open it, and what other processes see."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from llm_twin.corpus.document import Chunk
from llm_twin.errors import BusyError, ConfigError, NotReadyError, SpaceError
from llm_twin.retrieval import open_index
from llm_twin.retrieval.sqlite import SqliteIndex
from llm_twin.settings import Settings

RARE_WORD = "xylophonist"


def chunk(document: str, text: str, position: int = 0) -> Chunk:
    return Chunk(document, "1", f"Title {document}", ("Heading",), text, "", position)


def vector(*values: float) -> np.ndarray:
    row = np.array(values, np.float32)
    return row / np.linalg.norm(row)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "index.db"


@pytest.fixture
def filled(path: Path) -> Path:
    with SqliteIndex.create(path, "v1", "two") as index:
        index.upsert(
            [chunk("a", f"The {RARE_WORD} plays at noon."), chunk("b", "The drummer sleeps.")],
            np.stack([vector(1, 0), vector(0, 1)]),
        )
    return path


def test_reopening_keeps_everything(filled: Path) -> None:
    with SqliteIndex.open(filled) as index:
        assert (index.version, index.embedder, index.count()) == ("v1", "two", 2)
        hit = index.search("who plays?", vector(1, 0))[0]
        assert (hit.chunk, hit.cosine) == (chunk("a", f"The {RARE_WORD} plays at noon."), 1.0)


def test_a_deleted_document_leaves_no_byte_behind(filled: Path) -> None:
    index = SqliteIndex.open(filled)
    assert RARE_WORD.encode() in filled.read_bytes()
    index.delete_document("a")
    for file in filled.parent.iterdir():
        assert RARE_WORD.encode() not in file.read_bytes(), file.name
        assert RARE_WORD[:-2].encode() not in file.read_bytes(), file.name
    index.close()
    assert RARE_WORD[:-3].encode() not in filled.read_bytes()
    assert [file.name for file in filled.parent.iterdir()] == ["index.db"]


def test_an_edited_chunk_leaves_no_byte_behind(filled: Path) -> None:
    with SqliteIndex.open(filled) as index:
        index.delete_document("a")
        index.upsert([chunk("a", "The pianist plays at noon.")], vector(1, 0)[None])
        assert index.search(RARE_WORD, None) == []
        assert index.search("pianist", None)[0].chunk.document_id == "a"
    assert RARE_WORD[:-3].encode() not in filled.read_bytes()


def test_a_writer_in_another_connection_is_seen(filled: Path) -> None:
    with SqliteIndex.open(filled, readonly=True) as reader, SqliteIndex.open(filled) as writer:
        assert reader.search("trumpet", None) == []
        writer.upsert([chunk("c", "A trumpet sounds.")], vector(1, 1)[None])
        hits = reader.search("trumpet", vector(1, 1))
        assert hits[0].chunk.document_id == "c"
        assert hits[0].cosine == pytest.approx(1)
        writer.promote("v2")
        assert reader.version == "v2"
        writer.delete_document("c")
        assert reader.search("trumpet", None) == []


WRITER = """
import sys
import numpy as np
from pathlib import Path
from llm_twin.corpus.document import Chunk
from llm_twin.retrieval.sqlite import SqliteIndex
index = SqliteIndex.open(Path(sys.argv[1]))
for number in range(60):
    chunks = [Chunk(f"{sys.argv[2]}{number}", "1", "T", (), f"part {part}", "", part)
              for part in range(2)]
    index.upsert(chunks, np.ones((2, 2), np.float32) / np.sqrt(np.float32(2)))
"""


def test_reading_while_two_processes_write(filled: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(filled), name]) for name in ("x", "y")
    ]
    with SqliteIndex.open(filled, readonly=True) as reader:
        while any(writer.poll() is None for writer in writers):
            assert reader.count() % 2 == 0, "half an upsert was seen"
            assert reader.search("drummer", vector(0, 1))[0].chunk.document_id == "b"
        assert [writer.returncode for writer in writers] == [0, 0]
        assert reader.count() == 2 + 2 * 2 * 60


def test_a_failed_upsert_changes_nothing(filled: Path) -> None:
    with SqliteIndex.open(filled) as index:
        bad = Chunk("z", "1", "T", (), None, "", 0)  # type: ignore[arg-type]
        with pytest.raises((ConfigError, TypeError)):
            index.upsert([chunk("c", "A trumpet."), bad], None)
        assert index.documents() == {"a": "1", "b": "1"}
        index.upsert([chunk("c", "A trumpet.")], vector(1, 1)[None])
        assert index.count() == 3


def test_readonly_refuses_to_write(filled: Path) -> None:
    with SqliteIndex.open(filled, readonly=True) as index, pytest.raises(SpaceError):
        index.upsert([chunk("c", "A trumpet.")], None)


def answer_as_nobody(path: str) -> None:
    """Exit 0 if an unprivileged user can ask; in a child process, for setuid cannot be undone."""
    if os.geteuid() == 0:
        os.setuid(65534)
    assert not os.access(Path(path).parent, os.W_OK)
    with SqliteIndex.open(Path(path), readonly=True) as index:
        assert index.search("drummer", None)[0].chunk.document_id == "b"
    os._exit(0)


def test_answers_from_a_folder_that_cannot_be_written(filled: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.db"
        path.write_bytes(filled.read_bytes())
        path.chmod(0o444)
        Path(folder).chmod(0o555)
        child = multiprocessing.get_context("fork").Process(
            target=answer_as_nobody, args=(str(path),)
        )
        child.start()
        child.join(60)
        Path(folder).chmod(0o755)
    assert child.exitcode == 0


def test_a_writer_that_holds_on_is_named(filled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_twin.retrieval.sqlite_file.BUSY_SECONDS", 0.05)
    holder = sqlite3.connect(filled, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with SqliteIndex.open(filled) as index:
        with pytest.raises(BusyError, match=r"Another process is writing.*Try again"):
            index.promote("v2")
        assert index.count() == 2
    holder.close()


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 40, b""])
def test_a_file_that_is_no_index(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"not an index.*Run invoke ct"):
        SqliteIndex.open(path)


def test_another_format_is_refused(filled: Path) -> None:
    with sqlite3.connect(filled) as database:
        database.execute("UPDATE meta SET value = '999' WHERE key = 'format'")
    database.close()
    with pytest.raises(ConfigError, match="made by another version of llm-twin"):
        SqliteIndex.open(filled)


def test_open_index_makes_then_reuses(path: Path, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    with pytest.raises(NotReadyError, match=r"There is no index.*Run invoke ct"):
        open_index(settings, path, "v1", "words", readonly=True)
    first = open_index(settings, path, "v1", "words")
    first.upsert([chunk("a", "A trumpet.")], None)
    first.close()
    later = open_index(settings, path, "v2", "words")
    assert (later.version, later.count(), later.embedder) == ("v2", 1, "words")
    later.close()
    served = open_index(settings, path, "v9", "words", readonly=True)
    assert served.version == "v2"
    served.close()


def test_create_refuses_a_file_in_its_place(filled: Path) -> None:
    with pytest.raises(ConfigError, match="There is an index already"):
        SqliteIndex.create(filled, "v2", "two")


def test_create_where_nothing_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match="cannot be written or read"):
        SqliteIndex.create(tmp_path / "file" / "index.db", "v1", "two")
