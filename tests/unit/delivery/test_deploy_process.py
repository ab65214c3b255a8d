"""Deployed without an engine: real service processes over bundles, through the front door."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from llm_twin.corpus import Document, chunk
from llm_twin.delivery.deploy.detached import Detached
from llm_twin.errors import BusyError
from llm_twin.model.bundles import Bundles
from llm_twin.retrieval import open_index
from llm_twin.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
from invoke import Collection, Program
from ci.release import TASKS
Program(namespace=Collection(*TASKS)).run()
"""
TEXT = """
This is how I bake, week after week, with one jar of sourdough starter and no yeast at all.

## Feeding the sourdough starter

Every evening I throw away all but a spoonful of the sourdough starter. I stir in fifty grams of
rye flour and fifty grams of lukewarm water. Feeding the starter takes one minute, and by morning
it has doubled and smells of apples. A starter that was forgotten for a week needs two feedings.

## Keeping rye bread

Rye bread keeps for ten days when it is wrapped in linen. Cut it on the second day and not before,
since the crumb of rye bread is sticky while it is warm. In a plastic bag rye bread gets mouldy
within four days, and in the fridge it goes stale even sooner than that. Keeping it cool is enough.
"""
QUESTION = "How long does rye bread keep?"


def promote(home, version):
    """A twin that searches by words."""
    bundles = Bundles(home / "models")
    building = bundles.stage()
    index = open_index(Settings(home=home), building / "index.db", version, "")
    document = Document("notes/bread.md", "Bread", TEXT, "notes/bread.md")
    index.upsert(chunk(document, lambda text: len(text.split()), 120), None)
    index.close()
    bundles.commit(building, version, {"embedder": ""})
    bundles.promote(version)


class Door:
    """The tasks as a user types them, on a machine without an engine."""

    def __init__(self, home):
        self.home = home
        self.environ = os.environ | {
            "TWIN_HOME": str(home),
            "TWIN_EMBEDDER": "words",
            "DOCKER_HOST": f"unix://{home}/nowhere.sock",
        }
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    def __call__(self, *line, code=0):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *line],
            cwd=ROOT, env=self.environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def ask(self):
        answer = httpx.post(
            f"http://127.0.0.1:{self.port}/v1/ask", json={"question": QUESTION}, trust_env=False
        )
        return answer.json()

    def services(self):
        """Process ids of living services of this home."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environ = (folder / "environ").read_bytes()
                mark = f"TWIN_HOME={self.home}/deployments/".encode()
                found += [int(folder.name)] if mark in environ else []
            except OSError:
                continue
        return found


@pytest.fixture
def door(tmp_path):
    made = Door(tmp_path / "home")
    yield made
    made("recover")
    made("undeploy")
    assert made.services() == []


def test_a_promoted_twin_is_deployed_and_does_not_follow_later_promotions(door):
    promote(door.home, "v1")
    said = door("deploy", "--port", str(door.port))
    assert re.search(r"front: .*\nfetch: .*\nstart: .*\nsmoke: .*\nswitch: .*\nretire: ", said)
    assert f"(v1) is live: http://127.0.0.1:{door.port}\n" in said
    assert "invoke rollback" not in said
    answer = door.ask()
    assert (answer["version"], answer["citations"][0]["title"]) == ("v1", "Bread")
    promote(door.home, "v2")
    assert door.ask()["version"] == "v1"

    said = door("deploy", "--process", "--json")
    deployed = json.loads(said)
    assert (deployed["state"], deployed["facts"]["version"]) == ("Completed", "v2")
    assert deployed["where"] == f"http://127.0.0.1:{door.port}"
    assert door.ask()["version"] == "v2"
    assert len(door.services()) == 1

    Bundles(door.home / "models").sweep(keep=1)
    assert not (door.home / "models/v1").exists()
    said = door("rollback")
    assert "(v1) is live" in said
    assert "To go back: invoke rollback --target local" in said
    assert door.ask()["version"] == "v1"

    lines = door("deployments").splitlines()
    assert len(lines) == 3
    assert re.search(r"rollback +Completed +live .* v1$", lines[0])
    assert "live" not in lines[1]
    listed = json.loads(door("deployments", "--json"))
    assert [one["live"] for one in listed] == [True, False, False]
    shutil.rmtree(door.home / "deployments" / listed[1]["id"])
    shutil.rmtree(door.home / "models/v2")
    assert "this version of the twin is gone: v2" in door("rollback", code=1)
    assert door.ask()["version"] == "v1"
    assert "Nothing is deployed to local any more" in door("undeploy")
    assert door.services() == []


def test_what_died_is_started_again_by_recover(door):
    promote(door.home, "v1")
    door("deploy", "--port", str(door.port))
    assert "runs: http://" in door("recover")
    (service,) = door.services()
    os.kill(service, signal.SIGKILL)
    wait_until(lambda: door.services() == [])
    assert "was started again: http://" in door("recover")
    assert door.ask()["version"] == "v1"


def test_a_version_that_does_not_answer_is_not_put_live(door):
    promote(door.home, "v1")
    door("deploy", "--port", str(door.port))
    promote(door.home, "v2")
    said = door("deploy", "--question", "Who is the king of Siam?", code=1)
    assert re.search(r"error: .*\(v2\) was not put live; smoke: it does not know the answer", said)
    assert "(v1) still serves. Give it one that it answers: --question" in said
    assert door.ask()["version"] == "v1"
    assert len(door.services()) == 1
    damaged = next((door.home / "models").glob("v2/index.db"))
    damaged.write_bytes(b"no database" + damaged.read_bytes()[11:])
    said = door("deploy", code=1)
    assert "was not put live" in said
    assert door.ask()["version"] == "v1"


def test_wrong_use_is_told(door):
    assert "Nothing was deployed yet. Type: invoke deploy" in door("deployments")
    assert "There is nothing to recover" in door("recover")
    assert "No twin was promoted yet" in door("deploy", code=2)
    assert "nothing is deployed: local" in door("rollback", code=2)
    assert "there is no such target: 'moon'. Choose: local, sagemaker" in door(
        "deploy", "--target", "moon", code=2)  # fmt: skip
    assert "a process has no image, and is local" in door(
        "deploy", "--process", "--target", "sagemaker", code=2)  # fmt: skip
    assert "Nothing was pushed yet" in door(
        "deploy", "--digest", "sha256:" + "1" * 64, code=2)  # fmt: skip
    assert "There is no container engine" in door(
        "deploy", "--image", "localhost:1/a@sha256:" + "1" * 64, code=2)  # fmt: skip
    assert "no registry answers" in door("deploy", "--image", "localhost:1/a:b", code=2)


def wait_until(true):
    for _ in range(500):
        if true():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")


def test_a_detached_process_is_found_again_and_ended(tmp_path):
    process = Detached(tmp_path / "one")
    assert process.runs() is False
    assert process.last_words() == ""
    process.stop()
    process.start(["/bin/sh", "-c", "echo $WORD; exec sleep 60"], {"WORD": "hello"})
    assert Detached(tmp_path / "one").runs()
    wait_until(lambda: process.last_words() == "hello")
    process.start(["/bin/sh", "-c", "echo another"], {})
    process.stop()
    assert process.runs() is False
    assert process.last_words() == "hello"


def test_one_that_does_not_listen_is_killed_and_one_that_cannot_be_found_is_said(
    tmp_path, monkeypatch
):
    process = Detached(tmp_path / "one")
    process.start(["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], {})
    wait_until(lambda: process.last_words() == "up")
    process.stop(grace=0.2)
    assert process.runs() is False
    monkeypatch.setattr("llm_twin.delivery.deploy.detached.STOP_SECONDS", 0.1)
    process.start(["sleep", "60"], {})
    pid = tmp_path / "one" / "pid"
    wait_until(lambda: pid.exists() and pid.read_text())
    number = int(pid.read_text())
    pid.unlink()
    with pytest.raises(BusyError, match="a process does not end"):
        process.stop(grace=0.1)
    os.kill(number, signal.SIGKILL)
    wait_until(lambda: not process.runs())
