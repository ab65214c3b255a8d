"""The process behind the stable port: hands each request to the backend of that moment.

Which one that is stands in a file of one line, which a deployment replaces in one step; requests
under way stay with the backend that they began with. ``GET /-/front`` tells who is served by whom.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.responses import Response
    from starlette.types import Receive, Scope, Send

STATUS = "/-/front"
CONNECT_SECONDS = 5.0
# Shorter than a backend keeps an idle connection: one that it is just closing is never used.
IDLE_SECONDS = 2.0
CLIENT_IDLE_SECONDS = 75
GRACE_SECONDS = 10
# Of one connection, and so not handed on (RFC 9110, section 7.6.1).
HOP = {
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
}  # fmt: skip


class Proxy:
    """The ASGI application.

    Args:
        folder: where ``backend`` is, the file that names the backend's address.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.in_flight: Counter[str] = Counter()
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(
                max_connections=None, max_keepalive_connections=None, keepalive_expiry=IDLE_SECONDS
            ),
            trust_env=False,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":  # pragma: no cover
            return
        request = Request(scope, receive)
        if request.url.path == STATUS:
            await JSONResponse(self.status())(scope, receive, send)
            return
        async with contextlib.AsyncExitStack() as stack:
            response = await self._answer(request, stack)
            # A client that has gone away wants no answer.
            with contextlib.suppress(ClientDisconnect):
                await response(scope, receive, send)

    def status(self) -> dict[str, Any]:
        """Whose front this is, and how many requests each backend has under way."""
        return {
            "folder": str(self.folder),
            "pid": os.getpid(),
            "backend": self.backend(),
            "in_flight": dict(+self.in_flight),
        }

    def backend(self) -> str:
        """The address of the backend of this moment; empty if there is none."""
        try:
            return (self.folder / "backend").read_text().strip()
        except FileNotFoundError:
            return ""

    async def _answer(self, request: Request, stack: contextlib.AsyncExitStack) -> Response:
        tried = ""
        while (backend := self.backend()) not in ("", tried):
            try:
                return await self._hand_on(request, backend, stack)
            except httpx.ConnectError:
                tried = backend  # nothing was sent, so another may have it
            except (httpx.HTTPError, ClientDisconnect) as error:
                return _bad_gateway(request, f"the twin gave no answer ({type(error).__name__})")
        return _bad_gateway(
            request, "the twin does not run" if tried else "no twin is deployed here"
        )

    async def _hand_on(
        self, request: Request, backend: str, stack: contextlib.AsyncExitStack
    ) -> Response:
        self.in_flight[backend] += 1
        stack.callback(self.in_flight.subtract, [backend])
        path = request.scope["raw_path"].decode("latin-1")
        query = request.scope["query_string"].decode("latin-1")
        headers = _end_to_end(request.headers.raw)
        has_body = {"content-length", "transfer-encoding"} & set(request.headers.keys())
        sent = httpx.Request(
            request.method,
            f"{backend}{path}?{query}" if query else f"{backend}{path}",
            headers=headers,
            content=request.stream() if has_body else None,
        )
        answer = await self._client.send(sent, stream=True)
        stack.push_async_callback(answer.aclose)
        response = StreamingResponse(_pieces(answer), answer.status_code)
        response.raw_headers = _end_to_end(answer.headers.raw)
        return response


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    async for piece in answer.aiter_raw():
        yield piece


def _end_to_end(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    lower = [(name.lower(), value) for name, value in headers]
    named = {
        item.strip().lower() for name, value in lower if name == b"connection"
        for item in value.split(b",")
    }  # fmt: skip
    return [(name, value) for name, value in lower if name not in HOP | named]


def _bad_gateway(request: Request, sentence: str) -> Response:
    request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
    content = {"error": sentence, "kind": "NotReadyError", "request_id": request_id}
    return JSONResponse(content, 502, {"X-Request-ID": request_id})


def serve(folder: Path, listening: socket.socket) -> None:
    """Serve until SIGTERM; requests under way get ten seconds at the end."""
    config = uvicorn.Config(
        Proxy(folder),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=CLIENT_IDLE_SECONDS,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    print(json.dumps({"event": "listening", "pid": os.getpid()}), flush=True)
    uvicorn.Server(config).run([listening])


if __name__ == "__main__":
    serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
