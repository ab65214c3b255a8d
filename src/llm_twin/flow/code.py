"""Which files a stage's code consists of: its module and what that imports from this repository."""

from __future__ import annotations

import inspect
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.flow.files import Files
    from llm_twin.flow.stage import Stage


class Code:
    """The import graph of one repository, read from the source; nothing is executed."""

    def __init__(self, root: Path, files: Files) -> None:
        self._bases = (f"{root}/src", str(root))
        self._files = files
        self._top = {base: _entries(base) for base in self._bases}
        self._found: dict[str, list[str]] = {}

    def of(self, stage: Stage) -> list[str]:
        """Paths of the stage's own module and, transitively, of those it imports below root."""
        start = inspect.getsourcefile(inspect.unwrap(stage.function))
        if start is None or not start.startswith(self._bases[1] + os.sep):
            return []
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            path = waiting.pop()
            if path not in seen:
                seen.add(path)
                for name in self._files.imports(path):
                    waiting.extend(self._modules(self._absolute(name, path)))
        return sorted(seen)

    def _absolute(self, name: str, path: str) -> str:
        level = len(name) - len(name.lstrip("."))
        if not level:
            return name
        folder = path
        for _ in range(level):
            folder = os.path.dirname(folder)
        base = next((b for b in self._bases if folder == b or folder.startswith(b + os.sep)), "")
        parts = [part for part in folder[len(base) :].split(os.sep) if part]
        return ".".join([*parts, name[level:]])

    def _modules(self, name: str) -> list[str]:
        """The files that importing a dotted name runs, below root."""
        found = self._found.get(name)
        if found is None:
            parts = [part for part in name.split(".") if part]
            found = self._found[name] = [
                path
                for base in self._bases
                if parts and parts[0] in self._top[base]
                for depth in range(1, len(parts) + 1)
                for path in _candidates("/".join([base, *parts[:depth]]))
                if os.path.isfile(path)
            ]
        return found


def _candidates(stem: str) -> tuple[str, str]:
    return f"{stem}/__init__.py", f"{stem}.py"


def _entries(folder: str) -> set[str]:
    try:
        return {name.removesuffix(".py") for name in os.listdir(folder)}
    except OSError:
        return set()
