"""Keep looking: the loop behind ``invoke automate``, and the one look of ``--once``."""

from __future__ import annotations

import signal
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING

from llm_twin.flow.automation.hooks import hook_secrets, open_receiver
from llm_twin.flow.automation.words import require

if TYPE_CHECKING:
    from types import FrameType

    from llm_twin.flow.automation.engine import Engine
    from llm_twin.flow.automation.ledger import Firing

BEAT_SECONDS = 1.0
LOOK_SECONDS = 5.0
POLL_SECONDS = 0.2


def look_once(engine: Engine) -> list[Firing]:
    """Fire what is due, see it and what follows from it through, and return those firings.

    Timers fire at the first look only, or a short interval would never let this end. Files that
    move are given their time to settle once; what moves on is for the next time.
    """
    seen = {firing.id: firing for firing in engine.tick()}
    if engine.watch.moving:
        longest = max(engine.watch.triggers[name].settle for name in engine.watch.moving)
        engine.clock.sleep(longest)
        seen |= {firing.id: firing for firing in engine.tick(timers=False)}
    while any(firing.ended is None for firing in seen.values()):
        engine.clock.sleep(POLL_SECONDS)
        seen |= {firing.id: firing for firing in engine.tick(timers=False)}
    return list(seen.values())


class Daemon:
    """Looks when something is due, when something happened, and every few seconds."""

    def __init__(self, engine: Engine, host: str, port: int) -> None:
        """Listen for webhooks, if any are declared.

        Raises:
            ConfigError: the address cannot be listened on.
            NotReadyError: the package that watches files is not installed.

        """
        if engine.watch.triggers:
            require("watchfiles")
        self.engine = engine
        self.stopping = False
        self.woken = threading.Event()
        self.stop = threading.Event()
        self.version = -1
        engine.wake = self.woken.set
        secrets = hook_secrets(engine.automations)
        self.receiver = (
            open_receiver(secrets, engine.store.home, host, port, self._received)
            if secrets
            else None
        )

    def run(self) -> None:
        """Look until SIGTERM or Ctrl-C; runs that were started go on by themselves."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask_to_stop)
        watch = self.engine.watch
        threads = [
            threading.Thread(target=watch.follow, args=(deep, self.stop, self.woken.set))
            for deep in (True, False)
            if watch.triggers
        ]
        if self.receiver:
            threads.append(threading.Thread(target=self.receiver.serve_forever))
        for thread in threads:
            thread.start()
        try:
            while not self.stopping:
                self._look()
        finally:
            self.stop.set()
            if self.receiver:
                self.receiver.shutdown()
                self.receiver.server_close()
            for thread in threads:
                thread.join()

    def _ask_to_stop(self, _number: int, _frame: FrameType | None) -> None:
        # Only a flag: the loop may hold the event's lock at this very moment.
        self.stopping = True

    def _received(self, line: str) -> None:
        self.engine.say(line)
        self.woken.set()

    def _look(self) -> None:
        """One look, and waiting for the next reason to look."""
        self.woken.clear()
        try:
            goes_on = any(firing.ended is None for firing in self.engine.tick())
            due = self.engine.next_due()
        except sqlite3.OperationalError as error:
            print(f"error: the history cannot be written ({error})", file=sys.stderr, flush=True)
            goes_on, due = False, None
        until = time.monotonic() + LOOK_SECONDS
        while not self.stopping and time.monotonic() < until:
            ahead = LOOK_SECONDS if due is None else due - self.engine.clock.now()
            if self.woken.wait(max(0.0, min(BEAT_SECONDS, ahead))):
                return
            if ahead <= BEAT_SECONDS or goes_on or self._changed():
                return

    def _changed(self) -> bool:
        """Whether another process wrote to the history."""
        before = self.version
        self.version = self.engine.store.db.execute("PRAGMA data_version").fetchone()[0]
        return self.version != before
