"""The trace store over HTTP, for other processes and for the Opik command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.errors import ConfigError
from llm_twin.listening import listen
from llm_twin.tracing.store.mounts import LOOPBACK, asgi
from llm_twin.tracing.store.store import Store
from llm_twin.tracing.upkeep import Upkeep

if TYPE_CHECKING:
    from llm_twin.settings import Settings

HINT = "Choose another, or 0 for a free one: invoke traces.serve --port 0"


def serve(settings: Settings, host: str = "127.0.0.1", port: int = 5173) -> None:
    """Answer until interrupted; the first line says what to set ``OPIK_URL_OVERRIDE`` to.

    Raises:
        ConfigError: beyond this machine without an access key, or no such address.
        BusyError: something else listens there.
        SpaceError: the state folder cannot be written.

    """
    import uvicorn

    if host not in LOOPBACK and not settings.trace_key:
        raise ConfigError(
            "beyond this machine the trace store needs an access key",
            host,
            "Set TWIN_TRACE_KEY, or listen at 127.0.0.1",
        )
    listener = listen(host, port, HINT)
    store = Store(settings.traces, settings)
    shown = f"[{host}]" if ":" in host else host
    print(f"OPIK_URL_OVERRIDE=http://{shown}:{listener.getsockname()[1]}/api/", flush=True)
    config = uvicorn.Config(
        asgi(store, settings.trace_key),
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        timeout_graceful_shutdown=5,
    )
    upkeep = Upkeep(store, settings).start()
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        upkeep.stop()
        store.close()
