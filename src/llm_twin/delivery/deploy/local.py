"""The local target: new beside old behind a stable port, switched only when the new one answers."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llm_twin.delivery.deploy.container import (
    HOME_LABEL,
    Container,
    plain_errors,
    remove_container,
)
from llm_twin.delivery.deploy.front import Front
from llm_twin.delivery.deploy.process import Process
from llm_twin.delivery.deploy.smoke import LATENCY_SECONDS, READY_SECONDS, smoke
from llm_twin.delivery.deploy.steps import Deployment, Step, nothing
from llm_twin.delivery.engine import Engine, find_engine
from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from llm_twin.delivery.deploy.backends import Backend
    from llm_twin.settings import Settings

SLOWEST = 3.0
"""A single answer may take so many times what their median may."""


class Local:
    """Deploys to this machine.

    A deployment's options: ``port``, ``question``, ``citation``, ``latency`` and ``ready`` in
    seconds, and for a process ``version``, that of the bundle.

    Args:
        settings: the state folder, and what the service is told.
        engine: runs containers; None: the one that is found when it is needed.

    """

    name = "local"

    def __init__(self, settings: Settings, engine: Engine | None = None) -> None:
        self.settings = settings
        self.engine = engine
        self.front = Front(settings.home / "deployments" / "front")

    def steps(self, deployment: Deployment, previous: Deployment | None) -> list[Step]:
        """Front, fetch, start, smoke, switch, retire."""
        rollout = _Rollout(self, deployment, previous)
        backend = rollout.backend
        return [
            Step("front", rollout.open_front, rollout.close_front),
            # An engine that could not even give the image has no container to remove.
            Step("fetch", backend.fetch, nothing if deployment.image else backend.remove),
            Step("start", backend.start, backend.remove),
            Step("smoke", rollout.smoke),
            Step("switch", rollout.switch, rollout.switch_back, commits=True),
            Step("retire", rollout.retire),
        ]

    def removal(self, live: Deployment | None, history: list[Deployment]) -> list[Step]:
        """Front, containers, processes, files."""

        def remove_containers() -> None:
            if any(one.image and one.facts for one in history):
                self._remove_containers()

        def remove_processes() -> None:
            for one in history:
                if not one.image:
                    Process(self.settings, one).remove()

        return [
            Step("front", self.front.remove),
            Step("containers", remove_containers),
            Step("processes", remove_processes),
        ]

    def describe(self, live: Deployment) -> str:
        """The stable address."""
        return self.front.url

    def revive(self, live: Deployment) -> bool:
        """Start again whatever of the live deployment has died; whether anything had.

        Raises:
            TwinError: it cannot be started.

        """
        backend = self.backend(live)
        url = backend.url()
        if url and self.front.status().get("backend") == url:
            return False
        self.front.start()
        self.front.point(_running(backend))
        return True

    def backend(self, deployment: Deployment) -> Backend:
        """What runs, or ran, for a deployment."""
        if not deployment.image:
            return Process(self.settings, deployment)
        return Container(self.settings, self._engine(), deployment)

    def _engine(self) -> Engine:
        if self.engine is None:
            self.engine = find_engine()
        return self.engine

    def _remove_containers(self) -> None:
        engine = self._engine()
        with plain_errors(HOME_LABEL):
            label = {"label": f"{HOME_LABEL}={self.settings.home}"}
            for found in engine.api.containers(all=True, filters=label):
                remove_container(engine, found["Id"])


@dataclass(frozen=True)
class _Rollout:
    """The steps of one deployment."""

    target: Local
    deployment: Deployment
    previous: Deployment | None

    @property
    def backend(self) -> Backend:
        return self.target.backend(self.deployment)

    @property
    def front(self) -> Front:
        return self.target.front

    def open_front(self) -> dict[str, str]:
        """First of all: a port that is taken is found before anything else is done."""
        moves = self.deployment.kind == "deploy" or self.previous is None
        self.front.start(int(self.deployment.options.get("port") or 0) if moves else 0)
        return {"url": self.front.url}

    def close_front(self) -> None:
        if self.previous is None:
            self.front.remove()

    def smoke(self) -> dict[str, str]:
        options, facts = self.deployment.options, self.deployment.facts
        latency = float(options.get("latency") or LATENCY_SECONDS)

        def ask(question: str) -> tuple[int, dict[str, Any], float]:
            self._ended()
            try:
                return _ask(self.backend.url(), question, latency * SLOWEST, self.target.settings)
            except TimeoutError:
                raise RemoteError(
                    f"it gave no answer in {latency * SLOWEST:g} s",
                    question,
                    "Allow more: --latency",
                ) from None
            except (OSError, http.client.HTTPException) as error:
                self._ended(within=2.0)
                raise RemoteError(
                    f"it cut the connection ({type(error).__name__})", question
                ) from None

        return smoke(
            ask,
            self._ready,
            options.get("question") or facts.get("question", ""),
            # A citation belongs to its question.
            options.get("citation")
            or ("" if options.get("question") else facts.get("citation", "")),
            latency,
            float(options.get("ready") or READY_SECONDS),
        )

    def switch(self) -> None:
        self.front.start()
        self.front.point(_running(self.backend))

    def switch_back(self) -> None:
        if self.previous is None:
            return
        self.front.start()
        self.front.point(_running(self.target.backend(self.previous)))

    def retire(self) -> None:
        """End the old one when its requests are done; a process keeps its bundle for a way back."""
        if self.previous is None:
            return
        old = self.target.backend(self.previous)
        if url := old.url():
            self.front.drain(url)
        old.stop()
        if older := self.previous.previous:
            shutil.rmtree(self.target.settings.home / "deployments" / older, ignore_errors=True)

    def _ready(self) -> bool:
        self._ended()
        return _is_ready(self.backend)

    def _ended(self, within: float = 0.0) -> None:
        """Raise if it has; an engine takes a moment to notice that a container has."""
        until = time.monotonic() + within
        while not (how := self.backend.ended()) and time.monotonic() < until:
            time.sleep(0.05)
        if how:
            raise RemoteError(f"it ended ({how})")


def _running(backend: Backend) -> str:
    """Its address; started first, and waited for, unless it runs."""
    if url := backend.url():
        return url
    backend.start()
    until = time.monotonic() + READY_SECONDS
    while not _is_ready(backend):
        if (how := backend.ended()) or time.monotonic() > until:
            raise RemoteError(f"it ended ({how})" if how else "it does not get ready")
        time.sleep(0.05)
    return backend.url()


def _is_ready(backend: Backend) -> bool:
    url = backend.url()
    return bool(url) and _get(url, "/readyz") == 200


def _get(url: str, path: str) -> int:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        return connection.getresponse().status
    return 0


def _ask(
    url: str, question: str, timeout: float, settings: Settings
) -> tuple[int, dict[str, Any], float]:
    began = time.monotonic()
    headers = {"Content-Type": "application/json"}
    if key := settings.api_keys.partition(",")[0].strip():
        headers["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout)
    with contextlib.closing(connection):
        body = json.dumps({"question": question})
        connection.request("POST", "/v1/ask", body, headers)
        answer = connection.getresponse()
        said = answer.read()
    try:
        found = json.loads(said)
    except ValueError:
        found = {}
    return answer.status, found if isinstance(found, dict) else {}, time.monotonic() - began
