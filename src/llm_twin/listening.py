"""The address at which a server of ours is asked."""

from __future__ import annotations

import errno
import socket

from llm_twin.errors import BusyError, ConfigError

BACKLOG = 2048


class Listener(socket.socket):
    """A socket that listens, with a queue as long as it is."""

    def listen(self, backlog: int = BACKLOG) -> None:
        """Leave the queue alone: asyncio's backlog is also how many it accepts in one go."""


def listen(host: str, port: int, hint: str) -> Listener:
    """Listen at an address.

    Args:
        host: a name, or an IPv4 or IPv6 address.
        port: 0 for a free one.
        hint: how to choose another address.

    Raises:
        BusyError: the port is taken.
        ConfigError: there is no such address or port here, or it is not ours to use.

    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    place = f"{host}:{port}"
    try:
        made = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
            raise BusyError("the port is taken", place, hint) from None
        reason = getattr(error, "strerror", None) or "ports end at 65535"
        raise ConfigError(f"cannot listen there ({reason})", place, hint) from None
    # asyncio does so only for sockets that name their protocol; else an answer waits 40 ms.
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Listener(fileno=made.detach())
