"""BuildKit's session: the engine calls us back for the context, secrets and credentials.

``POST /session`` turns a connection to the engine round: the engine becomes the client of a small
gRPC server in this process, which listens on a private socket. Bytes are carried between the two
by two threads. The session ends with the ``with`` block, and with it a build that still runs.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.delivery import wire
from llm_twin.delivery.engine import unreachable
from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from llm_twin.delivery.engine import Engine

HEALTH = "/grpc.health.v1.Health/Check"
SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"  # noqa: S105
CREDENTIALS = "/moby.filesync.v1.Auth/Credentials"
UPLOAD = "/moby.upload.v1.Upload/Pull"
METHODS = (HEALTH, SECRET, CREDENTIALS, UPLOAD)
SERVING = b"\x08\x01"
PIECE = 65536


class NoSession(Exception):
    """The engine has no sessions, so it has no BuildKit either."""


class Session:
    """Answers the engine for as long as one build runs.

    Args:
        engine: whom to answer.
        context: the tar that the engine will fetch, once.
        secrets: values by id.
        credentials: user and password by registry host.

    Attributes:
        id: what the build request calls this session.
        failure: what went wrong while the context was read, since the engine only hears that
            something did.

    """

    def __init__(
        self,
        engine: Engine,
        context: Iterable[bytes],
        secrets: Mapping[str, bytes],
        credentials: Callable[[str], tuple[str, str]],
    ) -> None:
        self.id = uuid.uuid4().hex
        self.failure: Exception | None = None
        self._engine = engine
        self._context = context
        self._secrets = secrets
        self._credentials = credentials
        self._stack = contextlib.ExitStack()

    @property
    def remote(self) -> str:
        """Where the engine finds the context."""
        return f"http://buildkit-session/{self.id}"

    def __enter__(self) -> Session:
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="twin-"))
            path = str(Path(folder) / "grpc")
            self._serve(stack, path)
            near = stack.enter_context(socket.socket(socket.AF_UNIX))
            near.connect(path)
            far = stack.enter_context(contextlib.closing(_turn_round(self._engine, self.id)))
            stack.callback(_hang_up, far, near)
            for carry in (far.to, far.back):
                threading.Thread(target=carry, args=(near,), daemon=True).start()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _serve(self, stack: contextlib.ExitStack, path: str) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import grpc  # type: ignore[import-untyped]

        session = self

        class Handlers(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, call: Any) -> Any:
                if call.method == UPLOAD:
                    return grpc.stream_stream_rpc_method_handler(session._upload)
                answer = session._answers.get(call.method)
                return grpc.unary_unary_rpc_method_handler(answer) if answer else None

        server = grpc.server(ThreadPoolExecutor(4), handlers=[Handlers()])
        stack.callback(lambda: server.stop(0).wait(5))
        server.add_insecure_port(f"unix:{path}")
        server.start()

    @property
    def _answers(self) -> dict[str, Callable[[bytes, Any], bytes]]:
        return {
            HEALTH: lambda *_: SERVING,
            SECRET: self._secret,
            CREDENTIALS: self._login,
        }

    def _secret(self, request: bytes, call: Any) -> bytes:
        import grpc

        name = wire.text(wire.read(request), 1)
        if name not in self._secrets:
            call.abort(grpc.StatusCode.NOT_FOUND, f"secret {name} was not given")
        return wire.field(1, self._secrets[name])

    def _login(self, request: bytes, call: Any) -> bytes:
        user, password = self._credentials(wire.text(wire.read(request), 1))
        return wire.field(1, user.encode()) + wire.field(2, password.encode())

    def _upload(self, _requests: object, call: Any) -> Iterator[bytes]:
        import grpc

        try:
            for piece in self._context:
                yield wire.field(1, piece)
        except Exception as error:
            self.failure = error
            call.abort(grpc.StatusCode.ABORTED, "the context could not be read")


class _Far:
    """The turned connection, however the SDK reaches the engine."""

    def __init__(self, response: Any) -> None:
        self._response = response
        # The first bytes of the engine may have come with the answer's head: they lie in the
        # buffer of this reader, so the socket below it must not be read directly.
        self._reader = response._fp.fp
        raw = self._reader.raw
        self._socket = getattr(raw, "_sock", raw)

    def to(self, near: socket.socket) -> None:
        """Carry what the engine says."""
        with contextlib.suppress(OSError, ValueError):
            while piece := self._reader.read1(PIECE):
                near.sendall(piece)
        _shut(near)

    def back(self, near: socket.socket) -> None:
        """Carry what we answer."""
        with contextlib.suppress(OSError):
            while piece := near.recv(PIECE):
                self._socket.sendall(piece)
        _shut(self._socket)

    def shut(self) -> None:
        _shut(self._socket)

    def close(self) -> None:
        self._response.close()


def _turn_round(engine: Engine, session: str) -> _Far:
    """Ask for a session through the SDK's own connection pool: socket, TCP, TLS or ssh alike."""
    import requests
    import urllib3

    url = f"{engine.url}/session"
    adapter = engine.api.get_adapter(url)
    request = engine.api.prepare_request(requests.Request("POST", url))
    pool = adapter.get_connection_with_tls_context(request, engine.api.verify, cert=engine.api.cert)
    headers = urllib3.HTTPHeaderDict(
        {
            "Connection": "Upgrade",
            "Upgrade": "h2c",
            "X-Docker-Expose-Session-Uuid": session,
            "X-Docker-Expose-Session-Name": "llm-twin",
        }
    )
    for method in METHODS:
        headers.add("X-Docker-Expose-Session-Grpc-Method", method)
    options = {"timeout": urllib3.Timeout(connect=30, read=None), "preload_content": False}
    try:
        response = pool.urlopen(
            "POST", request.path_url, body=b"", headers=headers, retries=False, **options
        )
    except urllib3.exceptions.HTTPError as error:
        raise unreachable(error, engine.address) from error
    if response.status == 101:
        return _Far(response)
    response.close()
    if response.status == 404:
        raise NoSession
    raise RemoteError("The engine refuses a build session", f"{url} (HTTP {response.status})")


def _hang_up(far: _Far, near: socket.socket) -> None:
    far.shut()
    _shut(near)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
