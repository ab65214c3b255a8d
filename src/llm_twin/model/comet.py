"""Curves to Comet, where a key for it is set; what becomes of Comet never stops a training.

Comet's SDK patches libraries, hooks exceptions, starts threads and may wait for hours on a server
that is away. So it lives in a process of its own (``comet_worker``), which is told points through a
pipe that nobody waits for, and which is ended when it does not end itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from llm_twin.settings import Settings

PATIENCE = 20.0
"""Seconds that a training waits at its end for curves to be sent."""
PROJECT = "llm-twin"
OFF = ("0", "false", "no", "off")
SOURCES = Path(__file__).resolve().parents[2]
_WORKER = "llm_twin.model.comet_worker"
ONCE = secrets.token_hex(8)
"""Names the experiments of a process that has no run."""
_LOST = "warning: Comet was not told everything ({why}); the curves are kept with the model"


class Teller:
    """Tells Comet of one training; give it to ``Curves`` as the listener."""

    def __init__(self, worker: subprocess.Popen[bytes], patience: float) -> None:
        assert worker.stdin is not None
        self._worker, self._patience = worker, patience
        self._pipe = worker.stdin.fileno()
        self._waiting = bytearray()
        self._dead = False
        os.set_blocking(self._pipe, False)

    def begin(self, name: str, parameters: Mapping[str, Any], settings: Settings) -> None:
        """Say first what the training is."""
        run = os.environ.get("TWIN_RUN_ID") or ONCE
        self._tell(
            {
                "name": name,
                "key": hashlib.sha256(f"{run} {name}".encode()).hexdigest()[:40],
                "project": os.environ.get("COMET_PROJECT_NAME") or PROJECT,
                "online": os.environ.get("COMET_START_ONLINE", "").lower() not in OFF,
                "folder": str(settings.home / "comet"),
                "parameters": flat(parameters),
            }
        )

    def __call__(self, point: Mapping[str, Any]) -> None:
        """Pass a point on; it waits here while the pipe is full."""
        self._tell({"point": dict(point)})

    def figures(self, figures: Mapping[str, Any]) -> None:
        """Pass on final figures: numbers by name; what is nested gets dotted names."""
        self._tell({"figures": flat(figures)})

    def _tell(self, said: Mapping[str, Any]) -> None:
        self._waiting += json.dumps(said, default=str).encode() + b"\n"
        self._push()

    def _push(self) -> None:
        """Write as much as the pipe takes now."""
        try:
            while self._waiting and not self._dead:
                del self._waiting[: os.write(self._pipe, self._waiting)]
        except BlockingIOError:
            return
        except OSError:
            self._dead = True
        if self._dead:
            self._waiting.clear()

    def close(self) -> None:
        """Let the worker send what is left, and end it when it does not come to an end."""
        until = time.monotonic() + self._patience
        while self._waiting and (left := until - time.monotonic()) > 0:
            select.select([], [self._pipe], [], left)
            self._push()
        assert self._worker.stdin is not None
        with contextlib.suppress(OSError):
            self._worker.stdin.close()
        try:
            why = f"it ended with {self._worker.wait(max(0.0, until - time.monotonic()))}"
        except subprocess.TimeoutExpired:
            why = f"no answer in {self._patience:g} s"
            self._worker.kill()
            self._worker.wait()
        if self._worker.returncode:
            print(_LOST.format(why=why), flush=True)


@contextlib.contextmanager
def listener(
    name: str, parameters: Mapping[str, Any], settings: Settings, *, patience: float = PATIENCE
) -> Iterator[Teller | None]:
    """Tell Comet of a training while the block runs, if ``COMET_API_KEY`` is set.

    ``COMET_PROJECT_NAME`` and ``COMET_WORKSPACE`` say where; ``COMET_START_ONLINE=0`` asks for an
    archive alone. A run that goes on (``TWIN_RUN_ID``) goes on in Comet with the same experiment,
    and so does what one process tells under the same name.

    Args:
        name: of the experiment.
        parameters: plain data; nothing else is sent but points and figures.
        settings: where an archive is kept when Comet does not answer: ``<home>/comet``.
        patience: seconds to wait at the end.

    Yields:
        A listener for ``Curves``; None when there is no key.

    """
    worker = _start(settings) if os.environ.get("COMET_API_KEY") else None
    if worker is None:
        yield None
        return
    teller = Teller(worker, patience)
    teller.begin(name, parameters, settings)
    try:
        yield teller
    finally:
        teller.close()


def _start(settings: Settings) -> subprocess.Popen[bytes] | None:
    folder = settings.home / "comet"
    paths = [str(SOURCES), os.environ.get("PYTHONPATH", "")]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", _WORKER],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            cwd=folder,
        )
    except OSError as error:
        print(_LOST.format(why=type(error).__name__), flush=True)
        return None


def flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain data as one level, with dotted names; lists and None become text."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            found |= flat(value, f"{name}.")
        else:
            found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
