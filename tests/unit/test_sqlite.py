"""SQLite files that several processes write at once."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from llm_twin.errors import NotReadyError, SpaceError
from llm_twin.sqlite import MEMORY, open_database, transaction, version

OPEN_AND_COUNT = """
import sys
from pathlib import Path
from llm_twin.sqlite import open_database
db = open_database(Path(sys.argv[1]), "the file", sys.argv[2:])
db.execute("INSERT INTO a VALUES (1)")
"""
SCHEMA = [
    "CREATE TABLE a (n INTEGER); CREATE TABLE b (n INTEGER)",
    "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO b VALUES (new.n); DELETE FROM a; END;",
]


def test_many_processes_may_make_it_at_once(tmp_path):
    path = tmp_path / "new" / "file.db"
    command = [sys.executable, "-c", OPEN_AND_COUNT, str(path), *SCHEMA]
    processes = [subprocess.Popen(command) for _ in range(6)]
    assert [process.wait(60) for process in processes] == [0] * 6
    with closing(open_database(path, "the file", SCHEMA)) as db:
        assert db.execute("SELECT count(*) FROM b").fetchone() == (6,)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_an_older_file_gets_what_it_lacks_and_a_newer_one_is_left_alone(tmp_path):
    path = tmp_path / "file.db"
    with closing(open_database(path, "the file", SCHEMA[:1])) as db:
        db.execute("INSERT INTO a VALUES (7)")
    with closing(open_database(path, "the file", SCHEMA)) as db:
        assert (version(db), db.execute("SELECT n FROM a").fetchone()) == (2, (7,))
    with pytest.raises(NotReadyError, match=r"a newer version wrote the file: .*Update llm-twin"):
        open_database(path, "the file", SCHEMA[:1])


def test_a_script_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "file.db"
    with pytest.raises(SpaceError, match=r"the file cannot be written \(.*near \"CRATE\""):
        open_database(path, "the file", [*SCHEMA, "CREATE TABLE c (n); CRATE TABLE d (n)"])
    with closing(sqlite3.connect(path)) as db:
        assert (version(db), db.execute("SELECT * FROM sqlite_schema").fetchall()) == (0, [])


def insert_and_fail(db):
    with transaction(db):
        db.execute("INSERT INTO a VALUES (1)")
        raise KeyError


def test_all_of_a_block_or_none():
    with closing(open_database(MEMORY, "the file", SCHEMA[:1])) as db:
        with pytest.raises(KeyError):
            insert_and_fail(db)
        with transaction(db):
            db.execute("INSERT INTO a VALUES (2)")
        assert db.execute("SELECT n FROM a").fetchall() == [(2,)]


def test_what_is_no_database_is_said_and_kept(tmp_path):
    path = tmp_path / "file.db"
    path.write_text("Something else altogether, and long enough to be looked at. " * 20)
    with pytest.raises(SpaceError, match=r"the file cannot be written \(file is not a database\)"):
        open_database(path, "the file", SCHEMA)
    assert path.read_text().startswith("Something else")
