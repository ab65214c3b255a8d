"""Processes that outlive the command that started them, and are found again by whoever comes later.

Each holds a lock on a file in its folder for as long as it lives, which the kernel drops when it
dies, and names itself in another: no process id is ever guessed at.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from llm_twin.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

STOP_SECONDS = 5.0
# Not the whole environment: a stage ends what it has started, by a mark that it put there.
KEPT = ("PATH", "HOME", "LANG", "TZ", "LD_LIBRARY_PATH", "SSL_CERT_FILE")


@dataclass(frozen=True)
class Detached:
    """A process, at most one for each folder.

    Attributes:
        folder: where its lock, its id and its log are.

    """

    folder: Path

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.folder / "log"

    def runs(self) -> bool:
        """Whether it lives."""
        try:
            with self._lock(fcntl.LOCK_SH):
                return False
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False

    def start(
        self, command: Sequence[str], environ: Mapping[str, str], fds: Sequence[int] = ()
    ) -> None:
        """Start it unless it runs; its log begins anew.

        Args:
            command: what to run.
            environ: its environment, beside what every process needs.
            fds: descriptors that it inherits.

        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            handle = self._lock(fcntl.LOCK_EX, "a+")
        except BlockingIOError:
            return
        kept = {name: os.environ[name] for name in KEPT if name in os.environ}
        (self.folder / "pid").unlink(missing_ok=True)
        # The process names itself, so that its id is on the disk soon whoever dies.
        shell = ["/bin/sh", "-c", 'echo $$ >"$1"; shift; exec "$@"', "sh"]
        with handle, self.log.open("wb") as log:
            subprocess.Popen(
                [*shell, str(self.folder / "pid"), *command],
                env=kept | dict(environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[handle.fileno(), *fds],
            )

    def stop(self, grace: float = STOP_SECONDS) -> None:
        """End it and wait until it has ended; fine if it did not run.

        Args:
            grace: seconds that it gets before it is killed.

        Raises:
            BusyError: it does not end.

        """
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, STOP_SECONDS)):
            until = time.monotonic() + seconds
            told = False
            while self.runs():
                if not told:
                    with contextlib.suppress(OSError, ValueError):
                        os.kill(int((self.folder / "pid").read_text()), number)
                        told = True
                if time.monotonic() > until:
                    break
                time.sleep(0.02)
            else:
                return
        raise BusyError("a process does not end", self.folder / "pid", "Type the same again")

    def last_words(self, lines: int = 5) -> str:
        """The end of its log, in one line."""
        try:
            said = self.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in said[-lines:] if line.strip())[-600:]

    def _lock(self, kind: int, mode: str = "r") -> IO[str]:
        handle = (self.folder / "alive").open(mode)
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            raise
        return handle
