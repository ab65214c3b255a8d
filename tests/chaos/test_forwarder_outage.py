"""The remote goes away in every way while the forwarder is killed; all of it arrives once."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import pytest
from scene import SEED

from llm_twin.settings import Settings
from llm_twin.tracing import upkeep
from llm_twin.tracing.status import status
from llm_twin.tracing.store.routing import problem
from llm_twin.tracing.store.store import Store
from tests.unit.tracing.remotes import RemoteStore, rows, score, serving, span, trace

pytestmark = pytest.mark.chaos
KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
FORWARDER = """
import sys, time
from pathlib import Path
from llm_twin.settings import Settings
from llm_twin.tracing import forwarder, upkeep
from llm_twin.tracing.store.store import Store

forwarder.LONGEST_WAIT, forwarder.FIRST_WAIT, upkeep.LOCK_SECONDS = 0.2, 0.05, 0.05
upkeep.POLL_SECONDS = 0.02
settings = Settings(home=Path(sys.argv[1]), opik_url=sys.argv[2])
upkeep.Upkeep(Store(settings.traces), settings).start()
print("forwards", flush=True)
time.sleep(120)
"""


class Remote:
    """A store behind HTTP that is stopped, restarted, hung, or answers 500."""

    def __init__(self, home, chance):
        self.store = RemoteStore(home)
        self.chance = chance
        self.hangs = threading.Event()
        self._open = ExitStack()
        self.url = self._open.enter_context(serving(self.store))
        self.port = int(self.url.rpartition(":")[2].partition("/")[0])

    def misbehave(self):
        way = self.chance.choice(["fine", "500", "answer lost", "hung", "stopped", "busy"])
        self.recover()
        faults = {
            "500": lambda request: problem(500, "broken"),
            "busy": lambda request: problem(429, "busy") if self.chance.random() < 0.5 else None,
            "answer lost": self._lost,
            "hung": lambda request: self.hangs.wait(60) and None,
        }
        if way == "stopped":
            self._open.close()
        elif way in faults:
            self.hangs.clear()
            self.store.fault = faults[way]
        return way

    def _lost(self, request):
        if request.method != "GET" and self.chance.random() < 0.5:
            Store.handle(self.store, request)
            return problem(500, "stored, but the answer was lost")
        return None

    def recover(self):
        self.store.fault = lambda request: None
        self.hangs.set()
        self._open.close()
        self.url = self._open.enter_context(serving(self.store, self.port))

    def close(self):
        self.hangs.set()
        self._open.close()
        self.store.close()


def write(store, stop):
    while not stop.is_set():
        identity = trace(store, input="x" * 2000)
        score(store, "trace", identity, value=0.5)
        score(store, "span", span(store, identity, output="y" * 500))
        time.sleep(0.02)


def test_all_arrives_once_whatever_happens(tmp_path):
    print(f"\nCHAOS_SEED={SEED} CHAOS_KILLS={KILLS}")
    chance = random.Random(f"{SEED} forwarder")
    remote, stop = Remote(tmp_path / "there", chance), threading.Event()
    settings = Settings(home=tmp_path / "here", opik_url=remote.url)
    here = Store(settings.traces)
    writer = threading.Thread(target=write, args=(here, stop))
    writer.start()
    ways = []
    try:
        for _ in range(KILLS):
            command = [sys.executable, "-c", FORWARDER, str(settings.home), remote.url]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            try:
                assert process.stdout.readline() == "forwards\n"
                ways.append(remote.misbehave())
                time.sleep(chance.uniform(0, 1))
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate(timeout=10)
    finally:
        stop.set()
        writer.join(30)
    remote.recover()
    waited = sum(status(here).queued.values())
    upkeep.forward(here, settings, tries=10)
    found = status(here)
    assert (found.queued, found.parked, found.error) == ({}, {}, "")
    for what in ("id FROM trace", "id, trace_id FROM span", "kind, entity, value FROM score"):
        sent, arrived = (sorted(rows(one, f"SELECT {what}")) for one in (here, remote.store))
        assert sent == arrived, what
    print(f"{len(sent)} scores, {waited} entities waited at the end; {' '.join(ways)}")
    assert waited < sum(found.kept.values()), "nothing was forwarded while it was killed"
    remote.close()
    here.close()
