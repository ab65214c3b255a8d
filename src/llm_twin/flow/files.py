"""Digests and imports of files, read again only when size or time of change moved.

What was read is kept in the store, so that an unchanged tree costs one ``stat`` a file.
"""

from __future__ import annotations

import ast
import contextlib
import glob
import hashlib
import json
import os
import sqlite3
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MISSING = "missing"
# A file written this lately may be written again without its time of change moving.
SETTLED_NS = 50_000_000


def digest_text(text: str) -> str:
    """SHA-256 of a text, 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, 32 hex digits; ``missing`` when it is not there."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return MISSING


class Files:
    """What is known of files: by path, for their present size and time of change."""

    def __init__(self, db: sqlite3.Connection | None = None) -> None:
        self._db = db
        self._digests: dict[str, tuple[int, int, str]] = {}
        self._imports: dict[str, list[str]] = {}
        self._new: dict[str, tuple[str, int, int, str, str | None]] = {}
        self._globs: dict[tuple[str, str], list[str]] = {}

    def detach(self) -> None:
        """Forget the database: a forked child must not touch its parent's connection."""
        self._db = None
        self.look_again()

    def look_again(self) -> None:
        """Forget which files there are: a stage has run and may have made some."""
        self._globs.clear()

    def digest(self, path: str) -> str:
        """The file's digest, or ``missing``."""
        try:
            stat = os.stat(path)
        except OSError:
            return MISSING
        known = self._digests.get(path)
        if known and known[:2] == (stat.st_size, stat.st_mtime_ns):
            return known[2]
        row = self._row(path, stat)
        digest = row[0] if row else digest_file(path)
        self._digests[path] = (stat.st_size, stat.st_mtime_ns, digest)
        self._imports.pop(path, None)
        if row and row[1] is not None:
            self._imports[path] = json.loads(row[1])
        elif not row and time.time_ns() - stat.st_mtime_ns > SETTLED_NS:
            self._new[path] = (path, stat.st_size, stat.st_mtime_ns, digest, None)
        return digest

    def output_digest(self, path: str) -> str:
        """The digest of an output: of a link, where it leads."""
        return f"link:{os.readlink(path)}" if os.path.islink(path) else self.digest(path)

    def _row(self, path: str, stat: os.stat_result) -> tuple[str, str | None] | None:
        if self._db is None:
            return None
        found: tuple[str, str | None] | None = self._db.execute(
            "SELECT digest, imports FROM file WHERE path = ? AND size = ? AND mtime_ns = ?",
            (path, stat.st_size, stat.st_mtime_ns),
        ).fetchone()
        return found

    def imports(self, path: str) -> list[str]:
        """What a Python file imports, as written: ``a.b``, or ``.b`` and ``..c.d`` when relative.

        A name imported from a module is listed as if it were a submodule. Imports inside functions
        count; nothing is executed. A file that cannot be parsed imports nothing.
        """
        digest = self.digest(path)
        if path not in self._imports:
            self._imports[path] = sorted(set(_imported(path)))
            size, mtime_ns, _ = self._digests.get(path, (0, 0, ""))
            if time.time_ns() - mtime_ns > SETTLED_NS and digest != MISSING:
                names = json.dumps(self._imports[path])
                self._new[path] = (path, size, mtime_ns, digest, names)
        return self._imports[path]

    def match(self, root: str, pattern: str) -> list[str]:
        """Paths below root that a glob matches, files and folders; hidden ones only when named."""
        found = self._globs.get((root, pattern))
        if found is None:
            found = [
                f"{root}/{name}"
                for name in glob.glob(pattern, root_dir=root, recursive=True)
                if "__pycache__" not in name
            ]
            self._globs[root, pattern] = found
        return found

    def save(self) -> None:
        """Keep what was learned for the next process; losing it costs only time."""
        if self._db is None or not self._new:
            return
        with contextlib.suppress(sqlite3.OperationalError):
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)", list(self._new.values())
            )
            self._db.execute("COMMIT")
            self._new.clear()
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")


def _imported(path: str) -> Iterator[str]:
    try:
        with open(path, "rb") as file:
            tree = ast.parse(file.read())
    except (OSError, SyntaxError, ValueError):
        return
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield base
            joint = "" if base.endswith(".") else "."
            yield from (f"{base}{joint}{alias.name}" for alias in node.names)


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Every statement at any depth; an import is never inside an expression."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, block, None)
            if isinstance(inner, list):
                waiting.extend(inner)
