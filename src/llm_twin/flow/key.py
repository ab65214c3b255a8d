"""A stage's key: a digest for each thing that could change its result, so reasons have names.

Parts are ``code:PATH``, ``parameter:NAME``, ``input:PATH``, ``env:NAME``, ``needs:STAGE``,
``lock:PATH``, ``python`` and whatever the stage's own ``facts`` add.
"""

from __future__ import annotations

import glob
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from llm_twin.flow.code import Code
from llm_twin.flow.files import MISSING, Files, digest_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from llm_twin.flow.stage import Stage

Parts = dict[str, str]
LOCKS = "requirements/*.txt"
LABELS = {"code": "code", "input": "input", "env": "environment variable"}
KINDS = {"code": "code file", "input": "input file", "lock": "lock file", "needs": "upstream"}


class Keys:
    """Computes keys below one root, remembering what it read."""

    def __init__(
        self, root: Path, files: Files | None = None, mask: Callable[[str], str] | None = None
    ) -> None:
        """Prepare; nothing is read yet.

        Args:
            root: the project root; code, inputs and outputs below it are named relative to it.
            files: what is known of files already.
            mask: takes secrets out of texts: parameters are kept with the key, in plain words.

        """
        self.root = root
        self._mask = mask
        self.files = files or Files()
        self._code = Code(root, self.files)

    def parts(
        self, stage: Stage, arguments: Mapping[str, Any], upstream: Mapping[str, str] | None = None
    ) -> Parts:
        """Return the parts of a stage's key.

        Args:
            stage: the stage.
            arguments: its parameters, defaults included.
            upstream: for each needed stage, a digest of what it left.

        """
        defaults = {p.name: p.default for p in stage.parameters}
        parts = {
            f"parameter:{name}": self._shown(value, value == defaults.get(name))
            for name, value in sorted(arguments.items())
        }
        for path in self._code.of(stage):
            parts[f"code:{self._name(path)}"] = self.files.digest(path)
        for path in self._inputs(stage, arguments):
            parts[f"input:{self._name(path)}"] = self.files.digest(path)
        for name in stage.env:
            parts[f"env:{name}"] = digest_text(os.environ.get(name, ""))
        for name in stage.needs:
            parts[f"needs:{name}"] = (upstream or {}).get(name, MISSING)
        for path in sorted(self.files.match(str(self.root), LOCKS)):
            parts[f"lock:{self._name(path)}"] = self.files.digest(path)
        parts["python"] = f"{sys.implementation.name} {sys.version.split()[0]}"
        if stage.facts:
            parts.update(stage.facts(**arguments))
        return parts

    def outputs(self, stage: Stage) -> dict[str, str]:
        """Digest of each file that the stage's outputs match now, by path relative to root."""
        found = self.output_files(stage)
        return {self._name(path): self.files.output_digest(path) for path in found}

    def output_files(self, stage: Stage) -> list[str]:
        """The files that the stage's outputs match now, those inside folders included."""
        found: set[str] = set()
        for pattern in stage.outputs:
            for name in glob.glob(pattern, root_dir=self.root, recursive=True, include_hidden=True):
                found.update(_files_in(f"{self.root}/{name}".rstrip("/")))
        return sorted(found)

    def unmatched(self, stage: Stage) -> list[str]:
        """The declared outputs that match nothing."""
        return [
            pattern
            for pattern in stage.outputs
            if not glob.glob(pattern, root_dir=self.root, recursive=True, include_hidden=True)
        ]

    def _inputs(self, stage: Stage, arguments: Mapping[str, Any]) -> list[str]:
        found = {
            path
            for pattern in stage.inputs
            for path in self.files.match(str(self.root), pattern)
            if os.path.isfile(path)
        }
        if stage.find_inputs:
            found.update(str(path) for path in stage.find_inputs(**arguments))
        return sorted(found)

    def _shown(self, value: Any, default: bool) -> str:
        text = _plain(value)
        harmless = default or isinstance(value, int | float)
        if harmless or self._mask is None or self._mask(text) == text:
            return text
        return f"{self._mask(text)} {digest_text(text)[:8]}"

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self.root}/")


def _files_in(path: str) -> list[str]:
    if not os.path.isdir(path) or os.path.islink(path):
        return [path]
    return [f"{folder}/{name}" for folder, _, names in os.walk(path) for name in names]


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
    counts: dict[str, int] = {}
    for name in parts:
        kind = name.partition(":")[0]
        if kind != "python":
            label = {**LABELS, **KINDS}.get(kind, kind)
            counts[label] = counts.get(label, 0) + 1
    listed = [f"{n} {label}{'s' if n > 1 else ''}" for label, n in counts.items()]
    return f"{', '.join(listed)} and Python itself are the same"


def _reason(name: str, before: str | None, now: str | None) -> str:
    kind, _, item = name.partition(":")
    subject = f"{LABELS.get(kind, kind)} {item}".strip()
    if kind == "needs":
        return f"what {item} left changed"
    if before is None:
        return f"{subject} is new"
    if now is None or now == MISSING:
        return f"{subject} is gone"
    return f"{subject} was {before}, is {now}" if kind == "parameter" else f"{subject} changed"


def _plain(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
