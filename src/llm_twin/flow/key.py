"""A stage's key: a digest for each thing that could change its result, so reasons have names.

Parts are ``code:PATH``, ``parameter:NAME``, ``input:PATH``, ``env:NAME``, ``needs:STAGE``,
``lock:PATH``, ``python`` and whatever the stage's own ``facts`` add.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llm_twin.flow.stage import Stage

    DigestFile = Callable[[Path], str]

Parts = dict[str, str]
LOCKS = "requirements/*.txt"
MISSING = "missing"


def digest_text(text: str) -> str:
    """SHA-256 of a text, 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 32 hex digits; ``missing`` when it is not there."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:32]
    except OSError:
        return MISSING


def key_parts(
    stage: Stage,
    arguments: Mapping[str, Any],
    root: Path,
    upstream: Mapping[str, str] | None = None,
    digest: DigestFile = digest_file,
) -> Parts:
    """Return the parts of a stage's key for these arguments.

    Args:
        stage: the stage.
        arguments: its parameters, defaults included.
        root: the project root; code and inputs below it are named relative to it.
        upstream: for each needed stage, the digest of its key.
        digest: how files are digested (a store can remember unchanged ones).

    """
    parts = {f"parameter:{name}": _plain(value) for name, value in sorted(arguments.items())}
    for path in code_files(stage, root):
        parts[f"code:{_name(path, root)}"] = digest(path)
    for path in _inputs(stage, arguments, root):
        parts[f"input:{_name(path, root)}"] = digest(path)
    for name in stage.env:
        parts[f"env:{name}"] = digest_text(os.environ.get(name, ""))
    for name in stage.needs:
        parts[f"needs:{name}"] = (upstream or {}).get(name, MISSING)
    for path in sorted(root.glob(LOCKS)):
        parts[f"lock:{_name(path, root)}"] = digest(path)
    parts["python"] = f"{sys.implementation.name} {sys.version.split()[0]}"
    if stage.facts:
        parts.update(stage.facts(**arguments))
    return parts


def combine(parts: Parts) -> str:
    """One digest over all parts."""
    return digest_text(json.dumps(parts, sort_keys=True))


def reasons(before: Parts | None, now: Parts) -> list[str]:
    """Say what moved between two keys, one sentence each; empty when nothing did."""
    if before is None:
        return ["it has not completed here before"]
    return [
        _reason(name, before.get(name), now.get(name))
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def unchanged(parts: Parts) -> str:
    """Say what was compared, by kind: ``41 code files, 12 input files, 4 parameters``."""
    kinds = {"code": "code file", "input": "input file", "lock": "lock file", "needs": "upstream"}
    counts: dict[str, int] = {}
    for name in parts:
        kind = name.partition(":")[0]
        if kind == "python":
            continue
        label = {"env": "environment variable", **kinds}.get(kind, kind)
        counts[label] = counts.get(label, 0) + 1
    listed = [f"{n} {label}{'s' if n > 1 else ''}" for label, n in counts.items() if n]
    return f"{', '.join(listed)} and Python itself are the same"


def _reason(name: str, before: str | None, now: str | None) -> str:
    kind, _, item = name.partition(":")
    label = {"code": "code", "input": "input", "env": "environment variable"}.get(kind, kind)
    subject = f"{label} {item}".strip()
    if before is None:
        return f"{subject} is new"
    if now is None or now == MISSING:
        return f"{subject} is gone"
    return f"{subject} was {before}, is {now}" if kind == "parameter" else f"{subject} changed"


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)


def _inputs(stage: Stage, arguments: Mapping[str, Any], root: Path) -> list[Path]:
    found = {path for pattern in stage.inputs for path in root.glob(pattern) if path.is_file()}
    if stage.find_inputs:
        found.update(stage.find_inputs(**arguments))
    return sorted(found)


def code_files(stage: Stage, root: Path) -> list[Path]:
    """The stage's own module and, transitively, the modules below root that it imports.

    Imports are read from the source, those inside functions included, so nothing is executed.
    """
    start = inspect.getsourcefile(inspect.unwrap(stage.function))
    if start is None or not Path(start).is_relative_to(root):
        return []
    seen: set[Path] = set()
    resolved: set[str] = set()
    waiting = [Path(start)]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        names = set(_imported_names(path, root)) - resolved
        resolved |= names
        waiting.extend(file for name in names for file in _module_files(name, root))
    return sorted(seen)


def _imported_names(path: Path, root: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError):
        return
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(node, path, root)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


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


def _absolute(node: ast.ImportFrom, path: Path, root: Path) -> str:
    if not node.level:
        return node.module or ""
    folder = path.parents[node.level - 1]
    base = folder.relative_to(root / "src" if folder.is_relative_to(root / "src") else root)
    return ".".join([*base.parts, *([node.module] if node.module else [])])


def _module_files(name: str, root: Path) -> Iterator[Path]:
    parts = [part for part in name.split(".") if part]
    for base in (root / "src", root):
        for depth in range(1, len(parts) + 1):
            stem = base.joinpath(*parts[:depth])
            for path in (stem / "__init__.py", stem.with_suffix(".py")):
                if path.is_file():
                    yield path
