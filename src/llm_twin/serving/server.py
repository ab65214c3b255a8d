"""Runs the service: its sockets, its signals, and an end that is graceful but bounded."""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import TYPE_CHECKING

import uvicorn

from llm_twin.errors import BusyError, ConfigError
from llm_twin.serving.api import create_app
from llm_twin.serving.boundary import log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

    from llm_twin.settings import Settings

GRACE = 8.0
"""Seconds that running requests get at the end; docker kills after ten."""


def serve(settings: Settings, host: str, ports: Sequence[int], grace: float = GRACE) -> None:
    """Serve the promoted bundle until SIGTERM or SIGINT; every port answers everything.

    Args:
        settings: where the bundle is.
        host: address to listen at.
        ports: port 0 takes a free one; the first line of output names them all.
        grace: seconds that running requests get at the end; what is not done by then is cut off,
            and the exit code is 1.

    Raises:
        NotReadyError: nothing was promoted yet.
        BusyError: a port is taken.
        ConfigError: the address or a port cannot be used.

    """
    app = create_app(settings)
    version = app.state.production.probe()
    sockets = [_listen(host, port) for port in ports]
    shown = f"[{host}]" if ":" in host else host
    urls = [f"http://{shown}:{one.getsockname()[1]}" for one in sockets]
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
    )
    log({"event": "listening", "urls": urls, "version": version})
    _Server(config, grace).run(sockets)
    log({"event": "stopped"})


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, grace: float) -> None:
        super().__init__(config)
        self._grace = grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests, and finish those that run."""
        self.should_exit = True
        deadline = threading.Timer(self._grace, _give_up)
        deadline.daemon = True
        deadline.start()


def _give_up() -> None:
    log({"event": "stopped", "error": "requests that still ran were cut off"})
    # The threads that answer cannot be interrupted, and a normal exit would wait for them.
    os._exit(1)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        place = f"{host}:{port}"
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise BusyError(
                "the port is taken", place, "Choose another, or 0 for a free one"
            ) from (None)
        reason = getattr(error, "strerror", None) or "ports end at 65535"
        raise ConfigError(
            f"the service cannot listen there ({reason})", place, "Set --host and --port"
        ) from None
