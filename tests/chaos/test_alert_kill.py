"""kill -9 at random moments of evaluation and delivery: no alert is lost, none arrives twice.

What a kill leaves in doubt is held back for the dedup window, so within it nothing can arrive
twice; after it everything has arrived, and at most one repeat for each kill that left a doubt.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from llm_twin.alerting.store import Store, record

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "unit/alerting"))
from alert_receiver import Receiver

pytestmark = pytest.mark.chaos
KILLS = int(os.environ.get("CHAOS_KILLS", "100"))
SEED = os.environ.get("CHAOS_SEED", str(random.randrange(10**6)))

# Imports once and forks a worker for each line that it reads: the dedup window.
NURSERY = """
import os, signal, sys, threading
from pathlib import Path
import apprise, apprise.plugins.custom_json
from llm_twin.alerting import channels, worker
from llm_twin.alerting.conditions import event
from llm_twin.alerting.engine import Engine
from llm_twin.alerting.rules import Rule
from llm_twin.alerting.store import Store
from llm_twin.settings import Settings
home, url = Path(sys.argv[1]), sys.argv[2]
worker.LOOK_SECONDS = 0.01
channels.load(Settings(home=home, alert_urls="ops=" + url))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
rule = Rule(name="broken", when=event("it.broke"), group_by=("subject",), text="{subject}")
for line in sys.stdin:
    pid = os.fork()
    if not pid:
        known = channels.load(Settings(home=home, alert_urls="ops=" + url))
        with worker.only_one(home):
            engine = Engine(Store(home), [rule], dedup=line.strip())
            worker.Worker(home, engine, known).run(threading.Event())
    print(pid, flush=True)
"""


def test_no_alert_is_lost_and_none_arrives_twice(tmp_path):
    print(f"CHAOS_SEED={SEED}")
    chance = random.Random(SEED)
    receiver = Receiver()
    nursery = subprocess.Popen(
        [sys.executable, "-c", NURSERY, str(tmp_path), receiver.url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )

    def bear(dedup: str) -> int:
        nursery.stdin.write(f"{dedup}\n")
        nursery.stdin.flush()
        return int(nursery.stdout.readline())

    try:
        made = 0
        for _ in range(KILLS):
            receiver.status = chance.choice((200, 200, 200, 503))
            pid = bear("1h")
            for _ in range(chance.randrange(4)):
                record(tmp_path, "it.broke", f"thing-{made}", {})
                made += 1
            time.sleep(chance.uniform(0, 0.15))
            os.kill(pid, signal.SIGKILL)
            while Path(f"/proc/{pid}").exists():
                time.sleep(0.001)
        within = Counter(one["title"] for one in receiver.got)
        assert set(within.values()) <= {1}

        receiver.status = 200
        with closing(Store(tmp_path)) as store:
            sql = "SELECT count(*) FROM delivery WHERE channel = 'ops' AND "
            doubtful = store.db.execute(f"{sql} (unsure OR state = 'sending')").fetchone()[0]
            store.db.execute("UPDATE delivery SET again = 0")
        last = bear("0s")
        deadline = time.monotonic() + 120
        with closing(Store(tmp_path)) as store:
            done = "SELECT count(*) FROM delivery WHERE channel = 'ops' AND state = 'sent'"
            while store.db.execute(done).fetchone()[0] < made:
                assert time.monotonic() < deadline, "not everything arrived"
                time.sleep(0.05)
        os.kill(last, signal.SIGKILL)
        arrived = Counter(one["title"] for one in receiver.got)
        print(
            f"{made} alerts, {KILLS} kills, {doubtful} in doubt, "
            f"{sum(arrived.values()) - made} repeats after the window"
        )
        assert set(arrived) == {f"ERROR broken: thing-{n}" for n in range(made)}
        assert sum(arrived.values()) - made <= doubtful <= KILLS
        log = (tmp_path / "alerts.log").read_text()
        assert all(log.count(f"broken: thing-{n} |") == 1 for n in range(made))
    finally:
        nursery.kill()
        nursery.wait(20)
        receiver.close()
