"""Runs the service: its sockets, its signals, and an end that is graceful but bounded."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import uvicorn

from llm_twin.errors import ConfigError, NotReadyError, SpaceError, TwinError
from llm_twin.listening import listen
from llm_twin.serving.api import create_app
from llm_twin.serving.boundary import log
from llm_twin.serving.metrics import Figures
from llm_twin.serving.workers import ENDS, Workers

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from types import FrameType

    from llm_twin.serving.desk import Desk
    from llm_twin.settings import Settings

HINT = "Set --host and --port; port 0 is a free one"
GRACE = 8.0
"""Seconds that running requests get at the end; docker kills after ten."""

LISTEN_ON = 2.0
"""Seconds that ``/readyz`` still says 503 while requests run, before nothing is accepted."""


def serve(
    settings: Settings, host: str, ports: Sequence[int], grace: float = GRACE, workers: int = 1
) -> int:
    """Serve the promoted bundle until SIGTERM or SIGINT; every port answers everything.

    Args:
        settings: where the bundle is, and what is traced.
        host: address to listen at.
        ports: port 0 takes a free one; the first line of output names them all.
        grace: seconds that running requests get at the end; what is not done by then is cut off,
            and the exit code is 1.
        workers: processes that answer; above 1, one that dies is replaced.

    Returns:
        the exit code.

    Raises:
        NotReadyError: nothing was promoted yet.
        BusyError: a port is taken.
        ConfigError: the address, a port or a setting cannot be used.

    """
    if not 1 <= workers <= 64:
        raise ConfigError("there can be 1 to 64 workers", workers, "Set --workers")
    figures = Figures(workers)
    if workers == 1:
        one = _Worker(settings, figures)
        sockets = [listen(host, port, HINT) for port in ports]
        _tell_listening(host, sockets, one.version)
        one.run(sockets, grace)
        log({"event": "stopped"})
        return 0
    return _serve_many(settings, figures, host, ports, grace, workers)


def _serve_many(
    settings: Settings,
    figures: Figures,
    host: str,
    ports: Sequence[int],
    grace: float,
    workers: int,
) -> int:
    sockets = [listen(host, port, HINT) for port in ports]

    def work(number: int, ready: Callable[[], None]) -> int:
        figures.become(number)
        try:
            one = _Worker(settings, figures)
        except TwinError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return error.exit_code
        ready()
        one.run(sockets, grace)
        return 0

    def end() -> None:
        for one in sockets:
            one.close()

    pool = Workers(workers, work, grace)
    if code := pool.begin():
        return code
    _tell_listening(host, sockets, workers=workers)
    code = pool.run(end)
    log({"event": "stopped"})
    return code


class _Worker:
    """A process that answers.

    Attributes:
        version: of the twin that it opened.

    """

    def __init__(self, settings: Settings, figures: Figures) -> None:
        self._app = create_app(settings, figures=figures)
        self._desk: Desk = self._app.state.desk
        self.version = self._desk.production.probe()
        self._ends = ExitStack()
        self._untraced = _start_tracing(settings, self._ends) if settings.trace else None

    def run(self, sockets: Sequence[socket.socket], grace: float) -> None:
        """Answer until a SIGTERM or SIGINT; what was asked by then is answered."""
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            # One connection at a time, or a worker takes all that wait and the others none.
            backlog=1,
        )
        if self._untraced:
            kind = type(self._untraced).__name__
            log({"event": "untraced", "error": kind, "reason": str(self._untraced)})
        with self._ends:
            _Server(config, grace, self._desk).run(list(sockets))


def _start_tracing(settings: Settings, ends: ExitStack) -> TwinError | None:
    """Trace this process's answers, and do the upkeep of the store; return why it cannot."""
    from llm_twin.tracing import client
    from llm_twin.tracing.upkeep import Upkeep

    try:
        tracing = client.start(settings)
    except (NotReadyError, SpaceError) as error:
        return error
    ends.callback(tracing.stop)
    ends.callback(Upkeep(tracing.store, settings).start().stop)
    return None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, grace: float, desk: Desk) -> None:
        super().__init__(config)
        self._grace = grace
        self._desk = desk
        self._told = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Be ready no more, and finish the requests that run."""
        if self._desk.draining:
            return
        self._desk.draining = True
        self._told = time.monotonic()
        deadline = threading.Timer(self._grace, _give_up)
        deadline.daemon = True
        deadline.start()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin; a signal that a worker was sent before that is heard now."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Stop listening when nothing runs any more, or soon."""
        if self._desk.draining:
            waited = time.monotonic() - self._told
            self.should_exit = not self.server_state.tasks or waited > min(LISTEN_ON, self._grace)
        return await super().on_tick(counter)


def _give_up() -> None:
    log({"event": "stopped", "error": "requests that still ran were cut off"})
    # The threads that answer cannot be interrupted, and a normal exit would wait for them.
    os._exit(1)


def _tell_listening(
    host: str, sockets: Sequence[socket.socket], version: str = "", workers: int = 1
) -> None:
    shown = f"[{host}]" if ":" in host else host
    urls = [f"http://{shown}:{one.getsockname()[1]}" for one in sockets]
    log({"event": "listening", "urls": urls, "version": version, "workers": workers})
