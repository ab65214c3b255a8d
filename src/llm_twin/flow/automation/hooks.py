"""The webhook receiver: signed POSTs become events, committed before they are acknowledged.

A sender that talks too slowly, too much or too often is cut off; it holds up nobody else for long.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import socket
import sqlite3
import sys
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, SpaceError
from llm_twin.flow.automation.actions import secret, signature
from llm_twin.flow.automation.ledger import emit
from llm_twin.flow.automation.triggers import Webhook
from llm_twin.flow.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llm_twin.flow.automation.declare import Automations

MOST_BYTES = 1 << 20
MOST_AT_ONCE = 16
MOST_SECONDS = 10.0


def hook_secrets(automations: Automations) -> dict[str, bytes]:
    """The secret of each webhook; one whose secret is not set is refused, with a line on stderr."""
    found = {}
    for item in automations:
        when = getattr(item.when, "of", item.when)
        if isinstance(when, Webhook):
            try:
                found[when.name] = secret(when.secret_env)
            except ConfigError as error:
                print(f"error: webhook {when.name} is refused: {error}", file=sys.stderr)
    return found


def open_receiver(
    secrets: dict[str, bytes], home: Path, host: str, port: int, received: Callable[[str], None]
) -> Receiver:
    """Listen; call ``serve_forever`` in a thread, ``shutdown`` and ``server_close`` at the end.

    Args:
        secrets: by name of the hook.
        home: the state folder.
        host: the address to listen on.
        port: 0 for any.
        received: called with a line after each event was committed.

    Raises:
        ConfigError: the address cannot be listened on.

    """
    try:
        return Receiver(secrets, home, (host, port), received)
    except (OSError, OverflowError) as error:
        hint = "Choose another: invoke automate --port 8378"
        raise ConfigError(f"cannot listen for webhooks ({error})", f"{host}:{port}", hint) from None


class Receiver(ThreadingHTTPServer):
    """Answers at most sixteen senders at once, each for at most ten seconds."""

    daemon_threads = True

    def __init__(
        self,
        secrets: dict[str, bytes],
        home: Path,
        address: tuple[str, int],
        received: Callable[[str], None],
    ) -> None:
        self.secrets = secrets
        self.home = home
        self.received = received
        self.slots = threading.BoundedSemaphore(MOST_AT_ONCE)
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, Hook)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        limit = threading.Timer(MOST_SECONDS, _hang_up, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self.slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that hung up is no reason for a traceback."""
        print(f"webhook from {client_address[0]}: {sys.exc_info()[1]!r}", file=sys.stderr)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class Hook(BaseHTTPRequestHandler):
    """One request."""

    server: Receiver
    server_version = "llm-twin"
    sys_version = ""
    timeout = MOST_SECONDS

    def do_POST(self) -> None:
        status, text = self._receive()
        body = json.dumps({"message": text}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """What was received is said elsewhere; what was refused is the sender's to log."""

    def _receive(self) -> tuple[int, str]:
        name = self.path.removeprefix("/hooks/")
        key = self.server.secrets.get(name)
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            return 411, "send a Content-Length"
        body = self.rfile.read(min(int(length), 4 * MOST_BYTES))
        if key is None or not self.path.startswith("/hooks/"):
            return 404, "no such hook"
        if len(body) > MOST_BYTES:
            return 413, "the body is larger than 1 MiB"
        given = self.headers.get("X-Hub-Signature-256", "").encode("utf-8", "replace")
        right = hmac.compare_digest(signature(key, body).encode(), given)
        if not right or len(body) != int(length):
            return 401, "the signature in X-Hub-Signature-256 is not that of this body"
        if self.headers.get("X-GitHub-Event") == "ping":
            return 200, "pong"
        try:
            payload = json.loads(body)
        except (ValueError, RecursionError):
            payload = None
        if not isinstance(payload, dict):
            return 400, "the body is not a JSON object"
        return self._record(name, payload, body)

    def _record(self, name: str, payload: dict[str, Any], body: bytes) -> tuple[int, str]:
        now = time.time()
        sent = self.headers.get("X-GitHub-Delivery") or self.headers.get("Idempotency-Key")
        delivery = sent or f"{sha256(body).hexdigest()} {now}"
        try:
            with contextlib.closing(Store(self.server.home)) as store:
                key = f"webhook:{name}:{delivery}"
                new = emit(store, name, payload, kind="webhook", key=key, at=now)
        except (SpaceError, sqlite3.OperationalError) as error:
            print(f"webhook {name} was not recorded: {error}", file=sys.stderr)
            return 503, "it could not be recorded; send it again"
        self.server.received(f"webhook {name} {'received' if new else 'came again'}: {delivery!r}")
        return 202, "accepted" if new else "accepted before"
