"""A version as a container of an image that is pinned by its digest."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.deploy.backends import STOP_SECONDS, environment
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.refusals import explain
from llm_twin.delivery.registry import open_registry
from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from llm_twin.delivery.deploy.steps import Deployment
    from llm_twin.delivery.engine import Engine
    from llm_twin.settings import Settings

PORT = 8000
PORTS = 3
TRACES = "/traces"
USER = 10001
TAKEN = ("already allocated", "already in use")
HOME_LABEL = "llm-twin.home"
ID_LABEL = "llm-twin.deployment"
FACTS = {
    "version": "org.opencontainers.image.version",
    "commit": "org.opencontainers.image.revision",
    "question": "llm-twin.smoke-question",
    "citation": "llm-twin.smoke-citation",
}
"""Facts of a deployment, and the labels of its image that tell them."""


class Container:
    """A container of an image, with nothing that it may write but ``/tmp`` and the traces.

    Args:
        settings: what answering reads goes into its environment.
        engine: runs it.
        deployment: gives the image and the name.

    """

    def __init__(self, settings: Settings, engine: Engine, deployment: Deployment) -> None:
        self._settings = settings
        self._engine = engine
        self._deployment = deployment
        self._image = deployment.image
        self._labels = {ID_LABEL: deployment.id, HOME_LABEL: str(settings.home)}
        self.name = f"llm-twin-{deployment.id}"

    def fetch(self) -> dict[str, str]:
        """Pull the image unless the engine has it.

        Raises:
            TwinError: the registry or the engine does not give it.

        """
        with plain_errors(self._image):
            if not self._engine.image_id(self._image):
                self._pull(Reference.parse(self._image))
            labels = self._engine.api.inspect_image(self._image)["Config"].get("Labels") or {}
        return {fact: labels[label] for fact, label in FACTS.items() if labels.get(label)}

    def start(self) -> None:
        """Create and start it; a port that was taken meanwhile is replaced by another."""
        with plain_errors(self.name):
            if self._state().get("Running"):
                return
            for left in reversed(range(PORTS)):
                if not self._inspect():
                    self._create()
                if self._started(last=not left):
                    return
                self._engine.api.remove_container(self.name, force=True)

    def url(self) -> str:
        """Its address on this machine, the same after each restart."""
        found = self._inspect()
        if not found or not found["State"]["Running"]:
            return ""
        (binding,) = found["HostConfig"]["PortBindings"][f"{PORT}/tcp"]
        return f"http://127.0.0.1:{binding['HostPort']}"

    def ended(self) -> str:
        """Also when the engine has restarted it already, which hides its exit code."""
        found = self._inspect()
        state = found.get("State", {})
        if state.get("Running") and not found["RestartCount"]:
            return ""
        with plain_errors(self.name):
            said = self._engine.api.logs(self.name, tail=5) if found else b""
        words = " | ".join(said.decode("utf-8", "replace").split("\n")).strip(" |")
        hidden = state.get("Running") and not state.get("Restarting")
        code = "unknown" if hidden else state.get("ExitCode", "unknown")
        return f"exit code {code}: {words[-600:]}"

    def stop(self) -> None:
        """Remove it: it is made anew from its image."""
        self.remove()

    def remove(self) -> None:
        """Let it finish what it does, then remove it; the image stays in the engine."""
        with plain_errors(self.name):
            if self._state().get("Running"):
                self._engine.api.stop(self.name, timeout=STOP_SECONDS)
            remove_container(self._engine, self.name)

    def _create(self) -> None:
        api = self._engine.api
        # Elsewhere the engine is a virtual machine, whose processes cannot share SQLite's memory.
        shared = self._settings.trace and sys.platform == "linux"
        traces = self._settings.traces
        api.create_container(
            self._image,
            name=self.name,
            labels=self._labels,
            user=_owner(traces) if shared else None,
            environment=environment(self._settings, self._deployment)
            | ({"TWIN_TRACE_HOME": TRACES} if shared else {}),
            ports=[PORT],
            host_config=api.create_host_config(
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                tmpfs={"/tmp": "size=64m"},  # noqa: S108
                binds={str(traces): {"bind": TRACES, "mode": "rw,z"}} if shared else None,
                port_bindings={PORT: ("127.0.0.1", _free_port())},
                restart_policy={"Name": "unless-stopped"},
                log_config={"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
            ),
        )

    def _started(self, last: bool) -> bool:
        from docker.errors import APIError  # type: ignore[import-untyped]

        try:
            self._engine.api.start(self.name)
        except APIError as error:
            if last or not any(words in str(error.explanation) for words in TAKEN):
                raise
            return False
        return True

    def _pull(self, ref: Reference) -> None:
        from docker.errors import APIError

        credentials = open_registry(ref.host, self._settings).connection.credentials()
        login = credentials.for_engine if credentials else None
        said = ""
        try:
            for event in self._engine.api.pull(
                ref.repository, tag=ref.version, stream=True, decode=True, auth_config=login
            ):
                said = event.get("error") or said
        except APIError as error:
            said = str(error.explanation)
        if said or not self._engine.image_id(self._image):
            raise explain(said or "the pull ended without an image", ref.host, ref)

    def _inspect(self) -> dict[str, Any]:
        from docker.errors import NotFound

        with plain_errors(self.name), contextlib.suppress(NotFound):
            return dict(self._engine.api.inspect_container(self.name))
        return {}

    def _state(self) -> dict[str, Any]:
        return dict(self._inspect().get("State", {}))


@contextlib.contextmanager
def plain_errors(where: object) -> Iterator[None]:
    """Turn what the SDK raises into a sentence."""
    import requests
    from docker.errors import DockerException

    try:
        yield
    except (DockerException, requests.RequestException) as error:
        said = " ".join(str(getattr(error, "explanation", "") or error).split())
        # Whoever reloads the firewall takes away the rules by which Docker publishes ports.
        hint = "Restart it: systemctl restart docker" if "iptables failed" in said else ""
        raise RemoteError(
            f"the container engine did not do it ({said[:500]})",
            where,
            hint or "Look whether it runs: docker info",
        ) from None


def remove_container(engine: Engine, name: str) -> None:
    """Remove a container and wait until it is gone; fine if there is none."""
    from docker.errors import APIError, NotFound

    until = time.monotonic() + STOP_SECONDS
    with contextlib.suppress(NotFound):
        while True:
            try:
                engine.api.remove_container(name, force=True, v=True)
            except NotFound:
                raise
            except APIError as error:
                # Somebody who was killed had the engine remove it already.
                if "in progress" not in str(error.explanation) or time.monotonic() > until:
                    raise
            time.sleep(0.05)
            engine.api.inspect_container(name)


def _owner(folder: Path) -> str:
    """Make the folder of traces, and say as whom a container may write there: never as root."""
    folder.mkdir(parents=True, exist_ok=True)
    if os.getuid():
        return f"{os.getuid()}:{os.getgid()}"
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER, follow_symlinks=False)
    return f"{USER}:{USER}"


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
