"""Instruction and preference sets of the LLM Engineer's Handbook, in the formats they come in.

* its own artifacts: ``{"train": {"articles": {"samples": [...]}}, "test": {...}}``, also under
  ``artifact_data``, and one category's ``{"samples": [...]}`` alone;
* exports of the same rows: a JSON list, JSON lines, or ``{"train": [...], "test": [...]}``, with
  the names that its sets have on the Hugging Face hub (``instruction``/``output``,
  ``prompt``/``chosen``/``rejected``, answers as lists of messages).

What its authors tested by stays on the held-out side.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_twin.errors import ConfigError
from llm_twin.model.rows import Pair, Preference

if TYPE_CHECKING:
    from collections.abc import Iterator

KIND = "handbook"
INSTRUCTION = ("instruction", "prompt", "question")
ANSWER = ("answer", "output", "completion", "response")
TESTED = ("test", "validation", "eval")
_HINT = "See docs/how-to/train.md for the formats that are read"


class Imported(NamedTuple):
    """A set as it was read.

    Attributes:
        name: of the file.
        sha256: of the file.
        train: rows to learn from.
        test: rows to be judged by.

    """

    name: str
    sha256: str
    train: list[Any]
    test: list[Any]


def read_instructions(path: str | Path) -> Imported:
    """Read an instruction set; its rows are ``Pair``.

    Raises:
        ConfigError: the file cannot be read, or a row is not one; it says file, row and field.

    """
    return _read(Path(path), _pair)


def read_preferences(path: str | Path) -> Imported:
    """Read a preference set; its rows are ``Preference``.

    Raises:
        ConfigError: the file cannot be read, or a row is not one; it says file, row and field.

    """
    return _read(Path(path), _preference)


def _read(path: Path, row_of: Any) -> Imported:
    try:
        raw = path.expanduser().read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError("the set cannot be read", path, error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise ConfigError("the set is not UTF-8", f"{path}, byte {error.start}", _HINT) from None
    sides: dict[bool, list[Any]] = {False: [], True: []}
    for number, (side, place, row) in enumerate(_rows(_parsed(text, path), path), start=1):
        sides[side in TESTED].append(row_of(row, f"{path}, row {number} ({place})"))
    if not any(sides.values()):
        raise ConfigError("the set has no rows", path, _HINT)
    return Imported(path.name, hashlib.sha256(raw).hexdigest(), sides[False], sides[True])


def _parsed(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        if "\n" not in text.strip() or text.lstrip()[:1] != "{":
            raise ConfigError("the set is not JSON", path, str(error)) from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            rows += [json.loads(line)] if line.strip() else []
        except (json.JSONDecodeError, RecursionError) as error:
            where = f"{path}, line {number}"
            raise ConfigError("the set is neither JSON nor JSON lines", where, str(error)) from None
    return rows


def _rows(data: Any, path: Path, side: str = "", place: str = "") -> Iterator[tuple[str, str, Any]]:
    """Walk down to the rows: (side, where it is in the file, row)."""
    if isinstance(data, list):
        for number, row in enumerate(data):
            yield side, f"{place}[{number}]", row
    elif isinstance(data, dict) and "artifact_data" in data:
        yield from _rows(data["artifact_data"], path, side, "artifact_data")
    elif isinstance(data, dict) and "samples" in data:
        yield from _rows(data["samples"], path, side, f"{place}.samples".lstrip("."))
    elif isinstance(data, dict):
        parts = {name: part for name, part in data.items() if isinstance(part, dict | list)}
        if not parts:
            raise ConfigError("this is no set of rows", f"{path}, {place or 'top level'}", _HINT)
        for name, part in parts.items():
            if not side and name == "metadata":
                continue
            yield from _rows(part, path, side or name, f"{place}.{name}".lstrip("."))
    else:
        raise ConfigError("this is no set of rows", f"{path}, {place or 'top level'}", _HINT)


def _pair(row: Any, where: str) -> Pair:
    fields = _fields(row, where)
    return Pair(_text(fields, INSTRUCTION, where), _text(fields, ANSWER, where), KIND)


def _preference(row: Any, where: str) -> Preference:
    fields = _fields(row, where)
    asked = _text(fields, INSTRUCTION, where)
    return Preference(
        asked, _text(fields, ("chosen",), where), _text(fields, ("rejected",), where), KIND
    )


def _fields(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ConfigError("a row is not an object with fields", where, _HINT)
    return row


def _text(row: dict[str, Any], names: tuple[str, ...], where: str) -> str:
    name = next((name for name in names if name in row), "")
    if not name:
        raise ConfigError(f"a row has no field {' or '.join(map(repr, names))}", where, _HINT)
    value = row[name]
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if isinstance(value, dict):
        value = value.get("content")
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"a row's field {name!r} is not a text", where, _HINT)
    return value.strip()
