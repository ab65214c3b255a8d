"""Keep secrets out of logs, reports and the history: each is replaced by ``***`` on the way there.

Known values (declared secrets) and known shapes (access keys, tokens, passwords in URLs, private
keys) are found in bytes as they stream by. Nothing but a private key crosses a line, so a finished
line can be shown; of an unfinished one, what could still become a secret waits.
"""

from __future__ import annotations

import binascii
import functools
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MASK = b"***"
SHORTEST = 6
SHORTEST_LINE = 8
REACH = 9 * 1024
SECRET_NAMES = (
    "TOKEN", "SECRET", "PASSWORD", "PASSWD", "API_KEY", "ACCESS_KEY", "PRIVATE_KEY",
)  # fmt: skip

# In every pattern below an alternative starts with a plain letter and its group, if it has one, is
# the secret: re then skips quickly to the letters that can start a match (ten times as fast).
_AWS_ID = rb"A(?:KI|SI)A[A-Z0-9]"
_GITHUB = rb"gh[oprsu]_[A-Za-z0-9_.-]"
_GITHUB_PAT = rb"github_pat_[A-Za-z0-9_]"
_SLACK = rb"xox[abeprs]-[A-Za-z0-9-]"
# A signed JSON web token: header, claims and signature; the first two begin with {" in base64.
_JWT = rb"eyJ[A-Za-z0-9_-]"
_KEY_START = re.compile(rb"-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END = re.compile(rb"-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----")
_KEY_END_LENGTH = 96
_TOKENS = b"|".join(
    (
        _AWS_ID + rb"{16}(?![A-Za-z0-9])",
        _GITHUB + rb"{20,4096}",
        _GITHUB_PAT + rb"{20,4096}",
        _SLACK + rb"{10,4096}",
        _JWT + rb"{8,1024}\.eyJ[A-Za-z0-9_-]{4,6144}\.[A-Za-z0-9_-]{16,1024}",
        _KEY_START.pattern,
    )
)
_OPEN_TOKENS = b"|".join(
    (
        *(start + rb"{0,9000}\Z" for start in (_AWS_ID, _GITHUB, _GITHUB_PAT, _SLACK)),
        rb"eyJ[A-Za-z0-9_.-]{0,9000}\Z",
    )
)

_AWS_NAME = rb"(?i:ecret[_-]?access[_-]?key)[^A-Za-z0-9\r\n]{1,8}?"
_AUTHORIZATION = (
    rb"(?i:thorization)[^A-Za-z0-9\r\n:=]{0,4}[:=][^A-Za-z0-9\r\n]{0,8}(?:b')?"
    rb"(?i:bearer|basic|token)[ \t]{1,4}"
)
_BEARER = rb"earer[ \t]{1,4}"
_USER = rb"://[^\s:/?#@\"'<>]{0,256}:"
_CREDENTIAL = rb"[A-Za-z0-9._~+/=*-]"
_NAMED = [
    _AWS_NAME + rb"([A-Za-z0-9/+]{40})(?![A-Za-z0-9/+])",
    _AUTHORIZATION + rb"(" + _CREDENTIAL + rb"{1,8192})",
    _BEARER + rb"((?=[A-Za-z._~+/=*-]{0,64}[0-9])" + _CREDENTIAL + rb"{12,8192})",
    _USER + rb"([^\s/?#\"'<>]{1,1024})(?=@)",
]
_OPEN_NAMED = [
    _AWS_NAME + rb"([A-Za-z0-9/+]{0,40})\Z",
    _AUTHORIZATION + rb"(" + _CREDENTIAL + rb"{0,8192})\Z",
    _BEARER + rb"(" + _CREDENTIAL + rb"{0,8192})\Z",
    _USER + rb"([^\s/?#\"'<>]{0,1024})\Z",
]


def declared_secrets(environ: Mapping[str, str]) -> list[str]:
    """Values that must never be shown.

    They are those of the settings that are not printed, of the variables that ``TWIN_SECRETS``
    names (separated by commas) and of every variable whose name ends like a secret's (``TOKEN``,
    ``SECRET``, ``PASSWORD``, ``API_KEY``...).
    """
    import dataclasses

    from llm_twin.settings import Settings

    names = {f"TWIN_{f.name.upper()}" for f in dataclasses.fields(Settings) if not f.repr}
    names.update(name.strip() for name in environ.get("TWIN_SECRETS", "").split(","))
    return [
        value
        for name, value in environ.items()
        if value and (name in names or name.upper().endswith(SECRET_NAMES))
    ]


class Masker:
    """Masks these values and everything that is shaped like a secret.

    Args:
        secrets: values; those shorter than six characters are ignored, because masking ``1``
            would ruin every log. Of one with several lines each line of eight or more counts.

    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = list(secrets)

    def stream(self) -> MaskStream:
        """A mask for the output of one stage."""
        return MaskStream(self)

    def text(self, text: str) -> str:
        """Mask a whole text."""
        if not text:
            return text
        stream = self.stream()
        data = text.encode("utf-8", "surrogatepass")
        return (stream.feed(data) + stream.close()).decode("utf-8", "surrogatepass")

    def value(self, value: Any) -> Any:
        """Mask every text in a value of plain JSON types."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(str(key)): self._item(str(key), item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        return value

    def _item(self, key: str, item: Any) -> Any:
        """A dictionary's item: its name can tell what it is."""
        named = isinstance(item, str) and self.text(f"{key}={item}").endswith("=***")
        return "***" if named else self.value(item)

    @functools.cached_property
    def sieves(self) -> tuple[_Sieve, _Sieve]:
        """Values and tokens first, so that what names a secret can be shown with it masked."""
        found = {form for secret in self._secrets for form in _forms(secret.strip())}
        literals = sorted(found, key=lambda form: (-len(form), form))
        shapes = re.compile(_TOKENS)
        longer = [item for item in literals if shapes.match(item)]
        other = [item for item in literals if not shapes.match(item)]
        values = b"|".join([*_alternatives(longer), _TOKENS, *_alternatives(other)])
        reach = max([REACH, *map(len, literals)]) + 1
        return (
            _Sieve(values, _OPEN_TOKENS, literals, reach),
            _Sieve(_either_case(*_NAMED), _either_case(*_OPEN_NAMED), [], REACH),
        )


class _Sieve:
    """What to look for, and how to tell that a text could end in the middle of it."""

    def __init__(self, secrets: bytes, opened: bytes, literals: list[bytes], reach: int) -> None:
        self.secrets = re.compile(secrets)
        self.reach = reach
        self._opened = re.compile(opened)
        self._literals = literals

    def open_at(self, data: bytes) -> int:
        """Where a secret may have begun that the data do not end; their length if none did."""
        match = self._opened.search(data)
        place = match.start(match.lastindex or 0) if match else len(data)
        for literal in self._literals:
            at = data.find(literal[:1], max(0, len(data) - len(literal) + 1), place)
            while at >= 0 and not literal.startswith(data[at:]):
                at = data.find(literal[:1], at + 1, place)
            place = at if at >= 0 else place
        return place


class _Strainer:
    """One sieve over one stream: the bytes that are not decided yet, and how many were shown."""

    def __init__(self, sieve: _Sieve) -> None:
        self._sieve = sieve
        self._waiting = b""
        self._shown = 0
        self._in_key = False

    def feed(self, data: bytes) -> bytes:
        data = self._waiting = self._waiting + data
        lines = max(data.rfind(b"\n"), data.rfind(b"\r")) + 1
        return self._decide(max(lines, len(data) - self._sieve.reach))

    def idle(self) -> bytes:
        """Show what can be shown, and keep it: what it means may depend on what follows."""
        shown, at = self._mask(self._sieve.open_at(self._waiting))
        if self._in_key:
            self._drop(at)
        return shown

    def close(self) -> bytes:
        return self._decide(len(self._waiting))

    def _decide(self, limit: int) -> bytes:
        shown, at = self._mask(limit)
        self._drop(at)
        return shown

    def _drop(self, at: int) -> None:
        self._waiting = self._waiting[at:]
        self._shown = max(0, self._shown - at)

    def _mask(self, limit: int) -> tuple[bytes, int]:
        """What to show of the bytes up to a limit, and from where to look next."""
        data, at = self._waiting, 0
        out: list[bytes] = []
        while True:
            if self._in_key:
                end = _KEY_END.search(data, at)
                if end is None:
                    return b"".join(out), max(at, len(data) - _KEY_END_LENGTH)
                self._in_key = False
                at = self._shown = end.end()
            match = self._sieve.secrets.search(data, at)
            if match is None or match.start() >= limit:
                break
            start, at = match.span(match.lastindex or 0)
            if at > self._shown:
                out += [data[self._shown : start], MASK]
                self._shown = at
            self._in_key = _KEY_START.fullmatch(match[0]) is not None
        out.append(data[self._shown : limit])
        self._shown = max(self._shown, limit)
        return b"".join(out), max(at, limit)


class MaskStream:
    """Masks one stage's output piece by piece, the same wherever the pieces begin and end."""

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._strainers: list[_Strainer] = []

    def feed(self, data: bytes) -> bytes:
        """Take more output and return what can be shown: lines, all but the end of a long one."""
        if not self._strainers:
            self._strainers = [_Strainer(sieve) for sieve in self._masker.sieves]
        values, named = self._strainers
        return named.feed(values.feed(data))

    def idle(self) -> bytes:
        """Return what can be shown of an unfinished line: a prompt, a progress bar."""
        if not self._strainers:
            return b""
        values, named = self._strainers
        return named.feed(values.idle()) + named.idle()

    def close(self) -> bytes:
        """Return the rest."""
        if not self._strainers:
            return b""
        values, named = self._strainers
        return named.feed(values.close()) + named.close()


def _either_case(aws: bytes, authorization: bytes, bearer: bytes, user: bytes) -> bytes:
    """One pattern of those that a name comes before, the name's first letter small or capital."""
    names = ((b"sS", aws), (b"uU", authorization), (b"bB", bearer))
    return b"|".join([*(bytes([c]) + rest for first, rest in names for c in first), user])


def _alternatives(literals: list[bytes]) -> list[bytes]:
    """Patterns of the literals, those with the same first byte as one; longer ones come first."""
    groups: dict[bytes, list[bytes]] = {}
    for literal in literals:
        groups.setdefault(literal[:1], []).append(re.escape(literal[1:]))
    return [re.escape(first) + b"(?:" + b"|".join(rest) + b")" for first, rest in groups.items()]


def _forms(secret: str) -> set[bytes]:
    """The ways in which a secret may be written: plain, JSON, URL and base64."""
    import json
    from urllib.parse import quote, quote_plus

    if len(secret) < SHORTEST:
        return set()
    raw = secret.encode("utf-8", "surrogateescape")
    lines = secret.splitlines()
    plain = [secret] if len(lines) == 1 else [x for x in lines if len(x.strip()) >= SHORTEST_LINE]
    texts = [
        # A line that begins a private key is none: without it the body would not be recognized.
        *(line.strip() for line in plain if not _KEY_START.match(line.encode())),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        quote(raw, safe=""),
        quote(raw),
        quote_plus(raw),
    ]
    forms = {text.encode("utf-8", "surrogateescape") for text in texts}
    return forms | _base64_forms(raw)


def _base64_forms(raw: bytes) -> set[bytes]:
    """Its base64 alone and, as far as its neighbours leave it alone, inside something longer."""
    forms = {binascii.b2a_base64(raw, newline=False)}
    for shift in range(3):
        encoded = binascii.b2a_base64(bytes(shift) + raw, newline=False)
        forms.add(encoded[shift and shift + 1 : (shift + len(raw)) * 8 // 6])
    return forms | {form.replace(b"+", b"-").replace(b"/", b"_") for form in forms}
