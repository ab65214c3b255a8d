"""The docstrings of a Python file as one document: what the code says about itself."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from llm_twin.corpus.document import Document
from llm_twin.corpus.extract import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

_ARGUMENTS = re.compile(r"(Args|Arguments|Attributes|Raises|Yields|Keyword Args|Parameters):$")


def module_name(uri: str) -> str:
    """Return the dotted name a file is imported by, as far as its path tells."""
    parts = list(PurePosixPath(uri).with_suffix("").parts)
    if parts[0] in ("src", "lib") and len(parts) > 1:
        parts = parts[1:]
    if parts[-1] == "__init__" and len(parts) > 1:
        parts = parts[:-1]
    return ".".join(parts)


def docstrings(data: bytes, uri: str, link: str = "") -> Document | None:
    """Return a module's docstrings under a heading per class and function, or None without any.

    Raises:
        Unreadable: it does not parse as Python.

    """
    try:
        tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError):
        raise Unreadable("not parsed by this Python") from None
    parts = list(_parts(tree, "", 2))
    own = ast.get_docstring(tree)
    if not parts and not own:
        return None
    first = (own or "").partition("\n")[0].strip().rstrip(".")
    name = module_name(uri)
    return Document(
        uri=uri,
        title=f"{name}: {first}" if 0 < len(first) <= 90 else name,
        text="\n\n".join([_markdown(own or ""), *parts]).strip(),
        link=link or uri,
    )


def _parts(tree: ast.AST, owner: str, level: int) -> Iterator[str]:
    """Yield a heading and docstring for each class and function, and for what classes hold."""
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        is_class = isinstance(node, ast.ClassDef)
        name = f"{owner}{node.name}"
        text = ast.get_docstring(node)
        if text:
            heading = f"class {name}" if is_class else f"{name}()"
            yield f"{'#' * level} `{heading}`\n\n{_markdown(text)}"
        if is_class:
            yield from _parts(node, f"{name}.", min(level + 1, 6))


def _markdown(docstring: str) -> str:
    """Turn a docstring's Google-style sections into lists, and its examples into code."""
    lines: list[str] = []
    in_section = in_code = in_doctest = False
    for line in inspect.cleandoc(docstring).splitlines():
        indent = len(line) - len(line.lstrip())
        goes_on = indent > 0 or not line
        in_section = (in_section and goes_on) or bool(_ARGUMENTS.match(line))
        in_code = line.endswith("::") or (in_code and goes_on)
        starts = not in_doctest and line.lstrip().startswith(">>>")
        ends = in_doctest and not line.strip()
        in_doctest = (in_doctest or starts) and not ends
        lines += ["", "```python"] * starts + ["```"] * ends
        if in_doctest:
            lines.append(line.lstrip())
        elif _ARGUMENTS.match(line):
            lines += ["", line, ""]
        elif in_section and indent and not in_code:
            lines.append(f"- {line.strip()}" if indent <= 4 else f"  {line.strip()}")
        else:
            lines.append("" if line.strip() == "::" else line)
    return "\n".join([*lines, *["```"] * in_doctest]).strip()
