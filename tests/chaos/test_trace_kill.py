"""kill -9 at random moments under load: every answer that was returned has its whole trace."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llm_twin.settings import Settings
from llm_twin.tracing import client, upkeep
from llm_twin.tracing.store.routing import Request, problem
from llm_twin.tracing.store.store import Store
from tests.unit.tracing.remotes import RemoteStore, serving

pytestmark = pytest.mark.chaos
KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
OUTAGE = float(os.environ.get("CHAOS_OUTAGE", "20"))  # seconds
SEED = os.environ.get("CHAOS_SEED", str(random.randrange(10**6)))
PER_SECOND = 50

# Imports once and forks a service for each life. A service is a worker that traced already and one
# forked from it, as gunicorn --preload does. An answer counts as returned once it is in the file.
NURSERY = """
import os, signal, sys, time
from pathlib import Path
from llm_twin.settings import Settings
from llm_twin.tracing import client, track, upkeep
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
    settings = Settings(home=home, opik_url=sys.argv[3])
    returned = os.open(home / f"returned-{life}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    tracing = client.start(settings)
    upkeep.Upkeep(tracing.store, settings).start()
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


@contextmanager
def nursery(home: Path, url: str = "") -> Iterator[subprocess.Popen[str]]:
    """Services in a home, forwarding to an address, if that is not empty."""
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY, home, str(2 / PER_SECOND), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def _carried_on(home: Path) -> Store:
    """The store, once it has what all journals held."""
    settings = Settings(home=home)
    store, journal = Store(settings.traces), settings.traces / "journal"
    deadline = time.monotonic() + 30
    while list(journal.glob("*.journal")) and time.monotonic() < deadline:
        client.recover(settings, store)
    assert list(journal.glob("*.journal")) == []
    assert not (journal / "refused.ndjson").exists()
    return store


def _whole(store: Store) -> list[str]:
    """The answers whose traces have all that belongs to them."""
    return sorted(
        name.removeprefix("n=")
        for names in _traces(store).values()
        if {"answer", "retrieve", "generate"} <= names
        for name in names
        if name.startswith("n=")
    )


def test_every_answer_that_was_returned_has_its_whole_trace(tmp_path: Path) -> None:
    print(f"\nCHAOS_SEED={SEED} CHAOS_KILLS={KILLS}")
    chance = random.Random(SEED)
    returned: set[str] = set()
    with nursery(tmp_path) as services:
        for life in range(KILLS):
            returned |= _live(services, life, tmp_path, chance)

    store = _carried_on(tmp_path)
    whole = _whole(store)
    print(f"{KILLS} kills, {len(returned)} answers returned, {len(whole)} whole traces")
    assert len(returned) >= KILLS // 2
    assert returned - set(whole) == set()
    store.close()


def test_after_an_outage_the_remote_has_every_answer_once(tmp_path: Path) -> None:
    print(f"\nCHAOS_SEED={SEED} CHAOS_OUTAGE={OUTAGE} seconds")
    chance, returned, lives = random.Random(SEED), set[str](), 0
    remote = RemoteStore(tmp_path / "there")
    hangs = threading.Event()
    faults = {
        "fine": lambda request: None,
        "500": lambda request: problem(500, "broken"),
        "hangs": lambda request: hangs.wait(20) and None,
    }
    home = tmp_path / "here"
    home.mkdir()
    with serving(remote) as url:
        with nursery(home, url) as services:
            for way, share in {"fine": 0.1, "hangs": 0.1, "500": 0.8}.items():
                remote.fault, until = faults[way], time.monotonic() + share * OUTAGE
                while time.monotonic() < until:
                    returned |= _live(services, lives, home, chance)
                    lives += 1
        hangs.set()
        remote.fault = faults["fine"]
        store = _carried_on(home)
        upkeep.forward(store, Settings(home=home, opik_url=url), tries=10)
    whole = _whole(store)
    print(f"{lives} kills, {len(returned)} answers returned, {len(whole)} whole traces")
    assert returned - set(whole) == set()
    assert _whole(remote) == whole
    store.close()
    remote.close()
