"""Several processes that share the service's sockets: one that dies is replaced.

The parent does nothing else, so that it can fork at any time: it has no threads and opens no twin.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING

from llm_twin.serving.boundary import log, places

if TYPE_CHECKING:
    from collections.abc import Callable

    Work = Callable[[int, Callable[[], None]], int]

ENDS = {signal.SIGTERM, signal.SIGINT}
_WATCHED = ENDS | {signal.SIGCHLD}
_PAUSE = 1.0
"""Seconds between two starts of the same worker."""


class Workers:
    """Worker processes, numbered from 0.

    Args:
        count: how many.
        work: what each does, given its number and what to call when it is ready, which returns
            once `run` was called; unblocks `ENDS` when it can handle them, and returns its exit
            code within ``grace`` after one of them.
        grace: seconds that they get at the end; whoever still lives a while later is killed.

    """

    def __init__(self, count: int, work: Work, grace: float) -> None:
        self._count = count
        self._work = work
        self._grace = grace
        self._running: dict[int, int] = {}
        self._started: dict[int, float] = {}
        self._alive, self._alive_end = os.pipe()
        self._first, self._firsts = socket.socketpair()

    def begin(self) -> int:
        """Start the first; return its exit code if it ends before it is ready, else 0."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._start(0)
        if self._first.recv(1):
            return 0
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
        return os.waitstatus_to_exitcode(os.waitpid(self._running.pop(0), 0)[1]) or 1

    def run(self, end: Callable[[], None]) -> int:
        """Run all until a SIGTERM or SIGINT; return the exit code.

        Args:
            end: called before they are told to end.

        """
        self._first.send(b"1")
        try:
            self._watch()
            end()
            return self._stop()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)

    def _watch(self) -> None:
        while True:
            for number in set(range(self._count)) - self._running.keys():
                if time.monotonic() - self._started.get(number, -_PAUSE) >= _PAUSE:
                    self._start(number)
            told = signal.sigtimedwait(_WATCHED, 0.5)
            if told is not None and told.si_signo in ENDS:
                return
            for number, code in self._ended():
                log({"event": "replaced", "worker": number, "exit": code})

    def _stop(self) -> int:
        for process in self._running.values():
            os.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + self._grace + 3
        codes = [0]
        while self._running and time.monotonic() < deadline:
            codes += [abs(code) for _, code in self._ended()]
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
        for process in self._running.values():
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
        return 1 if self._running else max(codes)

    def _ended(self) -> list[tuple[int, int]]:
        """Return number and exit code of those that ended since the last call."""
        found = []
        for number, process in list(self._running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                del self._running[number]
                found.append((number, os.waitstatus_to_exitcode(status)))
        return found

    def _start(self, number: int) -> None:
        first = not self._started
        self._started[number] = time.monotonic()
        process = os.fork()
        if process:
            self._running[number] = process
            self._firsts.close()
            return
        code = 1
        try:
            code = self._be(number, first)
        except Exception as error:
            log({"event": "crashed", "error": type(error).__name__, "at": places(error)})
        finally:
            os._exit(code)

    def _be(self, number: int, first: bool) -> int:
        os.close(self._alive_end)
        for one in ENDS:  # one that comes while it ends already changes nothing
            signal.signal(one, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        threading.Thread(target=self._end_with_parent, daemon=True).start()

        def ready() -> None:
            if first:
                self._firsts.send(b"1")
                self._firsts.recv(1)

        return self._work(number, ready)

    def _end_with_parent(self) -> None:
        """Nothing is ever written to the pipe; it ends when the parent does."""
        os.read(self._alive, 1)
        os.kill(os.getpid(), signal.SIGTERM)
