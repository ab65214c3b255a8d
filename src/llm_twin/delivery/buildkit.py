"""Build an image with BuildKit through the Docker SDK, whose own ``build`` cannot.

``POST /build?version=2`` with a session (``llm_twin.delivery.session``) gives cache mounts, build
secrets, private base images and a typed event for each step. An engine that has no sessions
(podman) gets the same context as a plain build; its own builder knows cache mounts.
"""

from __future__ import annotations

import base64
import contextlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.events import Event, Listener, Masks, Step, TextReader, TraceReader
from llm_twin.delivery.failure import explain
from llm_twin.delivery.session import NoSession, Session
from llm_twin.errors import ConfigError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    import requests

    from llm_twin.delivery.engine import Engine

PIECE = 1 << 16
CONNECT_SECONDS = 30
TRACE = "moby.buildkit.trace"


@dataclass(frozen=True)
class Built:
    """A finished image.

    Attributes:
        image_id: its id in the engine.
        steps: what was done, in order, with the seconds each took.

    """

    image_id: str
    steps: tuple[Step, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to build of a context.

    Attributes:
        tags: names for the image.
        dockerfile: the Dockerfile's path in the context.
        target: the stage to build; empty for the last.
        build_args: values of the Dockerfile's ``ARG``; they can be read from the image.
        labels: the image's labels.
        platform: like ``linux/arm64``; empty for the engine's own.
        pull: whether to look for newer base images.
        no_cache: whether to do every step again.
        cache_from: images whose inline cache may be used; the result carries one too.
        network: the network of ``RUN``; empty for the engine's default.

    """

    tags: Sequence[str] = ()
    dockerfile: str = "Dockerfile"
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    platform: str = ""
    pull: bool = False
    no_cache: bool = False
    cache_from: Sequence[str] = ()
    network: str = ""

    def query(self) -> dict[str, Any]:
        """The parameters of the engine's ``/build``."""
        args = dict(self.build_args)
        if self.cache_from:
            args["BUILDKIT_INLINE_CACHE"] = "1"
        given = {
            "t": list(self.tags),
            "dockerfile": self.dockerfile,
            "target": self.target,
            "buildargs": json.dumps(args) if args else "",
            "labels": json.dumps(dict(self.labels)) if self.labels else "",
            "platform": self.platform,
            "pull": "1" if self.pull else "",
            "nocache": "1" if self.no_cache else "",
            "cachefrom": json.dumps(list(self.cache_from)) if self.cache_from else "",
            "networkmode": self.network,
            "rm": "1",
        }
        return {name: value for name, value in given.items() if value}


def build(
    engine: Engine,
    context: Iterable[bytes],
    recipe: Recipe,
    *,
    secrets: Mapping[str, bytes | Path] | None = None,
    credentials: Mapping[str, tuple[str, str]] | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Built:
    """Build an image and leave it in the engine; Ctrl-C ends the build there too.

    Args:
        engine: where.
        context: its tar (``context_tar``), read once.
        recipe: what to build of it.
        secrets: by id, for ``RUN --mount=type=secret``: a value or the file that holds it. They
            reach no layer; in logs and events they are replaced by ``***``.
        credentials: user and password by registry host, before those of ``docker login``.
        on_event: told of each step and each line as it happens.

    Raises:
        BuildFailed: a step failed, the Dockerfile is wrong or the engine's disk is full.
        RemoteError: the engine went away.
        ConfigError: a secret or a file of the context cannot be read.

    """
    values = {name: _secret(name, value) for name, value in (secrets or {}).items()}

    def login(registry: str) -> tuple[str, str]:
        return (credentials or {}).get(registry) or engine.credentials(registry)

    listener = Listener(on_event, Masks(values.values()))
    with contextlib.suppress(NoSession), Session(engine, context, values, login) as session:
        query = {"version": "2", "session": session.id, "remote": session.remote}
        try:
            return _run(engine, recipe, listener, query=query)
        except TwinError as error:
            raise session.failure or error from None
    if values:
        raise ConfigError("This engine takes no build secrets", engine.address.host, "Use BuildKit")
    return _run(engine, recipe, listener, body=iter(context), logins=credentials)


def _run(
    engine: Engine,
    recipe: Recipe,
    listener: Listener,
    query: Mapping[str, str] | None = None,
    body: Iterator[bytes] | None = None,
    logins: Mapping[str, tuple[str, str]] | None = None,
) -> Built:
    import requests

    ending = _Ending(listener)
    try:
        with engine.api.post(
            f"{engine.url}/build",
            params={**recipe.query(), **(query or {})},
            data=body,
            headers=_headers(logins),
            stream=True,
            timeout=(CONNECT_SECONDS, None),
        ) as response:
            for event in _stream(response):
                ending.take(event)
    except requests.RequestException as error:
        raise RemoteError(
            f"The engine went away while it was building ({type(error).__name__})",
            engine.address.host,
            "Look whether it runs: docker info. Then start again",
        ) from error
    if ending.error or not ending.image_id:
        message = listener.masks(ending.error or "the engine named no image")
        raise explain(message, listener.failed, listener.tail(), engine, recipe.dockerfile)
    return Built(ending.image_id, tuple(listener.steps.values()))


class _Ending:
    """Reads the engine's stream, and how it ended."""

    def __init__(self, listener: Listener) -> None:
        self.image_id = ""
        self.error = ""
        self._trace = TraceReader(listener)
        self._text = TextReader(listener)

    def take(self, event: Mapping[str, Any]) -> None:
        if event.get("id") == TRACE:
            self._trace.feed(base64.b64decode(event["aux"]))
        elif "error" in event:
            self.error = str(event["error"])
            self._text.end(self.error)
        elif isinstance(aux := event.get("aux"), dict) and "ID" in aux:
            self.image_id = aux["ID"]
            self._text.end()
        else:
            self._text.feed(event.get("stream", ""))


def _headers(logins: Mapping[str, tuple[str, str]] | None) -> dict[str, str]:
    named = {
        registry: {"username": user, "password": password}
        for registry, (user, password) in (logins or {}).items()
    }
    config = base64.urlsafe_b64encode(json.dumps(named).encode()).decode()
    return {"Content-Type": "application/tar", "X-Registry-Config": config}


def _stream(response: requests.Response) -> Iterator[dict[str, Any]]:
    """The events of the answer; a refusal becomes one too."""
    if response.status_code >= 400:
        yield {"error": _refusal(response)}
        return
    for line in response.iter_lines(PIECE):
        if line.strip():
            yield json.loads(line)


def _refusal(response: requests.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError):
        return f"HTTP {response.status_code}"


def _secret(name: str, value: bytes | Path) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return value.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"The build secret {name} cannot be read ({error.strerror})", value
        ) from error
