"""Lengths of time, times and numbers, read and written as a person would."""

from __future__ import annotations

import importlib
import sys
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, FlowError, NotReadyError
from llm_twin.flow.project import UNITS, parse_age

if TYPE_CHECKING:
    from collections.abc import Mapping


def seconds(text: str) -> float:
    """The seconds of ``90s``, ``5m``, ``2h``, ``8d`` or ``1w``.

    Raises:
        FlowError: it is not written like that.

    """
    try:
        return parse_age(str(text))
    except ConfigError as error:
        raise FlowError(error.what, error.where, f"{error.hint} ({declared_at()})") from None


def span(length: float) -> str:
    """Seconds as a person writes them: ``90s``, ``8d``."""
    unit = next(unit for unit in reversed(UNITS) if length % UNITS[unit] == 0 or unit == "s")
    return f"{length / UNITS[unit]:g}{unit}"


def utc(at: float) -> str:
    """Seconds since the epoch as ``2026-03-29T01:00:00Z``."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def numbers(value: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers in a nested dict, by dotted path."""
    found: dict[str, float] = {}
    for name, item in value.items():
        if isinstance(item, dict):
            found |= numbers(item, f"{prefix}{name}.")
        elif isinstance(item, int | float) and not isinstance(item, bool) and isfinite(item):
            found[f"{prefix}{name}"] = item
    return found


def require(package: str) -> None:
    """See that a package of the extra ``automate`` is there.

    Raises:
        NotReadyError: it is not.

    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        hint = "Type: pip install 'llm-twin[automate]'"
        raise NotReadyError("automations need a package", package, hint) from None


def declared_at() -> str:
    """The file and line outside this package that is being executed: what there is to mend."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__package__") == __package__:
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
