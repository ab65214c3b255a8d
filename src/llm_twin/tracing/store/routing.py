"""Requests, answers and which function answers which path; nothing here knows HTTP's transport."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from llm_twin.tracing.store.privacy import cleaned
from llm_twin.tracing.store.shapes import wrong
from llm_twin.tracing.store.unserved import missing

if TYPE_CHECKING:
    from llm_twin.tracing.redaction import Redactor
    from llm_twin.tracing.store.store import Store

MIB = 1024 * 1024
MOST_PAGES = 10**9
ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# Perhaps half of a surrogate pair, which no UTF-8 can hold.
HALF_PAIR = re.compile(rb"\\u[dD][89a-fA-F]")


class Problem(Exception):
    """An answer that says no: its status and, in words, why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Request:
    """One request; ``path`` is relative to ``/api/``, header names are in lower case.

    Attributes:
        redacted: whether its texts need no redaction, because its sender did that.
        limit: bytes that its body may have, unpacked.
        redactor: what ``json`` takes private things out with.

    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    redacted: bool = False
    limit: int = 64 * MIB
    redactor: Redactor | None = field(default=None, repr=False)
    _json: Any = field(default=None, repr=False)

    def json(self) -> Any:
        """The body as an object, redacted; an empty body is an empty one.

        Raises:
            Problem: 400 when it is not a JSON object, 413 when it unpacks to more than ``limit``.

        """
        if self._json is None:
            self._json = _object(self.plain())
            if said := wrong(self._json):
                raise Problem(400, said)
            if self.redactor and not self.redacted:
                self._json = cleaned(self.redactor, self.path, self._json)
        return self._json

    def plain(self) -> bytes:
        """The body's bytes, unpacked when they came as gzip.

        Raises:
            Problem: 400 when it is no gzip, 413 when it unpacks to more than ``limit``.

        """
        encoding = self.headers.get("content-encoding", "identity").strip().lower()
        if encoding == "identity":
            return check_size(self.body, self.limit)
        if encoding != "gzip":
            raise Problem(415, f"the body's encoding is not gzip: {encoding}")
        unpacker = zlib.decompressobj(wbits=31)
        try:
            plain = unpacker.decompress(self.body, self.limit + 1)
        except zlib.error as error:
            raise Problem(400, f"the body is no gzip: {error}") from None
        check_size(plain, self.limit)
        if not unpacker.eof or unpacker.unused_data:
            raise Problem(400, "the body's gzip is cut off or has more behind it")
        return plain


def check_size(body: bytes, limit: int) -> bytes:
    """Return the body, or raise 413 when it has more than ``limit`` bytes."""
    if len(body) > limit:
        raise Problem(413, f"the body has more than {limit} bytes; send it in smaller parts")
    return body


def _object(plain: bytes) -> dict[str, Any]:
    try:
        value = json.loads(plain or b"{}", parse_float=_finite, parse_constant=lambda _: None)
        if HALF_PAIR.search(plain):
            value = json.loads(dumps(value).encode("utf-8", "replace"))
    except (ValueError, RecursionError) as error:
        raise Problem(400, f"the body is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise Problem(400, "the body is no JSON object")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large a number")
    return number


@dataclass
class Response:
    """One answer; a body in parts is made while it is sent."""

    status: int
    body: bytes | Iterator[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)


def ok() -> Response:
    """Done, and nothing to say."""
    return Response(204)


def created(location: str = "") -> Response:
    """Made; its path below ``/api/`` is the location."""
    return Response(201, headers={"location": f"/api/{location}"} if location else {})


def dumps(value: object) -> str:
    """JSON as it is stored and sent."""
    return ENCODER.encode(value)


def json_response(value: object, status: int = 200) -> Response:
    """An object as JSON."""
    return Response(status, dumps(value).encode(), {"content-type": "application/json"})


def ndjson(rows: Iterable[object]) -> Response:
    """Objects as lines of JSON, made while they are sent."""
    lines = (dumps(row).encode() + b"\n" for row in rows)
    return Response(200, lines, {"content-type": "application/octet-stream"})


def problem(status: int, message: str) -> Response:
    """A refusal in the words that Opik's SDK reads."""
    return json_response({"code": status, "message": message, "errors": [message]}, status)


def page(rows: list[Any], total: int, number: int, **more: object) -> Response:
    """One page of a list, with how many there are in all."""
    return json_response(
        {"page": number, "size": len(rows), "total": total, "content": rows, **more}
    )


def page_of(request: Request, most: int = 5000, default: int = 10) -> tuple[int, int]:
    """The page (from 1) and its size that a list was asked for; 400 when they are no numbers."""
    try:
        number = int(request.query.get("page") or 1)
        size = int(request.query.get("size") or default)
    except ValueError:
        raise Problem(400, "page and size are whole numbers") from None
    if not 1 <= number <= MOST_PAGES or not 1 <= size <= most:
        raise Problem(400, f"page is from 1 to {MOST_PAGES} and size from 1 to {most}")
    return number, size


Handler = Callable[..., Response]
_exact: dict[tuple[str, str], Handler] = {}
_patterns: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, path: str) -> Callable[[Handler], Handler]:
    """Register ``(store, request, **parts)`` for a path; ``{part}`` is one segment of it."""

    def register(handler: Handler) -> Handler:
        if "{" in path:
            pattern = re.compile(re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(path)))
            _patterns.append((method, pattern, handler))
        else:
            _exact[method, path] = handler
        return handler

    return register


def answer(store: Store, request: Request) -> Response:
    """Let the function of the request's path answer.

    Raises:
        Problem: what the function refuses; 501, Opik has the path; 404, nobody has.

    """
    path = request.path.strip("/")
    if handler := _exact.get((request.method, path)):
        return handler(store, request)
    if what := missing(path):
        raise Problem(501, f"{what} are not kept by this store: {request.method} {path}")
    for method, pattern, handler in _patterns:
        if method == request.method and (match := pattern.fullmatch(path)):
            parts = {name: unquote(text) for name, text in match.groupdict().items()}
            return handler(store, request, **parts)
    raise Problem(404, f"no such path: {request.method} {path}")
