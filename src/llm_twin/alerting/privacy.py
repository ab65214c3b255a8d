"""What may be said about an event: no parameters, no tracebacks, no secrets, one line a text.

The redactor knows the shapes of secrets and personal data. Besides, what this process itself holds
as a secret, and what the work was given as parameters, is taken out whatever its shape.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError
from llm_twin.settings import Settings
from llm_twin.tracing.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from llm_twin.alerting.store import Event

LONGEST = 200
SHORTEST = 6
SHORTEST_PARAMETER = 4
NEVER = {"parameters", "params", "options", "traceback", "stack", "environment", "env"}
PLAIN = {"True", "False", "None", "main"}
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|KEY|CREDENTIALS?)$", re.IGNORECASE)


class Privacy:
    """Makes events and texts fit to be kept and sent.

    Args:
        redactor: for what can be told by its shape.
        secrets: texts that are replaced wherever they occur.

    """

    def __init__(self, redactor: Redactor | None = None, secrets: Sequence[str] = ()) -> None:
        self._redactor = redactor or Redactor()
        self._secrets = sorted(set(secrets), key=len, reverse=True)

    @classmethod
    def of(cls, home: Path) -> Privacy:
        """The one of this process's settings; a setting that is wrong costs no alert.

        Raises:
            SpaceError: the state folder cannot be written.

        """
        try:
            settings = Settings.load()
            redactor = Redactor.of(dataclasses.replace(settings, home=home, trace_presidio=""))
        except ConfigError as error:
            print(f"error: alerts are redacted by the defaults: {error}", file=sys.stderr)
            settings, redactor = Settings(), Redactor()
        return cls(redactor, [*_configured(settings), *_environment()])

    def event(self, event: Event) -> Event:
        """The same event without what must not be kept."""
        parameters = [
            text
            for name in NEVER
            for text in _texts(event.data.get(name))
            if len(text) >= SHORTEST_PARAMETER and text not in PLAIN
        ]
        clean = Privacy(self._redactor, [*self._secrets, *parameters])
        data = {name: clean._value(value) for name, value in event.data.items()}
        kept = {name: value for name, value in data.items() if name.lower() not in NEVER}
        subject = self._redactor.identifier(brief(event.subject))
        return dataclasses.replace(event, subject=subject, data=self._redactor.redact(kept))

    def text(self, text: str) -> str:
        """One short line, redacted."""
        for secret in self._secrets:
            text = text.replace(secret, "[...]")
        return brief(self._redactor.text(text))

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                str(name): self._value(item)
                for name, item in value.items()
                if str(name).lower() not in NEVER
            }
        if isinstance(value, list | tuple | set):
            return [self._value(item) for item in value]
        return value if isinstance(value, int | float | None) else self.text(str(value))


def brief(text: str) -> str:
    """The line that says it: the last one of a traceback, else the first; cut where it is long."""
    lines = [line for line in map(str.strip, text.splitlines()) if line] or [""]
    line = lines[-1] if lines[0].startswith("Traceback (") else lines[0]
    line = " ".join("".join(c if c.isprintable() else " " for c in line).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 3]}..."


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple | set):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _configured(settings: Settings) -> Iterator[str]:
    for item in dataclasses.fields(settings):
        if not item.repr:
            yield from _long(str(getattr(settings, item.name)))


def _environment() -> Iterator[str]:
    for name, value in os.environ.items():
        if _SECRET_NAME.search(name):
            yield from _long(value)


def _long(text: str) -> Iterator[str]:
    return (part for part in text.split() if len(part) >= SHORTEST)
