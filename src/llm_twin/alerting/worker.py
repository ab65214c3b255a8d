"""Keeps looking and delivering: one process a state folder, one thread a channel that has work.

A slow channel holds up no other and never the looking. What a killed worker left is seen to by the
next: whoever holds the lock is the only one that evaluates and sends.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING

from llm_twin.alerting import outbox
from llm_twin.alerting.channels import Undelivered
from llm_twin.alerting.outbox import LOG
from llm_twin.alerting.store import Store
from llm_twin.errors import BusyError, TwinError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from llm_twin.alerting.channels import Channel
    from llm_twin.alerting.engine import Engine

LOOK_SECONDS = 0.5
KEEP_DAYS = 90


@contextlib.contextmanager
def only_one(home: Path) -> Iterator[None]:
    """Be the only one that evaluates and sends the alerts of a state folder.

    Raises:
        BusyError: another process is.

    """
    home.mkdir(parents=True, exist_ok=True)
    with (home / "alerts.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("another process sees to the alerts", home, "Nothing to do") from None
        yield


class Worker:
    """Evaluates and delivers; use it inside ``only_one``.

    Args:
        home: the state folder.
        engine: over the store of that folder.
        channels: by name, the log among them.

    """

    def __init__(self, home: Path, engine: Engine, channels: Mapping[str, Channel]) -> None:
        self.home, self.engine, self.channels = home, engine, channels
        self._busy: dict[str, threading.Thread] = {}
        self._complaint = ""
        engine.store.forget(time.time() - KEEP_DAYS * 86400)

    def run(self, stop: threading.Event) -> None:
        """Look and deliver until stopped, then wait for what is on its way."""
        while not stop.is_set():
            try:
                self.engine.step()
                self._deliver()
            except (OSError, sqlite3.Error) as error:
                self._complain(error)
            stop.wait(LOOK_SECONDS)
        self._join(time.monotonic() + 60)

    def once(self, patience: float) -> int:
        """Look once and send what is due; return how much still waits.

        Args:
            patience: seconds for which channels that fail are tried again.

        """
        self.engine.step()
        deadline = time.monotonic() + patience
        while True:
            self._deliver()
            self._join(deadline)
            waiting = outbox.waiting(self.engine.store)
            if not waiting or time.monotonic() > deadline:
                return waiting
            time.sleep(0.1)

    def _deliver(self) -> None:
        now = time.time()
        if not any(thread.is_alive() for thread in self._busy.values()):
            outbox.recover(self.engine.store, self.engine.dedup)
        names = [name for name in self.channels if name != LOG]
        also = [name for name in names if self.channels[name].always]
        outbox.route(self.engine.store, names, now, also)
        for name in outbox.due(self.engine.store, now):
            if name not in self._busy or not self._busy[name].is_alive():
                drain = threading.Thread(target=self._drain, args=(name,), daemon=True)
                self._busy[name] = drain
                drain.start()

    def _join(self, deadline: float) -> None:
        for thread in self._busy.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _complain(self, error: Exception) -> None:
        if str(error) != self._complaint:
            print(f"error: alerts cannot be kept: {error}", file=sys.stderr, flush=True)
            self._complaint = str(error)

    def _drain(self, name: str) -> None:
        try:
            with contextlib.closing(Store(self.home)) as store:
                self._send_all(name, store)
        except (OSError, sqlite3.Error, TwinError) as error:
            self._complain(error)

    def _send_all(self, name: str, store: Store) -> None:
        while delivery := outbox.take(store, name, time.time()):
            try:
                self.channels[name].reach()
                outbox.sending(store, delivery, time.time())
                self.channels[name].send(delivery)
            except Undelivered as error:
                outbox.failed(store, delivery, str(error), time.time(), refused=error.refused)
            else:
                outbox.sent(store, delivery, time.time())
