"""Where a stage ran: enough to compare a laptop's results with CI's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def source() -> str:
    """``ci`` where the CI variable is set, as every CI service does, else ``local``."""
    return "ci" if os.environ.get("CI") else "local"


class Evidence:
    """Facts about this place; Git is asked in the background while stages start."""

    def __init__(self, root: Path) -> None:
        self._facts: dict[str, str] | None = None
        command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
        try:
            self._git: subprocess.Popen[str] | None = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        except OSError:
            self._git = None

    def facts(self) -> dict[str, str]:
        """Source, commit, dirty (``yes``, ``no`` or ``unknown``), host, machine and python."""
        if self._facts is None:
            commit, dirty = self._answer()
            place = os.uname()
            self._facts = {
                "source": source(),
                "commit": commit,
                "dirty": dirty,
                "host": socket.gethostname(),
                "machine": f"{place.sysname} {place.machine}, {os.cpu_count()} cores",
                "python": f"{sys.implementation.name} {sys.version.split()[0]}",
            }
        return self._facts

    def _answer(self) -> tuple[str, str]:
        if self._git is None:
            return "", "unknown"
        try:
            lines = self._git.communicate(timeout=10)[0].splitlines()
        except (subprocess.TimeoutExpired, UnicodeDecodeError):
            self._git.kill()
            self._git.communicate()
            return "", "unknown"
        if self._git.returncode:
            return "", "unknown"
        heads = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
        changed = any(not line.startswith("#") for line in lines)
        return (heads or [""])[0], "yes" if changed else "no"
