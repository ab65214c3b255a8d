"""From lines of the journal to requests of Opik's API, and what happens to the ones refused."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

LOGGER = logging.getLogger(__name__)
Deliver = Callable[[str, str, bytes], int]
"""``(method, path, body) -> status``."""

MOST_ITEMS = 1000
LATER = (429, 503)
"""What a store answers that could take the same request another time."""
REFUSED = "refused.ndjson"


class Unavailable(Exception):
    """The store cannot take anything now."""


class Route(NamedTuple):
    """Where a kind of record goes, and under which name many go at once; "": one at a time."""

    method: str
    path: str
    name: str = ""


ROUTES = {
    "traces": Route("POST", "v1/private/traces/batch", "traces"),
    "spans": Route("POST", "v1/private/spans/batch", "spans"),
    "trace": Route("PATCH", "v1/private/traces/{}"),
    "span": Route("PATCH", "v1/private/spans/{}"),
    "trace-scores": Route("PUT", "v1/private/traces/feedback-scores", "scores"),
    "span-scores": Route("PUT", "v1/private/spans/feedback-scores", "scores"),
    "thread-scores": Route("PUT", "v1/private/traces/threads/feedback-scores", "scores"),
    "experiment-items": Route("POST", "v1/private/experiments/items", "experiment_items"),
}
"""In the order in which they are sent: what exists before what is said about it."""


def carry(lines: bytes, deliver: Deliver, folder: Path) -> None:
    """Send whole lines to the store.

    What the store refuses for good is kept in ``refused.ndjson`` of the folder, with its status, so
    that one bad record holds nobody up and is not lost either.

    Raises:
        Unavailable: it cannot take them now; sending them again does no harm.

    """
    records: dict[str, list[bytes]] = {kind: [] for kind in ROUTES}
    for line in lines.splitlines():
        label, _, item = line.partition(b"\t")
        kind, _, identity = label.partition(b" ")
        if (known := records.get(kind.decode("ascii", "replace"))) is None:
            _keep(folder / REFUSED, line + b"\n")
        else:
            known.append(identity + b"\t" + item if identity else item)
    for name, route in ROUTES.items():
        step = MOST_ITEMS if route.name else 1
        for start in range(0, len(records[name]), step):
            _send(route, records[name][start : start + step], deliver, folder)


def _send(route: Route, items: list[bytes], deliver: Deliver, folder: Path) -> None:
    path, body = route.path, items[0]
    if route.name:
        body = b'{"%s":[%s]}' % (route.name.encode(), b",".join(items))
    else:
        identity, _, body = body.partition(b"\t")
        path = path.format(identity.decode())
    status = deliver(route.method, path, body)
    if status in LATER:
        raise Unavailable(f"{route.method} {path} was answered with {status}")
    if status < 300:
        return
    if len(items) > 1:
        for item in items:
            _send(route, [item], deliver, folder)
        return
    refused = folder / REFUSED
    _keep(refused, b'{"status":%d,"path":"%s","body":%s}\n' % (status, path.encode(), body))
    LOGGER.error("the store answered %s %s with %d; see %s", route.method, path, status, refused)


def _keep(path: Path, line: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
