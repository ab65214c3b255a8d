"""``.dockerignore`` as Docker reads it: which paths of a folder belong to a build context.

Written out here because importing the SDK takes longer than everything else ``invoke build-push``
does when nothing changed, and because the SDK's own reading differs from Docker's.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

WILD = re.compile(r"[*?\[\]\\]")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line: what it matches, itself or a folder above, and whether it brings that back."""

    text: str
    keeps: bool
    regex: re.Pattern[str]


@dataclass(frozen=True)
class Ignore:
    """The lines of one file, in order: the last that matches a path decides."""

    patterns: tuple[Pattern, ...] = ()

    @classmethod
    def read(cls, root: Path, dockerfile: str) -> Ignore:
        """``<dockerfile>.dockerignore`` if there is one, else ``.dockerignore``, else nothing.

        Raises:
            ConfigError: a line is no pattern.

        """
        for path in (root / f"{dockerfile}.dockerignore", root / ".dockerignore"):
            if path.is_file():
                return cls(tuple(_patterns(path)))
        return cls()

    def excludes(self, path: str) -> bool:
        """Whether a path relative to the root (with ``/``) is left out."""
        excluded = False
        for pattern in self.patterns:
            if pattern.keeps is excluded and pattern.regex.fullmatch(path):
                excluded = not pattern.keeps
        return excluded

    def may_keep_below(self, folder: str) -> bool:
        """Whether something inside an excluded folder may be brought back by a ``!`` line."""
        return any(
            pattern.keeps
            and (WILD.search(pattern.text) or f"{pattern.text}/".startswith(f"{folder}/"))
            for pattern in self.patterns
        )


def _patterns(path: Path) -> list[Pattern]:
    lines = path.read_text("utf-8-sig", errors="surrogateescape").split("\n")
    found = []
    for number, line in enumerate(lines, 1):
        if line.startswith("#") or not (text := line.strip()):
            continue
        keeps = text.startswith("!")
        text = text.removeprefix("!").strip()
        try:
            found.append(_pattern(text, keeps))
        except (re.error, ValueError):
            raise ConfigError(
                f"{line.strip()!r} is no pattern", f"{path}:{number}", "Correct or delete the line"
            ) from None
    return found


def _pattern(text: str, keeps: bool) -> Pattern:
    if not text:
        raise ValueError(text)
    clean = posixpath.normpath(text).lstrip("/") or "/"
    return Pattern(clean, keeps, re.compile(f"(?:{_regex(clean)})(?:/.*)?", re.DOTALL))


def _regex(pattern: str) -> str:
    """Docker's own translation, sign by sign; ``**`` also stands for no folder at all."""
    parts: list[str] = []
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        at += 1
        if sign == "*" and pattern.startswith("*", at):
            bare = not pattern.startswith("/", at + 1)
            at += 1 if bare else 2
            # Docker takes "**name", and only where nothing else is wild, as "ends with name".
            ends = bare and at == 2 and not WILD.search(pattern[at:])
            parts.append(".*" if at >= len(pattern) or ends else "(?:.*/)?")
        elif sign == "*":
            parts.append("[^/]*")
        elif sign == "?":
            parts.append("[^/]")
        elif sign == "\\":
            parts.append(re.escape(pattern[at]) if at < len(pattern) else r"\\")
            at += 1
        else:
            parts.append(f"\\{sign}" if sign in ".+()|{}$" else sign)
    return "".join(parts)
