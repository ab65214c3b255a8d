"""A registry on this machine, started when it is wanted and found again by whoever comes later.

Where the engine has the image ``registry:2`` it is a container; else Debian's ``docker-registry``
in a session of its own, which outlives the stage that started it. That process holds a lock for as
long as it lives, which the kernel drops when it dies, so no process id is ever guessed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from llm_twin.errors import BusyError, NotReadyError, RemoteError

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.delivery.engine import Engine

IMAGE = "registry:2"
PROGRAM = "docker-registry"
LABEL = "llm-twin.registry"
FIRST_PORT = 5000
PORTS = 100
START_SECONDS = 15.0
STOP_SECONDS = 5.0  # and as many again after it was killed
# The stage that starts it ends what it has started, by a mark in the environment; see flow.tree.
KEPT = ("PATH", "HOME", "LANG", "TZ")


@dataclass(frozen=True)
class Local:
    """The registry of one state folder.

    Attributes:
        folder: ``<home>/registry``: its images, its configuration, its log, and who it is.

    """

    folder: Path

    @property
    def port(self) -> int:
        """The port it was given last; 0 if it never ran."""
        try:
            return int(json.loads((self.folder / "registry.json").read_bytes())["port"])
        except (OSError, ValueError, LookupError, TypeError):
            return 0

    @property
    def url(self) -> str:
        """Its address; ``localhost`` is what engines let do without TLS."""
        return f"http://localhost:{self.port}"

    def lock(self, kind: int = fcntl.LOCK_EX) -> IO[str] | None:
        """Hold what the process holds while it lives; None when it does, or another starts it."""
        handle = (self.folder / "alive").open("a+")
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return None
        return handle

    def has_process(self) -> bool:
        """Whether its process lives, or is being started."""
        if not self.folder.is_dir():
            return False
        # Shared, so that two who only look do not take each other for the process.
        handle = self.lock(fcntl.LOCK_SH)
        if handle:
            handle.close()
        return handle is None

    def container(self, engine: Engine | None) -> dict[str, Any]:
        """Its container as the engine lists it; empty if there is none."""
        label = f"{LABEL}={self.folder}"
        found = engine.api.containers(all=True, filters={"label": label}) if engine else []
        return dict(found[0]) if found else {}


def registry_up(home: Path, engine: Engine | None = None) -> str:
    """Start the registry of a state folder if it does not run; its address.

    Args:
        home: the state folder.
        engine: asked for the image ``registry:2``; None: only the program is looked for.

    Raises:
        NotReadyError: there is neither the image nor the program.
        BusyError: no port is free, or another process has been starting it for too long.
        RemoteError: it was started and does not answer.

    """
    local = Local(home / "registry")
    local.folder.mkdir(parents=True, exist_ok=True)
    if url := registry_status(home, engine):
        return url
    until = time.monotonic() + START_SECONDS
    while (handle := local.lock()) is None:  # another starts it, or only looks
        if url := registry_status(home, engine):
            return url
        if time.monotonic() > until:
            raise BusyError("another process is starting the local registry", local.folder)
        time.sleep(0.05)
    with handle:
        (local.folder / "pid").unlink(missing_ok=True)
        container = local.container(engine)
        if container or (engine and engine.image_id(IMAGE)):
            assert engine
            _start_container(local, engine, container)
            process = None
        else:
            process = _start_process(local, handle)
        return _wait(local, process)


def registry_status(home: Path, engine: Engine | None = None) -> str:
    """The address of a state folder's registry if it runs and answers; empty if not."""
    local = Local(home / "registry")
    runs = local.has_process() or local.container(engine).get("State") == "running"
    return local.url if runs and _answers(local.port) else ""


def registry_down(home: Path, engine: Engine | None = None) -> bool:
    """Stop the registry of a state folder, keeping its images; whether it ran.

    Raises:
        BusyError: it does not end.

    """
    local = Local(home / "registry")
    if container := local.container(engine):
        assert engine
        engine.api.remove_container(container["Id"], force=True)
        return True
    if not local.has_process():
        return False
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(OSError, ValueError):
            os.kill(int((local.folder / "pid").read_text()), number)
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until:
            if not local.has_process():
                return True
            time.sleep(0.02)
    raise BusyError("the local registry does not end", local.folder / "pid", "Type the same again")


def _start_process(local: Local, handle: IO[str]) -> subprocess.Popen[bytes]:
    program = shutil.which(PROGRAM)
    if program is None:
        raise NotReadyError(
            "no registry can be started here",
            f"neither the image {IMAGE} nor the program {PROGRAM}",
            f"Type: sudo apt-get install {PROGRAM}, or docker pull {IMAGE}, or set TWIN_REGISTRY",
        )
    port = _choose_port(local)
    config = {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(local.folder / "data")},
            "delete": {"enabled": True},
        },
        "http": {"addr": f"127.0.0.1:{port}"},
    }
    (local.folder / "config.yml").write_text(json.dumps(config, indent=2) + "\n")
    # The process names itself, so that its id is on the disk whenever it holds the lock.
    command = ["/bin/sh", "-c", 'echo $$ >pid; exec "$@"', "sh", program, "serve", "config.yml"]
    with (local.folder / "log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=local.folder,
            env={name: os.environ[name] for name in KEPT if name in os.environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[handle.fileno()],
        )


def _start_container(local: Local, engine: Engine, container: dict[str, Any]) -> None:
    from docker.errors import APIError  # type: ignore[import-untyped]

    try:
        engine.api.start((container or _create_container(local, engine))["Id"])
    except APIError as error:
        raise RemoteError(
            "the engine could not start the local registry",
            error.explanation,
            "Type: invoke registry.down, then invoke registry.up",
        ) from None


def _create_container(local: Local, engine: Engine) -> dict[str, Any]:
    port = _choose_port(local)
    data = local.folder / "data"
    data.mkdir(exist_ok=True)
    made: dict[str, Any] = engine.api.create_container(
        IMAGE,
        user=f"{os.getuid()}:{os.getgid()}",
        environment={"REGISTRY_STORAGE_DELETE_ENABLED": "true"},
        labels={LABEL: str(local.folder)},
        ports=[FIRST_PORT],
        host_config=engine.api.create_host_config(
            binds=[f"{data}:/var/lib/registry"],
            port_bindings={FIRST_PORT: ("127.0.0.1", port)},
            restart_policy={"Name": "unless-stopped"},
        ),
    )
    return made


def _choose_port(local: Local) -> int:
    """The port it had before if that is free, so that names stay right; else the next free one."""
    candidates: list[int] = [local.port, *range(FIRST_PORT, FIRST_PORT + PORTS)]
    for port in candidates:
        if port and _is_free(port):
            (local.folder / "registry.json").write_text(json.dumps({"port": port}) + "\n")
            return port
    raise BusyError("no port is free for the local registry", f"{FIRST_PORT} and {PORTS} more")


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("localhost", port), 1):
        return False
    return True


def _wait(local: Local, process: subprocess.Popen[bytes] | None) -> str:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and (process is None or process.poll() is None):
        if _answers(local.port):
            return local.url
        time.sleep(0.02)
    log = f"Read {local.folder / 'log'}" if process else f"Type: docker logs, for {IMAGE}"
    raise RemoteError("the local registry does not answer", local.url, log)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("localhost", port, timeout=2)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
