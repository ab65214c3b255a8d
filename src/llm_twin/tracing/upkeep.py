"""What the trace store needs done while it is used: forwarding, retention, sampling.

It is done by one thread of one process of an installation, whichever gets the lock; when that
process dies another takes over within seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import threading
import time
from typing import TYPE_CHECKING

from llm_twin.errors import BusyError
from llm_twin.tracing import outbox, retention, sampling
from llm_twin.tracing.forwarder import Forwarder, Halted, Later

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

LOGGER = logging.getLogger(__name__)
POLL_SECONDS = 1.0
LOCK_SECONDS = 3.0
ERROR_SECONDS = 30.0
SWEEP_SECONDS = 60.0


@contextlib.contextmanager
def only_one(settings: Settings) -> Iterator[None]:
    """Keep other processes from doing upkeep meanwhile.

    Raises:
        BusyError: one does.

    """
    path = settings.traces / "upkeep.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            # A POSIX lock: a child that was forked does not hold it on when this process dies.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(
                "another process forwards the traces already", path, "Type: invoke traces.status"
            ) from None
        yield


def sweep(store: Store, settings: Settings) -> int:
    """Drop what the settings do not keep; return how many traces that were."""
    return sampling.sweep(store, settings) + retention.sweep(store, settings)


def forward(
    store: Store, settings: Settings, tries: int = 3, stop: threading.Event | None = None
) -> int:
    """Send everything that waits; return how many entities that were.

    Args:
        store: the trace store.
        settings: where to.
        tries: how often in a row the remote may fail before this gives up.
        stop: set it to end this between two tries.

    Raises:
        ConfigError: the remote's address is none.
        Later: the remote could not take everything.
        Halted: it does not know us.

    """
    if not outbox.aim(store, settings):
        return 0
    forwarder, stop = Forwarder(store, settings), stop or threading.Event()
    with contextlib.closing(forwarder):
        while True:
            try:
                forwarder.drain()
                return forwarder.sent
            except Halted as error:
                forwarder.halt(error)
                raise
            except Later as error:
                wait = forwarder.wait(error)
                if forwarder.failures >= tries or stop.wait(wait):
                    raise


class Upkeep:
    """The thread. Start it after a fork, not before.

    Raises:
        ConfigError: the remote's address is none.

    """

    def __init__(self, store: Store, settings: Settings) -> None:
        outbox.address(settings)
        self._store = store
        self._settings = settings
        self._stop = threading.Event()
        self._swept = 0.0
        self._thread = threading.Thread(target=self._run, name="trace-upkeep", daemon=True)

    def start(self) -> Upkeep:
        """Begin."""
        self._thread.start()
        return self

    def stop(self, timeout: float = 1.0) -> None:
        """End, or be left behind: what was not sent waits in the store."""
        self._stop.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with contextlib.suppress(BusyError), only_one(self._settings):
                    self._work()
            except Exception:
                # A full disk, say: the thread lives on and begins anew.
                if not self._stop.is_set():
                    LOGGER.exception("upkeep of the trace store failed")
                    self._stop.wait(ERROR_SECONDS)
            self._stop.wait(LOCK_SECONDS)

    def _work(self) -> None:
        with contextlib.ExitStack() as ends:
            forwarder = None
            if outbox.aim(self._store, self._settings):
                forwarder = Forwarder(self._store, self._settings)
                ends.callback(forwarder.close)
            while not self._stop.is_set():
                self._sweep_at_times()
                self._stop.wait(self._forwarded(forwarder))

    def _sweep_at_times(self) -> None:
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            sweep(self._store, self._settings)

    def _forwarded(self, forwarder: Forwarder | None) -> float:
        """Forward what waits; return the seconds until the next look."""
        if forwarder is None or forwarder.halted():
            return POLL_SECONDS
        try:
            forwarder.drain()
        except Halted as error:
            LOGGER.error("forwarding of traces stopped: %s", error)
            forwarder.halt(error)
        except Later as error:
            return forwarder.wait(error)
        return POLL_SECONDS
