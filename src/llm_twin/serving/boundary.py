"""What holds for every request: an id, a key, a bounded body, a line of log, never a bare crash.

The log never holds what was asked: neither bodies nor query strings, nor the words of an exception.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
import time
import traceback
import uuid
from datetime import UTC, datetime
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from llm_twin.serving.keys import REFUSAL
from llm_twin.serving.problems import Problem, response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from llm_twin.serving.keys import Keys
    from llm_twin.serving.metrics import Figures

MOST_BYTES = 64 * 1024
"""Of a request's body: enough for the longest question, however it is escaped."""

MORE_BYTES = {"/v1/chat/completions": 1024 * 1024}
"""Of bodies that hold a whole conversation."""

BODY_SECONDS = 30.0
"""In which a body has to arrive."""

MOST_DROPPED = 16 * 1024 * 1024
"""Of a larger body, read and dropped: a client that is still sending would not see the answer."""

HEADER = "X-Request-ID"
_GOOD_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


def log(entry: dict[str, Any]) -> None:
    """Print one JSON object on a line of its own."""
    stamped = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), **entry}
    # A reader of the log that went away must not take the service with it.
    with contextlib.suppress(OSError):
        sys.stdout.write(json.dumps(stamped, ensure_ascii=False) + "\n")
        sys.stdout.flush()


class Boundary:
    """ASGI middleware; endpoints add to their line of log through ``request.state.log``."""

    def __init__(self, app: ASGIApp, keys: Keys, figures: Figures) -> None:
        self.app = app
        self._keys = keys
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        self._figures.begin()
        entry: dict[str, Any] = {
            "request_id": _request_id(Headers(scope=scope).get(HEADER, "")),
            "method": scope["method"],
            "path": scope["path"][:200],
        }
        scope["state"] = {**scope.get("state", {}), "log": entry}

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                entry["status"] = message["status"]
                MutableHeaders(scope=message)[HEADER] = entry["request_id"]
            await send(message)

        try:
            await self._answer(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            self._figures.end(scope["path"], entry.get("status"), seconds)
            entry["ms"] = round(seconds * 1000, 1)
            log(entry)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        entry = scope["state"]["log"]
        try:
            body = await self._admit(scope, receive)
            if isinstance(body, Problem):
                await response(body, scope["path"], entry)(scope, receive, send)
            else:
                await self.app(scope, _once(body, receive), send)
        except ClientDisconnect:
            entry["error"] = "ClientDisconnect"
        except Exception as error:
            at = places(error)
            if "status" not in entry:
                words = "something went wrong here; the log has it under this request id"
                failure = Problem(500, words, "InternalError")
                await response(failure, scope["path"], entry)(scope, receive, send)
            entry |= {"error": type(error).__name__, "at": at}

    async def _admit(self, scope: Scope, receive: Receive) -> bytes | Problem:
        """Return the body, or why there is no use in it."""
        path, most = scope["path"], MORE_BYTES.get(scope["path"], MOST_BYTES)
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(receive, most)
        except TimeoutError:
            sentence = f"the request's body did not arrive within {BODY_SECONDS:g} s"
            return Problem(408, sentence, "UserError")
        if not self._keys.accept(path, Headers(scope=scope).get("Authorization", "")):
            return Problem(401, REFUSAL, "UserError")
        if body is None:
            sentence = f"the request's body is larger than {most:,} bytes"
            return Problem(413, sentence, "UserError")
        return body


async def _read(receive: Receive, most: int) -> bytes | None:
    """Return the whole body, or None when it is too large."""
    pieces: list[bytes] = []
    size, more = 0, True
    while more and size <= MOST_DROPPED:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message.get("body", b"")
        size += len(piece)
        if size <= most:
            pieces.append(piece)
        more = message.get("more_body", False)
    return b"".join(pieces) if size <= most else None


def _once(body: bytes, receive: Receive) -> Receive:
    """Hand on a body that was read already, then whatever comes."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receiving() -> Message:
        return messages.pop() if messages else await receive()

    return receiving


def _request_id(given: str) -> str:
    return given if _GOOD_ID.fullmatch(given) else uuid.uuid4().hex


def places(error: Exception) -> list[str]:
    """Return where it happened, innermost last, without a word of what it said."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return [f"{PurePath(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
