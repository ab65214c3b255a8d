"""The two ways in: httpx in this process, where there is no socket, and HTTP through ASGI."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from llm_twin.tracing.store.routing import Problem, Request, Response, problem

if TYPE_CHECKING:
    import httpx

    from llm_twin.tracing.store.store import Store

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LOOPBACK = {"localhost", "127.0.0.1", "::1"}
WORKERS = 8
PREFIX = "api/"


def _below(path: str) -> str | None:
    path = path.lstrip("/")
    return path.removeprefix(PREFIX) if path.startswith(PREFIX) else None


def transport(store: Store) -> httpx.BaseTransport:
    """A transport that lets the store answer: the ``transport`` of Opik's httpx client hook."""
    import httpx

    class Parts(httpx.SyncByteStream):
        def __init__(self, parts: Iterator[bytes]) -> None:
            self.parts = parts

        def __iter__(self) -> Iterator[bytes]:
            return self.parts

    class Transport(httpx.BaseTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            path = _below(request.url.path)
            query = dict(parse_qsl(request.url.query.decode(), keep_blank_values=True))
            asked = Request(request.method, path or "", query, request.headers, request.read())
            answer = store.handle(asked) if path else _no_path(request.url.path)
            body = answer.body
            return httpx.Response(
                answer.status,
                headers=answer.headers,
                stream=None if isinstance(body, bytes) else Parts(body),
                content=body if isinstance(body, bytes) else None,
            )

    return Transport()


def _no_path(path: str) -> Response:
    return problem(404, f"no such path: {path}; the API is below /{PREFIX}")


def asgi(store: Store, key: str = "") -> Any:
    """The store as an ASGI application for HTTP; its paths begin with ``/api/``.

    Args:
        store: what answers.
        key: what a request has to carry as ``Authorization``. Empty: nothing, but it has to call
            this server by a name of loopback, so that no web page reaches it by one of its own.

    """
    import anyio
    from starlette.concurrency import iterate_in_threadpool

    workers: list[anyio.CapacityLimiter] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if not workers:
            workers.append(anyio.CapacityLimiter(WORKERS))
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        answer = _refusal(headers, key)
        if answer is None:
            try:
                request = await _request(store, scope, headers, receive)
                answer = await anyio.to_thread.run_sync(store.handle, request, limiter=workers[0])
            except Problem as refused:
                answer = problem(refused.status, refused.message)
        await _begin(send, answer)
        if isinstance(answer.body, bytes):
            await send({"type": "http.response.body", "body": answer.body})
            return
        async for part in iterate_in_threadpool(answer.body):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    return application


async def _begin(send: Send, answer: Response) -> None:
    headers = dict(answer.headers)
    if isinstance(answer.body, bytes) and answer.status not in (204, 304):
        headers["content-length"] = str(len(answer.body))
    encoded = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": encoded})


def _refusal(headers: dict[str, str], key: str) -> Response | None:
    given = headers.get("authorization", "").removeprefix("Bearer ")
    if key and not hmac.compare_digest(given.encode(), key.encode()):
        return problem(401, "the access key is missing or wrong; set OPIK_API_KEY to the store's")
    host = _name(headers.get("host", ""))
    if not key and host not in LOOPBACK:
        return problem(403, f"this store is not called {host[:100]}")
    origin = headers.get("origin")
    if origin and urlsplit(origin).netloc != headers.get("host"):
        return problem(403, f"pages of {origin[:100]} may not use this store")
    return None


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


async def _request(
    store: Store, scope: Scope, headers: dict[str, str], receive: Receive
) -> Request:
    path = _below(scope["path"])
    if path is None:
        raise Problem(404, f"no such path: {scope['path']}; the API is below /{PREFIX}")
    limit = store.limit_of(path)
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Problem(400, "the request was cut off")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > limit:
            raise Problem(413, f"the body has more than {limit} bytes; send it in smaller parts")
    query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    return Request(scope["method"], path, query, headers, bytes(body))
