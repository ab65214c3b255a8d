"""Secrets in an image: in a file of a layer, deleted ones too, in a label, in the history.

Three kinds are looked for: what is shaped like a secret (by detect-secrets' own rules, wherever
they are precise), files that have no business in an image, and the very values that the build's
environment and files hold. A finding says where and of what kind; never what it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llm_twin.delivery.layers import File, Image

PIECE = 1 << 22
# What of a piece is looked at again with the next one: a secret may lie across the border.
OVERLAP = 1 << 14
LONGEST_LINE = 2000
SHORTEST = 8
LONG = 32  # characters without a space: a line of a key

SECRET_NAME = re.compile(r"(?i)token|secret|passw(or)?d|passphrase|credential|key")
# An identity and not a secret: the python image says in GPG_KEY who has signed Python.
PUBLIC_NAME = re.compile(
    r"(?i)(^gpg|public)_?key|keyboard|keymap|key(ring|words)|_(file|path|url)$"
)
ASSIGNED = re.compile(r"""(?m)^[ \t]*(?:export )?([\w.-]+)[ \t]*[=:][ \t]*["']?([^"'\n]*)""")
IN_URL = re.compile(r"://[^\s:/?#@\"'<>]*:([^\s/?#\"'<>]+)@")

FILES = re.compile(
    r"(?:^|/)(?:\.env(?:\.(?!example$|sample$|template$)[^/]+)?|\.git/.+|\.aws/(?:credentials|sso/.+)"
    r"|\.docker/config\.json|\.dockercfg|\.git-credentials|\.kube/config|[._]netrc|\.pypirc|\.pgpass"
    r"|id_(?:rsa|dsa|ecdsa|ed25519)|\.ssh/(?!known_hosts|authorized_keys).+)$"
)
PACKAGED = re.compile(
    r"/(?:site|dist)-packages/.*\.(?:py|pyi|md|rst|txt)$|\.dist-info/|^usr/share/doc/"
)
AWS, LOGIN, KEY = "AWS Access Key", "Basic Auth Credentials", "Private Key"
# As in a file of credentials; detect-secrets wants quotes.
UNQUOTED = r"(?i)secret_access_key[\"']?\s*[=:]\s*[\"']?([a-z0-9/+]{40})(?![a-z0-9/+=])"
ELF = b"\x7fELF"
KEY_BODY = re.compile(
    rb"PRIVATE KEY(?: BLOCK)?-----(?:\s|\\[nr]|[\w-]+: [^\n]*\n)+[A-Za-z0-9+/=]{30}"
)


@dataclass(frozen=True, order=True)
class Finding:
    """A secret, and not what it reads.

    Attributes:
        where: the layer's digest, or the document.
        path: of the file in it, or of the value in the document.
        line: counted from 1; 0 where there are no lines.
        kind: what it looks like, or whose value it is.
        deleted: whether another layer hides the file; whoever pulls the image has it all the same.

    """

    where: str
    path: str
    line: int
    kind: str
    deleted: bool = False

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        note = " (deleted by another layer, and still in the image)" if self.deleted else ""
        return f"{self.where}: {self.path}{line}: {self.kind}{note}"


class Secrets:
    """Values that must be nowhere, each by what it is called. They are never shown."""

    def __init__(self, named: Iterable[tuple[str, str]] = ()) -> None:
        self._forms = {form: name for name, value in named for form in _forms(value)}

    def __len__(self) -> int:
        return len(self._forms)

    @classmethod
    def of(cls, environ: Mapping[str, str], files: Iterable[Path] = ()) -> Secrets:
        """Those of variables whose names say so, of ``TWIN_SECRETS``, and of files.

        Of a file the whole counts, what it assigns to a name that says so, and passwords in
        addresses; values shorter than eight characters are words like any other.
        """
        declared = {name.strip() for name in environ.get("TWIN_SECRETS", "").split(",")}
        named = [
            (f"the value of {name}", value)
            for name, value in environ.items()
            if name in declared or (_says_secret(name) and not _is_file(value))
        ]
        named += [
            (f"the password in {n}", each) for n, v in environ.items() for each in IN_URL.findall(v)
        ]
        for path in files:
            text = _read(path)
            found = [value for name, value in ASSIGNED.findall(text) if _says_secret(name)]
            named += [
                (f"what {path.name} holds", value)
                for value in (text, *found, *IN_URL.findall(text))
            ]
        return cls(named)

    def find(self, data: bytes) -> Iterator[tuple[int, str]]:
        """Where in these bytes one begins, and what it is called."""
        for form, name in self._forms.items():
            at = data.find(form)
            while at >= 0:
                yield at, name
                at = data.find(form, at + len(form))


def scan(
    image: Image, secrets: Secrets, documents: Mapping[str, bytes] | None = None
) -> list[Finding]:
    """Look through an image and what is attached to it.

    Args:
        image: ``EngineImage`` or ``RegistryImage``.
        secrets: values to look for, beside shapes and file names.
        documents: JSON documents beside the image (SBOM, provenance), by name.

    Returns: what was found, sorted.

    """
    found: set[Finding] = set()
    hidden: set[str] = set()
    beside = {name: json.loads(data) for name, data in (documents or {}).items()}
    for name, value in {**image.documents(), **beside}.items():
        found.update(_in_document(name, value, secrets))
    for layer in image.layers():
        here: list[Finding] = []
        for file in layer.files():
            if file.hides:
                hidden.add(file.hides)
            here += _in_layer(file, secrets)
        found.update(replace(each, where=f"layer {layer.digest}") for each in here)
    return sorted(replace(each, deleted=_is_hidden(each.path, hidden)) for each in found)


def _forms(value: str) -> set[bytes]:
    """The ways a value is written: as it is, in JSON, and each line that can be nothing else."""
    lines = [line.strip() for line in value.splitlines() if " " not in line.strip()]
    kept = {value.strip(), *(line for line in lines if len(line) >= LONG)} - {""}
    texts = [text for text in kept if len(text) >= SHORTEST]
    return {form.encode() for text in texts for form in (text, json.dumps(text)[1:-1])}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"This cannot be read ({error.strerror})", path) from None


def _says_secret(name: str) -> bool:
    return bool(SECRET_NAME.search(name)) and not PUBLIC_NAME.search(name)


def _is_file(value: str) -> bool:
    try:
        return Path(value).is_file()
    except OSError:  # too long for a name
        return False


def _is_hidden(path: str, hidden: set[str]) -> bool:
    parts = path.split("/")
    above = ["/".join(parts[:count]) for count in range(1, len(parts) + 1)]
    return any(place in hidden or f"{place}/" in hidden for place in above)


def _in_layer(file: File, secrets: Secrets) -> Iterator[Finding]:
    path = file.path
    for _, name in secrets.find(path.encode()):
        path = "the name of a file"  # which is not to be printed
        yield Finding("", path, 0, name)
    if FILES.search(file.path):
        yield Finding("", path, 0, "a file that has no business in an image")
    yield from (Finding("", path, *found) for found in _in_file(file, secrets))


def _in_file(file: File, secrets: Secrets) -> Iterator[tuple[int, str]]:
    """Line and kind of what is found, piece by piece."""
    window = file.read(PIECE)
    is_text = b"\0" not in window[:8192]
    shapes = _fitting(file.path, window, is_text)
    before = 0
    while window:
        for at, kind in (*secrets.find(window), *_shaped(shapes, window)):
            yield before + window.count(b"\n", 0, at) + 1 if is_text else 0, kind
        piece = file.read(PIECE)
        kept = window[-OVERLAP:] if piece else b""
        before += window.count(b"\n", 0, len(window) - len(kept)) if piece else 0
        window = kept + piece


def _in_document(name: str, value: Any, secrets: Secrets) -> Iterator[Finding]:
    for path, text in _texts(value):
        data = text.encode()
        for _, kind in (*secrets.find(data), *_shaped(_known_shapes(), data)):
            yield Finding(name, path, 0, kind)
        variable, equals, content = text.partition("=")
        if ".Env[" in path and equals and len(content) >= SHORTEST and _says_secret(variable):
            yield Finding(name, f"{path} ({variable})", 0, "a variable that is named like a secret")


def _texts(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON value with its path, names of members among them."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield path, key
            yield from _texts(each, f"{path}.{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _texts(each, f"{path}[{number}]")
    elif isinstance(value, str):
        yield path, value


@dataclass(frozen=True)
class Shape:
    """What one kind of secret looks like.

    Attributes:
        kind: its name.
        anchors: bytes of which it has one; only lines with one of them are looked at.
        find: the secrets in a line.
        binary: whether it is precise enough for files that are no text.

    """

    kind: str
    anchors: tuple[bytes, ...]
    find: Callable[[str], Iterable[str]]
    binary: bool = False


@cache
def _known_shapes() -> tuple[Shape, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    plugins: dict[str, Any] = get_mapping_from_secret_type_to_class()
    theirs = [
        Shape(kind, tuple(anchors.split()), plugins[kind]().analyze_string, binary)
        for kind, anchors, binary in (
            (AWS, b"AKIA ASIA", True),
            (AWS, b"aws AWS", False),
            ("Azure Storage Account access key", b"AccountKey", False),
            (LOGIN, b"://", False),
            ("GitHub Token", b"ghp_ gho_ ghu_ ghs_ ghr_", True),
            ("GitLab Token", b"glpat- gldt- glft- glsoat- glrt- glcbt- glptt- glagent-", False),
            ("JSON Web Token", b"eyJ", False),
            ("NPM tokens", b"_authToken", False),
            ("OpenAI Token", b"T3BlbkFJ", True),
            ("PyPI Token", b"pypi-Ag", False),
            ("SendGrid API Key", b"SG.", False),
            ("Slack Token", b"xox hooks.slack.com", True),
            ("Square OAuth Secret", b"sq0csp", False),
            ("Stripe Access Key", b"k_live_", True),
        )
    ]
    ours = [
        Shape(kind, anchors, re.compile(pattern).findall, binary=True)
        for kind, anchors, pattern in (
            (AWS, (b"ecret_access_key", b"SECRET_ACCESS_KEY"), UNQUOTED),
            ("GitHub Token", (b"github_pat_",), r"github_pat_\w{22,}"),
            (KEY, (b"PRIVATE KEY",), r"BEGIN [A-Z0-9 ]*PRIVATE KEY"),
        )
    ]
    return (*theirs, *ours)


def _fitting(path: str, start: bytes, is_text: bool) -> list[Shape]:
    """The shapes that mean something in a file, by its path and how it begins."""
    left_out = set()
    if PACKAGED.search(path):  # examples in comments
        left_out.add(LOGIN)
    if start.startswith(ELF):  # cryptographic libraries test themselves with keys that they carry
        left_out.add(KEY)
    return [
        shape
        for shape in _known_shapes()
        if shape.kind not in left_out and (is_text or shape.binary)
    ]


def _shaped(shapes: Iterable[Shape], data: bytes) -> Iterator[tuple[int, str]]:
    """Where something is shaped like a secret, and like which."""
    for shape in shapes:
        for anchor in shape.anchors:
            yield from ((at, shape.kind) for at in _anchored(shape, anchor, data))


def _anchored(shape: Shape, anchor: bytes, data: bytes) -> Iterator[int]:
    at = data.find(anchor)
    while at >= 0:
        start = max(data.rfind(b"\n", 0, at) + 1, at - LONGEST_LINE)
        end = data.find(b"\n", at, at + LONGEST_LINE)
        end = at + LONGEST_LINE if end < 0 else end
        line = data[start:end].decode("utf-8", "replace")
        if any(_is_real(shape.kind, secret, line, data, at) for secret in shape.find(line)):
            yield at
        at = data.find(anchor, end)


def _is_real(kind: str, secret: str, line: str, data: bytes, at: int) -> bool:
    if kind == KEY:  # programs that read keys name the line with which one begins
        return bool(KEY_BODY.match(data, at))
    if kind == AWS:  # as a part of a longer word it is one of a table of words
        return bool(re.search(rf"(?<![A-Za-z0-9]){re.escape(secret)}(?![A-Za-z0-9])", line))
    return True
