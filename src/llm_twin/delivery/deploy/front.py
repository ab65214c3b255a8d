"""The stable port of the local target: starts its proxy, points it, and takes it away."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.deploy.detached import Detached
from llm_twin.errors import ConfigError, RemoteError
from llm_twin.listening import listen
from llm_twin.model import durable

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
PORT = 8000
START_SECONDS = 20.0
DRAIN_SECONDS = 30.0
MODULE = "llm_twin.delivery.deploy.proxy"


@dataclass(frozen=True)
class Front:
    """The proxy of one state folder.

    Attributes:
        folder: ``<home>/deployments/front``: its port, its backend's address, its log.

    """

    folder: Path

    @property
    def port(self) -> int:
        """Where it listens or did last; 0 if there is none."""
        try:
            return int((self.folder / "port").read_text())
        except (OSError, ValueError):
            return 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.port}"

    def start(self, port: int = 0) -> None:
        """Start it unless it runs, and wait until it answers.

        Args:
            port: where to listen; 0: where it did before, else 8000.

        Raises:
            BusyError: the port is taken.
            ConfigError: it listens elsewhere already, or cannot listen there.
            RemoteError: it does not answer.

        """
        process = Detached(self.folder)
        if process.runs():
            if port not in (0, self.port):
                raise ConfigError(
                    "the service has another port already",
                    self.port,
                    "Leave --port out, or move it: invoke undeploy, then deploy again",
                )
        else:
            with listen(HOST, port or self.port or PORT, "Choose another: --port") as listening:
                self.folder.mkdir(parents=True, exist_ok=True)
                (self.folder / "port").write_text(str(listening.getsockname()[1]))
                descriptor = listening.fileno()
                process.start(
                    [sys.executable, "-m", MODULE, str(self.folder), str(descriptor)],
                    {},
                    [descriptor],
                )
        self._wait(process)

    def point(self, backend: str) -> None:
        """Send what comes from now on to an address; empty: to nobody."""
        building = self.folder / f".backend.{os.getpid()}"
        building.write_text(f"{backend}\n")
        durable.sync(building)
        building.replace(self.folder / "backend")
        durable.sync(self.folder)

    def status(self) -> dict[str, Any]:
        """What the proxy says of itself; empty if it does not run."""
        found: dict[str, Any] = {}
        connection = http.client.HTTPConnection(HOST, self.port, timeout=5)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException, ValueError),
        ):
            connection.request("GET", "/-/front")
            found = json.loads(connection.getresponse().read())
        return found if found.get("folder") == str(self.folder) else {}

    def drain(self, backend: str) -> None:
        """Wait until a backend has no request under way, for at most half a minute."""
        until = time.monotonic() + DRAIN_SECONDS
        while self.status().get("in_flight", {}).get(backend) and time.monotonic() < until:
            time.sleep(0.05)

    def remove(self) -> None:
        """End it, requests under way first, and remove its files."""
        Detached(self.folder).stop(grace=15.0)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _wait(self, process: Detached) -> None:
        until = time.monotonic() + START_SECONDS
        while not self.status():
            if time.monotonic() > until or not process.runs():
                raise RemoteError(
                    f"the proxy in front of the service does not answer ({process.last_words()})",
                    self.url,
                    f"Read {process.log}",
                )
            time.sleep(0.05)
