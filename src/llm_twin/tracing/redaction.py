"""Takes personal data and secrets out of everything that is traced, before any of it is written.

Opik's own anonymizers see input, output and metadata; they miss tags, thread ids, error messages,
tracebacks and the reasons of scores, and the SDK's temporary files. `Redactor.redact` is applied to
whole traces, spans and scores instead, by the journal and again by the store for what comes from
elsewhere. Redacting twice changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import importlib
import os
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol

from llm_twin.errors import ConfigError, NotReadyError, SpaceError
from llm_twin.tracing.patterns import DIGITS, KINDS, SECRET_NAME, Kind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm_twin.settings import Settings

CACHED = 16_384
"""Characters; a longer text, or name of `LONGEST_NAME`, is looked at each time, not remembered."""
LONGEST_NAME = 200
DEEPEST = 60
MOST_ROUNDS = 10
_PLACEHOLDER = re.compile(r"\[[A-Z_]+(?:-[a-p]{8})?\]")
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
"""A pseudonym without digits makes no number with what it follows."""
_CONTAINERS = (dict, list, tuple, set, frozenset)
_DIGIT_KINDS = frozenset(("IBAN", "CARD", "PHONE"))
_BY_DIGITS = tuple(kind for kind in KINDS if kind.name in _DIGIT_KINDS)
_BY_MARKS = tuple(kind for kind in KINDS if kind.name not in _DIGIT_KINDS)


class Engine(Protocol):
    """What Presidio's AnalyzerEngine offers."""

    def analyze(self, text: str, language: str) -> Sequence[Any]:
        """Return findings with ``start``, ``end`` and ``entity_type``."""
        ...


class Redactor:
    """Redacts texts and everything that JSON can hold.

    Args:
        patterns: the user's own, each replaced by ``[REDACTED]``.
        salt: makes pseudonyms, which differ from one installation to another.
        engine: a Presidio analyzer asked about every text besides; slow.
        language: of the texts, for the engine.

    """

    def __init__(
        self,
        patterns: Sequence[re.Pattern[str]] = (),
        salt: bytes = b"",
        engine: Engine | None = None,
        language: str = "en",
    ) -> None:
        self._own = tuple(Kind("REDACTED", pattern) for pattern in patterns)
        self._salt = salt
        self._engine = engine
        self._language = language
        self._remembered = lru_cache(maxsize=256)(self._text)
        self._named = lru_cache(maxsize=1024)(self._name)

    @classmethod
    def of(cls, settings: Settings) -> Redactor:
        """Return the one that the settings ask for; makes the salt's file on first use.

        Raises:
            ConfigError: a pattern does not compile.
            NotReadyError: Presidio is asked for and not installed.
            SpaceError: the state folder cannot be written.

        """
        return cls(
            _compiled(settings.trace_patterns),
            _salt(settings.traces),
            _presidio() if settings.trace_presidio else None,
            settings.trace_presidio,
        )

    def redact(self, value: Any) -> Any:
        """Return a copy of a JSON value (dict, list, str, number) with all texts redacted.

        Names in dicts are redacted too, and whatever is kept under a name like ``password`` is
        replaced whole. Other types are returned as they are.
        """
        return self._value(value, set())

    def text(self, text: str) -> str:
        """Return a text redacted: ``[EMAIL]`` stands where an e-mail address was."""
        return self._remembered(text) if len(text) <= CACHED else self._text(text)

    def identifier(self, text: str) -> str:
        """Redact an id so that equal ids stay equal and different ones different.

        Threads named after addresses become ``[EMAIL-bfamjkcl]`` and so on, not one thread.
        """
        clean = self.text(text)
        if clean == text:
            return text
        digest = hmac.new(self._salt, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()
        letters = digest[:8].translate(_LETTERS)
        return f"{clean.removesuffix(']')}-{letters}{']' * clean.endswith(']')}"

    def document(self, data: bytes) -> bytes:
        """Redact an attachment that is UTF-8 text; return anything else as it is."""
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            return data
        return self._text(text).encode("utf-8")

    def _value(self, value: Any, inside: set[int]) -> Any:
        if value is None or isinstance(value, float):
            return value
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, _CONTAINERS):
            return self._container(value, inside)
        if isinstance(value, int) and not -(10**11) < value < 10**11:
            clean = self.text(str(value))
            return value if clean == str(value) else clean
        return value

    def _container(self, value: Any, inside: set[int]) -> Any:
        if id(value) in inside or len(inside) > DEEPEST:
            return "[NESTED TOO DEEP]"
        inside.add(id(value))
        try:
            if isinstance(value, dict):
                return dict(self._entry(key, value[key], inside) for key in value)
            return [self._value(item, inside) for item in value]
        finally:
            inside.discard(id(value))

    def _entry(self, name: Any, value: Any, inside: set[int]) -> tuple[Any, Any]:
        if not isinstance(name, str):
            return name, self._value(value, inside)
        known = self._named if len(name) <= LONGEST_NAME else self._name
        clean, secret = known(name)
        hidden = secret and value and isinstance(value, str)
        return clean, "[KEY]" if hidden else self._value(value, inside)

    def _name(self, name: str) -> tuple[str, bool]:
        """A name redacted, and whether nothing but a secret is kept under it."""
        return self.identifier(name), SECRET_NAME.fullmatch(name) is not None

    def _text(self, text: str) -> str:
        """Redact until nothing more is found: what was taken out may lay bare its neighbour."""
        for _ in range(MOST_ROUNDS):
            clean = self._once(text)
            if clean == text:
                break
            text = clean
        return text

    def _once(self, text: str) -> str:
        lower = text.lower()
        for kind in _BY_MARKS:
            if any(map(lower.__contains__, kind.marks)):
                text = _without(kind, text)
        if DIGITS.search(text):
            for kind in _BY_DIGITS:
                text = _without(kind, text)
        for kind in self._own:
            text = _without(kind, text)
        return self._asked(text) if self._engine else text

    def _asked(self, text: str) -> str:
        assert self._engine is not None
        pieces, at = [], 0
        for found in sorted(
            self._engine.analyze(text=text, language=self._language), key=lambda found: found.start
        ):
            if found.end > at and not _is_done(text, found.start, found.end):
                pieces += [text[at : max(at, found.start)], f"[{found.entity_type}]"]
                at = found.end
        return "".join([*pieces, text[at:]])


def _without(kind: Kind, text: str) -> str:
    """Replace every finding; after a false alarm go on at its next character."""
    pieces: list[str] = []
    at = look = 0
    group = "it" if "it" in kind.pattern.groupindex else 0
    while match := kind.pattern.search(text, look):
        start, end = match.span(group)
        length = end - start if kind.length is None else kind.length(match.group(group))
        if not length:
            look = start + 1
        elif _is_done(text, start, end):
            look = end
        else:
            pieces += [text[at:start], f"[{kind.name}]"]
            at = look = start + length
    return "".join([*pieces, text[at:]]) if pieces else text


def _is_done(text: str, start: int, end: int) -> bool:
    """Tell whether this is what stands in the place of something, or a part of that."""
    opens = text.rfind("[", 0, start + 1)
    found = _PLACEHOLDER.match(text, opens) if opens >= 0 else None
    return found is not None and end <= found.end()


def _compiled(lines: str) -> list[re.Pattern[str]]:
    compiled = []
    for number, line in enumerate(lines.splitlines(), 1):
        if not line.strip():
            continue
        try:
            pattern = re.compile(line)
            wrong = "it matches nothing at all" if pattern.search("") else ""
        except re.error as error:
            wrong = str(error)
        if wrong:
            raise ConfigError(
                "a pattern to redact cannot be used",
                f"TWIN_TRACE_PATTERNS line {number}, {line!r} ({wrong})",
                "Write one regular expression a line",
            )
        compiled.append(pattern)
    return compiled


def _salt(home: Path) -> bytes:
    """Return the installation's salt; of several processes that make one, the first wins."""
    path = home / "redaction.salt"
    try:
        if not path.exists():
            home.mkdir(parents=True, exist_ok=True)
            own = path.with_name(f"redaction.salt.{os.urandom(8).hex()}")
            own.touch(mode=0o600)
            own.write_bytes(os.urandom(32))
            with contextlib.suppress(FileExistsError):
                os.link(own, path)
            own.unlink()
        return path.read_bytes()
    except OSError as error:
        raise SpaceError(
            f"the salt for pseudonyms cannot be kept ({error})",
            path,
            "Free space or make it writable, or type: export TWIN_HOME=/another/folder",
        ) from None


def _presidio() -> Engine:
    try:
        module = importlib.import_module("presidio_analyzer")
    except ImportError:
        raise NotReadyError(
            "TWIN_TRACE_PRESIDIO needs Presidio, which is not installed",
            "presidio-analyzer",
            "Install it and a model for it, or unset TWIN_TRACE_PRESIDIO",
        ) from None
    engine: Engine = module.AnalyzerEngine()
    return engine
