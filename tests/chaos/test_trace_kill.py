"""kill -9 at random moments under load: every answer that was returned has its whole trace."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm_twin.settings import Settings
from llm_twin.tracing import client
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

pytestmark = pytest.mark.chaos
KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
SEED = os.environ.get("CHAOS_SEED", str(random.randrange(10**6)))
PER_SECOND = 50

# Imports once and forks a service for each life. A service is a worker that traced already and one
# forked from it, as gunicorn --preload does. An answer counts as returned once it is in the file.
NURSERY = """
import os, signal, sys, time
from pathlib import Path
from llm_twin.settings import Settings
from llm_twin.tracing import client, track
os.environ.update(client.QUIET)
import llm_twin.tracing.intercept
home, pause = Path(sys.argv[1]), float(sys.argv[2])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)

@track.traced("retrieve", "tool", after=lambda found: {"output": {"chunks": found}})
def retrieve(n):
    return ["words " * 100] * 3

@track.traced("generate", "llm", after=lambda text: {"output": {"text": text}})
def generate(n):
    return "an answer " * 50

@track.traced("answer", before=lambda n: {"input": {"n": n}}, after=lambda n: {"output": {"n": n}})
def answer(n):
    retrieve(n)
    generate(n)
    return n

def serve(life):
    os.setsid()
    returned = os.open(home / f"returned-{life}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    client.start(Settings(home=home))
    answer(f"{life}-parent")
    side, n = ("a" if os.fork() else "b"), 0
    while True:
        os.write(returned, (answer(f"{life}-{side}-{n}") + "\\n").encode())
        n += 1
        time.sleep(pause)

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        serve(line.strip())
    print(pid, flush=True)
"""


def _live(nursery: subprocess.Popen[str], life: int, home: Path, chance: random.Random) -> set[str]:
    """Let a service answer for a random time, kill all of it, and return what it had returned."""
    assert nursery.stdin is not None
    assert nursery.stdout is not None
    print(life, file=nursery.stdin, flush=True)
    group = int(nursery.stdout.readline())
    returned = home / f"returned-{life}"
    deadline = time.monotonic() + 60
    while not (returned.exists() and returned.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(chance.uniform(0, 0.5))
    os.killpg(group, 9)
    return set(returned.read_text().split())


def _traces(store: Store) -> dict[str, set[str]]:
    """The names of the spans of each answer's trace."""
    names: dict[str, set[str]] = {}
    for kind in ("traces", "spans"):
        page, found = 0, [{}]
        while found:
            page += 1
            asked = {"project_name": "llm-twin", "size": "1000", "page": str(page)}
            answered = store.handle(Request("GET", f"v1/private/{kind}", asked))
            assert isinstance(answered.body, bytes)
            found = json.loads(answered.body)["content"]
            for row in found:
                names.setdefault(row.get("trace_id", row["id"]), set()).add(row["name"])
                if kind == "traces" and "end_time" in row and row["output"] == row["input"]:
                    names[row["id"]].add(f"n={row['input']['n']}")
    return names


def test_every_answer_that_was_returned_has_its_whole_trace(tmp_path: Path) -> None:
    print(f"\nCHAOS_SEED={SEED} CHAOS_KILLS={KILLS}")
    chance = random.Random(SEED)
    returned: set[str] = set()
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, tmp_path, str(2 / PER_SECOND)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for life in range(KILLS):
            returned |= _live(nursery, life, tmp_path, chance)
    finally:
        nursery.kill()
        nursery.wait(30)

    store = Store(tmp_path)
    deadline = time.monotonic() + 30
    while list((tmp_path / "traces" / "journal").glob("*.journal")) and time.monotonic() < deadline:
        client.recover(Settings(home=tmp_path), store)
    whole = {
        name.removeprefix("n=")
        for names in _traces(store).values()
        if {"answer", "retrieve", "generate"} <= names
        for name in names
        if name.startswith("n=")
    }
    print(f"{KILLS} kills, {len(returned)} answers returned, {len(whole)} whole traces")
    assert len(returned) >= KILLS // 2
    assert returned - whole == set()
    assert list((tmp_path / "traces" / "journal").glob("*.journal")) == []
    assert not (tmp_path / "traces" / "journal" / "refused.ndjson").exists()
    store.close()
