"""A stage's one door to the outside: which run it is in, and the commands it starts.

``context()`` works in a stage and outside one, so that its function can be called by hand. Tests
put a recording one in its place (``llm_twin.testing``).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections import deque
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_twin.errors import TwinError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

LAST_LINES = 10


@dataclass(frozen=True)
class Finished:
    """A command that ended: its exit code and, where it was kept, what it printed."""

    exit_code: int
    output: str = ""


@dataclass
class Context:
    """What a stage may know about its run.

    Attributes:
        run: id of the run, "" outside one.
        stage: its own name.
        attempt: 1 for the first.

    """

    run: str = ""
    stage: str = ""
    attempt: int = 1
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt and every resumption of this stage in this run.

        Hand it to whatever must happen once: a second time with the same key is the same time.
        """
        return f"{self.run}/{self.stage}"

    def run_command(
        self,
        *command: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        quiet: bool = False,
    ) -> Finished:
        """Run a command to its end, its output passing through to the stage's log.

        Args:
            command: the program and its arguments; no shell.
            cwd: where; default: here.
            env: variables on top of the environment.
            check: whether a failure raises.
            quiet: keep the output for the result instead of passing it on.

        Raises:
            TwinError: the command cannot be found or, with ``check``, failed.

        """
        sys.stdout.flush()
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env={**self.environment, **(env or {})},
                check=False,
                stdout=subprocess.PIPE if quiet else None,
                stderr=subprocess.STDOUT if quiet else None,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise TwinError(f"cannot start {command[0]}", error.strerror or "", "") from None
        if check and done.returncode:
            raise TwinError(
                f"{' '.join(command)} failed with exit code {done.returncode}",
                "; ".join(deque((done.stdout or "").splitlines(), LAST_LINES)),
            )
        return Finished(done.returncode, done.stdout or "")


_current: ContextVar[Context | None] = ContextVar("context", default=None)


def context() -> Context:
    """The context of the stage that is running, or an empty one."""
    return _current.get() or Context()


@contextlib.contextmanager
def using(chosen: Context) -> Iterator[Context]:
    """Make ``context()`` return this one for the length of a block."""
    token = _current.set(chosen)
    try:
        yield chosen
    finally:
        _current.reset(token)
