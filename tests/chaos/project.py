"""A flow of ten stages, each with an effect that must happen once; run as a process and ruined.

``python project.py RUN_ID SALT`` starts the run or goes on with it; it waits until the file
``CHAOS_GATE`` is there. Each stage writes its idempotency key to a ledger unless that is there, and
naps before and after; what the cached ones write depends on the salt alone.
"""

import fcntl
import os
import random
import subprocess
import sys
import time
from pathlib import Path

from llm_twin.errors import TwinError
from llm_twin.flow import Registry
from llm_twin.flow.cache import open_cache
from llm_twin.flow.context import context
from llm_twin.flow.policy import Backoff, Retry
from llm_twin.flow.runner import Runner
from llm_twin.flow.store import Store
from llm_twin.settings import Settings

ROOT = Path.cwd()
NAP = float(os.environ.get("CHAOS_NAP", "0.01"))
LEDGER = Path(os.environ.get("CHAOS_LEDGER", "ledger"))
GATE = Path(os.environ.get("CHAOS_GATE", os.devnull))
OUTPUTS = {"left": "left.txt", "right": "right/one.txt", "both": "both.txt"}
registry = Registry()


class Quiet:
    """A reporter that says only what belongs to no stage."""

    def note(self, text):
        print(text, flush=True)

    def __getattr__(self, name):
        return lambda *told: None


def nap():
    time.sleep(random.uniform(0, NAP))


def effect():
    """Write this stage's line, once, whoever else does the same just now."""
    nap()
    key = context().idempotency_key
    with LEDGER.open("a+") as ledger:
        fcntl.flock(ledger, fcntl.LOCK_EX)
        ledger.seek(0)
        if key not in ledger.read().split():
            ledger.write(f"{key}\n")
            ledger.flush()
            os.fsync(ledger.fileno())
    nap()


def text(stage, salt):
    """What a cached stage leaves: several blocks, so that a copy can be cut in the middle."""
    return f"{stage} {salt}\n" * int(os.environ.get("CHAOS_LINES", "2000"))


def write(stage, salt):
    effect()
    path = ROOT / OUTPUTS[stage]
    path.parent.mkdir(exist_ok=True)
    path.write_text(text(stage, salt))
    nap()


@registry.stage
def gather() -> None:
    while not GATE.exists():
        time.sleep(0.01)
    effect()


@registry.stage(needs=["gather"], outputs=["left.txt"], cached=True, retry=Retry(2))
def left(salt: str) -> None:
    write("left", salt)


@registry.stage(needs=["gather"], outputs=["right/"], cached=True)
def right(salt: str) -> None:
    write("right", salt)


@registry.stage(needs=["left", "right"], outputs=["both.txt"], cached=True)
def both(salt: str) -> None:
    write("both", salt)


@registry.stage(retry=Retry(3) + Backoff(initial=0.01))
def flaky() -> None:
    effect()
    if context().attempt == 1:
        raise ConnectionError("away")


@registry.stage(exclusive=True)
def alone() -> None:
    effect()


@registry.stage
def shell() -> None:
    subprocess.run(["sleep", str(NAP)], check=True)
    effect()


@registry.stage(needs=["both", "flaky"])
def report() -> None:
    effect()


@registry.stage(needs=["alone", "shell"])
def check() -> None:
    effect()


@registry.stage(needs=["report", "check"])
def end() -> None:
    effect()


def main(run_id, salt):
    settings = Settings.load(root=ROOT)
    runner = Runner(registry, ROOT, settings.home, Quiet(), lambda: open_cache(settings), jobs=4)
    try:
        store = Store(settings.home)
        known = store.get(run_id) if store.recorded(run_id) else None
        store.close()
        if known and known.state.good:
            return 0
        if known:
            return runner.resume(run_id).exit_code
        return runner.run("end", parameters={"salt": salt}, run_id=run_id).exit_code
    except TwinError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
