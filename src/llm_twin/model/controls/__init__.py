"""What an author's style is told from: texts by others that every machine has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError
from llm_twin.model.controls import assistant, library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

AUTHOR = "author"
"""The name of the class that controls are told from."""


def controls(extra: Mapping[str, Sequence[str]] | None = None) -> dict[str, list[str]]:
    """Return texts by class: ``llm``, ``other``, and those of the caller.

    Args:
        extra: texts by name; one named ``llm`` or ``other`` takes the place of what is shipped.

    Raises:
        ConfigError: one is named like the author.

    """
    given = extra or {}
    if AUTHOR in given:
        raise ConfigError(
            "a control cannot be named like the author",
            AUTHOR,
            "Give the path in evaluation.controls another name",
        )
    shipped: dict[str, Sequence[str]] = {"llm": assistant.PASSAGES}
    if "other" not in given:
        shipped["other"] = library.passages()
    return {name: list(texts) for name, texts in {**shipped, **given}.items() if texts}
