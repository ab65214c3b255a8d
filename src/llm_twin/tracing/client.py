"""Starts and stops tracing in a process: the Opik SDK, unmodified, over the store on this machine.

Until `start` is called nothing of the SDK is imported. Afterwards ``@opik.track`` and the rest of
its interface work as documented; no request leaves the process.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any

from llm_twin.errors import NotReadyError, SpaceError
from llm_twin.tracing import track
from llm_twin.tracing.journal import Journal
from llm_twin.tracing.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

EXIT_SECONDS = 1.0
QUIET = {
    "OPIK_SENTRY_ENABLE": "false",
    "OPIK_ANALYTICS_ENABLE": "false",
    "OPIK_CONSOLE_LOGGING_LEVEL": "WARNING",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
"""Set before the SDK is imported: it reports to its makers when it is."""
SESSION = {
    "url_override": "http://localhost/api/",
    "workspace": "default",
    "api_key": None,
    "log_start_trace_span": False,
    "enable_json_request_compression": False,
    "default_flush_timeout": 2,
}
PROVENANCE = {"commit": "TWIN_COMMIT", "image_digest": "TWIN_IMAGE_DIGEST", "run_id": "TWIN_RUN_ID"}
"""What every trace says about the process, and the variable that says it."""

_current: Tracing | None = None
_starting = threading.Lock()


class Tracing:
    """Tracing that was started.

    Attributes:
        settings: those that it was started with.
        store: where traces are kept.
        journal: where they are until then.
        redactor: what takes private things out of them.

    """

    def __init__(self, settings: Settings, store: Store, metadata: Mapping[str, str]) -> None:
        from llm_twin.tracing.intercept import Interceptor

        self.settings = settings
        self.store = store
        self.redactor = Redactor.of(settings)
        self.journal = Journal(settings.traces / "journal", deliver_to(store))
        _Inside.leave()
        _Inside.leave = Interceptor(self.journal, self.redactor, metadata).install()
        self.journal.begin()

    def score(self, trace_id: str, name: str, value: float, reason: str = "") -> None:
        """Score a trace, which may not be in the store yet; a kill after this loses nothing.

        Args:
            trace_id: of `track.trace_id`.
            name: of the score, like ``helpful``.
            value: from 0 to 1.
            reason: in words; redacted.

        Raises:
            SpaceError: it cannot be written down.

        """
        row = {"id": trace_id, "name": name, "value": value, "source": "sdk", "reason": reason}
        row["project_name"] = self.settings.trace_project
        clean = self.redactor.redact({key: it for key, it in row.items() if it != ""})
        try:
            self.journal.append("trace-scores", json.dumps(clean).encode())
        except OSError as error:
            raise SpaceError(
                f"a score cannot be written down ({error.strerror})",
                self.journal.folder,
                "Free space or make it writable",
            ) from None

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until everything traced so far is in the store; False when time runs out."""
        module: Any = importlib.import_module("opik.api_objects.opik_client")
        client = module.get_current_client_raw()
        done = client is None or client.flush(timeout)
        return self.journal.flush(timeout) and bool(done)

    def stop(self) -> bool:
        """End tracing within about two seconds; False when something waits for the next start.

        What still runs in other threads is written down when it ends and waits for that, too.
        """
        global _current
        track.disable()
        _end_sdk(EXIT_SECONDS)
        if _current is self:
            _current = None
        _Inside.transport = None
        return self.journal.close(EXIT_SECONDS)


def start(
    settings: Settings, store: Store | None = None, metadata: Mapping[str, str] | None = None
) -> Tracing:
    """Trace this process and those that it forks; calling it again returns what is there.

    Args:
        settings: the state folder, the project, and what is redacted.
        store: an opened one; None opens that of the state folder.
        metadata: what every trace carries, besides the commit, the image and the run.

    Raises:
        NotReadyError: the Opik SDK is not installed.
        ConfigError: a pattern to redact does not compile.
        SpaceError: the state folder cannot be written.

    """
    global _current
    with _starting:
        if _current is None or _current.settings != settings:
            if _current is not None:
                _current.stop()
            _prepare_sdk(settings.trace_project)
            store = store or _open_store(settings)
            _Inside.transport = _answered_by(store)
            _current = Tracing(settings, store, provenance() | dict(metadata or {}))
            track.enable()
        return _current


def current() -> Tracing | None:
    """Return what was started, if anything."""
    return _current


def provenance() -> dict[str, str]:
    """Return what is known of this process: commit, image digest and run id."""
    found = {name: os.environ.get(variable) for name, variable in PROVENANCE.items()}
    return {name: value for name, value in found.items() if value}


def deliver_to(store: Store) -> Callable[[str, str, bytes], int]:
    """Return the journal's way to a store in this process."""
    from llm_twin.tracing.store.routing import Request

    def deliver(method: str, path: str, body: bytes) -> int:
        return store.handle(Request(method, path, body=body, redacted=True)).status

    return deliver


def recover(settings: Settings, store: Store) -> int:
    """Put into the store what killed processes left in their journals; return how many did.

    Raises:
        Unavailable: the store cannot take it now; nothing is lost.

    """
    return Journal(settings.traces / "journal", deliver_to(store)).recover()


def _open_store(settings: Settings) -> Store:
    from llm_twin.tracing.store.store import Store

    return Store(settings.traces, settings)


def _prepare_sdk(project: str) -> None:
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        config = importlib.import_module("opik.config")
        hooks = importlib.import_module("opik.hooks")
    except ImportError as error:
        raise NotReadyError(
            "tracing needs the Opik SDK, which is not installed", error.name, "Type: ./bootstrap"
        ) from None
    for key, setting in {**SESSION, "project_name": project}.items():
        config.update_session_config(key, setting)
    importlib.import_module("opik").reset_tracing_to_config_default()
    if not _Inside.hooked:
        hooks.add_httpx_client_hook(hooks.HttpxClientHook(None, {"transport": _transport()}))
        atexit.register(_at_exit)
        os.register_at_fork(after_in_child=_after_fork)
        _Inside.hooked = True


class _Inside:
    """What answers the SDK's requests now, and what undoes the interception of its messages.

    The SDK takes one hook for good, and messages are intercepted until another tracing starts:
    otherwise a late one would be lost in the SDK's own queue.
    """

    hooked = False
    transport: httpx.BaseTransport | None = None
    leave: Callable[[], None] = staticmethod(lambda: None)


def _answered_by(store: Store) -> httpx.BaseTransport:
    from llm_twin.tracing.store.mounts import transport

    return transport(store)


def _transport() -> httpx.BaseTransport:
    import httpx

    class Transport(httpx.BaseTransport):
        """Lets the store of the tracing that runs now answer."""

        def handle_request(self, request: httpx.Request) -> httpx.Response:
            if _Inside.transport is None:
                raise httpx.ConnectError("tracing has ended", request=request)
            return _Inside.transport.handle_request(request)

    return Transport()


def _end_sdk(timeout: float) -> None:
    """Close the SDK's clients in a thread that may be left behind: nothing may hold up an exit."""
    importlib.import_module("opik").set_tracing_active(False)
    resources: Any = importlib.import_module("opik.api_objects.connection_resources")
    client: Any = importlib.import_module("opik.api_objects.opik_client")
    client.reset_global_client(end_client=False)
    closing = threading.Thread(target=resources.MANAGER.close_all, daemon=True)
    closing.start()
    closing.join(timeout)


def _at_exit() -> None:
    if _current is not None:
        _current.stop()


def _after_fork() -> None:
    """Drop the SDK's clients: their threads stayed with the parent, and waiting for them hangs."""
    resources: Any = importlib.import_module("opik.api_objects.connection_resources")
    client: Any = importlib.import_module("opik.api_objects.opik_client")
    client.reset_global_client(end_client=False)
    resources.MANAGER.__init__()
