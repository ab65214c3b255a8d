"""The journal: what is in it survives, and two never deploy at once."""

import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from llm_twin.delivery.deploy.journal import Journal
from llm_twin.errors import BusyError, NotReadyError, SpaceError

HOLDER = """
import sys, time
from pathlib import Path
from llm_twin.delivery.deploy.journal import Journal

journal = Journal(Path(sys.argv[1]))
with journal.hold("local", "deploy of x"):
    print(journal.begin("local", "deploy", "x", "", {}).id, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def journal(tmp_path):
    made = Journal(tmp_path)
    yield made
    made.close()


def complete(journal, deployment):
    deployment.state, deployment.ended = "Completed", time.time()
    journal.save(deployment)
    return deployment


def test_what_was_written_is_read_by_another(journal, tmp_path):
    one = journal.begin("local", "deploy", "r/x@sha256:1", "sha256:1", {"port": "8000"})
    journal.begin_step(one, "fetch")
    one.facts["version"] = "v1"
    journal.end_step(one, "fetch")
    journal.begin_step(one, "start")
    journal.begin_step(one, "start")
    other = Journal(tmp_path)
    assert other.get(one.id) == other.unfinished("local") == one
    assert other.steps(one) == {"fetch": True, "start": False}
    assert other.live("local") is None
    assert one.label == f"{one.id} (v1)"


def test_what_is_live_is_the_last_that_was_completed(journal):
    first = complete(journal, journal.begin("local", "deploy", "a", "", {}))
    failed = journal.begin("local", "deploy", "b", "", {})
    failed.state, failed.ended = "RolledBack", time.time()
    journal.save(failed)
    assert journal.live("local") == first
    second = complete(journal, journal.begin("local", "deploy", "c", "", {}))
    assert second.previous == first.id
    assert journal.live("sagemaker") is None
    assert [one.id for one in journal.history()] == [second.id, failed.id, first.id]
    assert journal.history("sagemaker") == []
    complete(journal, journal.begin("local", "undeploy", "", "", {}))
    assert journal.live("local") is None


def test_one_that_was_live_is_found_by_the_start_of_its_id(journal):
    one = complete(journal, journal.begin("local", "deploy", "a", "", {}))
    assert journal.find("local", one.id[:-2]) == one
    with pytest.raises(NotReadyError, match="no deployment that was live has this id: nope"):
        journal.find("local", "nope")
    complete(journal, journal.begin("local", "deploy", "b", "", {}))
    with pytest.raises(NotReadyError, match="more than one deployment has this id"):
        journal.find("local", one.id[:2])


def test_an_unfinished_deployment_stands_in_the_way_of_another(journal):
    one = journal.begin("local", "deploy", "a", "", {})
    with pytest.raises(BusyError, match=f"cut short: {one.id}, deploy to local.*invoke recover"):
        journal.begin("local", "deploy", "b", "", {})
    journal.begin("sagemaker", "deploy", "b", "", {})


def test_a_living_deployment_is_named_and_a_killed_one_is_not_in_the_way(journal, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        name = holder.stdout.readline().strip()
        said = rf"a deployment to local is running: {name}, deploy of x by process {holder.pid} on"
        with pytest.raises(BusyError, match=said), journal.hold("local", "another"):
            pass
        with journal.hold("sagemaker", "another"):
            pass
    finally:
        holder.kill()
        holder.communicate(timeout=30)
    with journal.hold("local", "another"):
        assert journal.unfinished("local").id == name


def test_many_open_a_new_journal_at_once(tmp_path):
    errors = []

    def open_one():
        try:
            Journal(tmp_path).close()
        except SpaceError as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_it_is_whole_and_durable(journal):
    db = sqlite3.connect(journal.path, isolation_level=None)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    one = journal.begin("local", "deploy", "a", "", {})
    with pytest.raises(sqlite3.IntegrityError):
        db.execute("INSERT INTO deployment SELECT 'x', target, image, digest, kind, state, "
                   "previous, options, facts, began, ended, reason FROM deployment")  # fmt: skip
    one.facts = {"not": {"JSON"}}
    journal.begin_step(one, "fetch")
    with pytest.raises(TypeError):
        journal.end_step(one, "fetch")
    assert journal.steps(one) == {"fetch": False}


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "deployments").write_text("no folder")
    with pytest.raises(SpaceError, match="the journal of deployments cannot be written"):
        Journal(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["deployments"]


def test_a_journal_that_cannot_be_written_any_more_is_said(journal):
    journal._db.execute("PRAGMA query_only = ON")
    with pytest.raises(SpaceError, match="the journal of deployments cannot be written"):
        journal.begin("local", "deploy", "a", "", {})
