"""A stage's processes, wherever they went: its group, and those that left it for a session.

Those are known by the cookie in the environment that a program was started with or, where one was
forked and started no program, by the pipe that it inherited. Both are read from /proc; where there
is none, only the group is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COOKIE = "TWIN_STAGE_ID"


@dataclass(frozen=True)
class Tree:
    """A child and its descendants.

    Attributes:
        group: its process id, which is the number of its group.
        cookie: its own, in the environment of the programs that it starts.
        fd: number of a descriptor that what it forks inherits, and no program does.
        pipe: what that descriptor is.

    """

    group: int
    cookie: str
    fd: int
    pipe: os.stat_result

    def kill(self) -> None:
        """End all of them at once."""
        _kill([f"{self.cookie}\0"], self._inherited)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.group, signal.SIGKILL)

    def _inherited(self, process: Path) -> bool:
        return os.path.samestat((process / "fd" / str(self.fd)).stat(), self.pipe)


def kill_left(run_id: str, stages: Sequence[str]) -> None:
    """End what is left of stages whose runner and child were killed together."""
    if stages:
        _kill([f"{run_id}/{stage}/" for stage in stages])


def _kill(cookies: Sequence[str], also: Callable[[Path], bool] = lambda _: False) -> None:
    marks = [f"\0{COOKIE}={cookie}".encode() for cookie in cookies]
    for process in Path("/proc").iterdir() if sys.platform == "linux" else []:
        if process.name.isdigit() and int(process.name) != os.getpid():
            with contextlib.suppress(OSError):
                environment = b"\0%b\0" % (process / "environ").read_bytes()
                if any(mark in environment for mark in marks) or also(process):
                    os.kill(int(process.name), signal.SIGKILL)
