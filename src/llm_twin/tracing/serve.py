"""The trace store over HTTP, for other processes and for the Opik command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llm_twin.errors import BusyError, ConfigError
from llm_twin.tracing.store.mounts import LOOPBACK, asgi
from llm_twin.tracing.store.store import Store
from llm_twin.tracing.upkeep import Upkeep

if TYPE_CHECKING:
    import socket

    from llm_twin.settings import Settings


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
    listener = _listen(host, port)
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


def _listen(host: str, port: int) -> socket.socket:
    import socket

    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
        # asyncio does so only for sockets that name their protocol; else an answer waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except socket.gaierror as error:
        raise ConfigError(f"no such address ({error.strerror})", host, "Name another") from None
    except OSError as error:
        raise BusyError(
            f"the trace store cannot listen there ({error.strerror})",
            f"{host}:{port}",
            "Choose another port, 0 for a free one: invoke traces.serve --port 0",
        ) from None
