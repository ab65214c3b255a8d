"""Prose of other authors that is on every machine: what Python's own library says about itself.

The sources are read, never imported. Signatures, examples and tables are left out, because they
tell no author from another.
"""

from __future__ import annotations

import ast
import re
import sysconfig
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_NAMES = """
    argparse bdb calendar cmd codecs concurrent/futures/_base configparser contextlib copy datetime
    difflib doctest email/message enum fileinput ftplib functools gettext glob heapq http/cookiejar
    http/server imaplib ipaddress locale logging/__init__ logging/handlers mailbox optparse os
    pathlib pdb pkgutil platform random shutil smtplib socketserver statistics subprocess tarfile
    tempfile textwrap threading traceback unittest/case urllib/request uuid weakref zipfile
"""
MODULES = tuple(_NAMES.split())
FEWEST_WORDS = 12
"""A paragraph with fewer is a signature, a heading or a row of a table."""
_WORDLIKE = re.compile(r"^[A-Za-z][a-z']*[.,;:!?)]*$")
PROSE = 0.75
"""Share of a paragraph's words that look like words; lists of arguments have less."""


@cache
def passages() -> tuple[str, ...]:
    """Return each paragraph of prose once, in the order of ``MODULES``; none without sources."""
    root = Path(sysconfig.get_path("stdlib"))
    return tuple(
        dict.fromkeys(
            paragraph
            for name in MODULES
            for docstring in _docstrings(root / f"{name}.py")
            for paragraph in _paragraphs(docstring)
        )
    )


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return  # Another version of Python has other modules.
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


def _paragraphs(docstring: str) -> Iterator[str]:
    for block in re.split(r"\n\s*\n", docstring):
        lines = block.splitlines()
        if any(line.lstrip().startswith((">>>", "...", "|", "-", "*")) for line in lines):
            continue
        words = block.split()
        wordlike = sum(bool(_WORDLIKE.match(word)) for word in words)
        if len(words) >= FEWEST_WORDS and wordlike >= PROSE * len(words):
            yield " ".join(words)
