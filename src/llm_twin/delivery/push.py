"""An image from the engine into a registry, reported done only when the registry has all of it.

The SDK raises nothing for a push that failed: the engine says so in the middle of a stream that
ends well. And what the engine reports as pushed is not always there, so the registry is asked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.refusals import EXPIRED, explain
from llm_twin.errors import NotReadyError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llm_twin.delivery.engine import Engine
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import Registry

DIGEST = re.compile(r"digest: (sha256:[0-9a-f]{64})")
MB = 1_000_000


def push(
    engine: Engine,
    image: str,
    ref: Reference,
    registry: Registry,
    on_event: Callable[[str], None] = lambda line: None,
) -> str:
    """Push an image and check that the registry holds it.

    Args:
        engine: has the image.
        image: its id or name there.
        ref: where to; host, name and tag.
        registry: the one at the reference's host. Its login is given to the engine, and fetched
            anew once when the registry says that its token has expired.
        on_event: told, a line at a time, what a person may want to know meanwhile.

    Returns: the digest in the registry.

    Raises:
        NotReadyError: the engine has no such image, or no registry answers.
        ConfigError: the registry refuses the login or the repository.
        RemoteError: it failed on the way, or the registry does not have all of it.

    """
    _name(engine, image, ref)
    for last in (False, True):
        credentials = registry.connection.credentials(anew=last)
        said = _Said(on_event)
        login = credentials.for_engine if credentials else {}
        for event in _events(engine, ref, login):
            said.take(event)
        if last or not EXPIRED.search(said.error):
            break
    if said.error:
        raise explain(said.error, ref.host, ref)
    if not said.digest:
        raise RemoteError(
            "the engine ended the push without a digest",
            ref,
            "Type the same again; look into the engine's log if it happens twice",
        )
    registry.verify(ref, said.digest)
    return said.digest


def _name(engine: Engine, image: str, ref: Reference) -> None:
    from docker.errors import ImageNotFound  # type: ignore[import-untyped]

    try:
        engine.api.tag(image, ref.repository, ref.tag)
    except ImageNotFound:
        raise NotReadyError(
            "the engine has no such image", image, "Build it: invoke build-push --force"
        ) from None


def _events(engine: Engine, ref: Reference, login: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """What the engine says while it pushes; a lost engine raises nothing but our errors."""
    import requests
    import urllib3
    from docker.errors import APIError, DockerException

    try:
        yield from engine.api.push(
            ref.repository, tag=ref.tag, stream=True, decode=True, auth_config=dict(login)
        )
    except APIError as error:
        raise explain(str(error.explanation or error), ref.host, ref) from None
    except (DockerException, requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _lost(error, engine, ref) from None


def _lost(error: Exception, engine: Engine, ref: Reference) -> TwinError:
    if "timed out" in str(error).lower():
        return RemoteError(
            f"the engine heard nothing from the registry for {engine.api.timeout} s",
            ref,
            "Look whether the registry is overloaded, then type the same again",
        )
    return RemoteError(
        f"the container engine was lost during the push ({type(error).__name__})",
        f"{engine.address.host} ({ref})",
        "Look whether it runs: docker info. Then type the same again",
    )


class _Said:
    """What came of a push, and the few lines of it that are worth reading."""

    def __init__(self, on_event: Callable[[str], None]) -> None:
        self.digest = ""
        self.error = ""
        self._tell = on_event
        self._told: dict[str, object] = {}

    def take(self, event: Mapping[str, Any]) -> None:
        layer, status = str(event.get("id", "")), str(event.get("status", ""))
        self.error = str(event.get("error", "")) or self.error
        # The containerd store puts no digest beside the text; other stores may have both.
        if found := DIGEST.search(status):
            self.digest = self.digest or found[1]
        self.digest = (event.get("aux") or {}).get("Digest") or self.digest
        if status == "Pushing":
            self._pushing(layer, event.get("progressDetail") or {})
        elif status.startswith("Retrying"):
            self._once(layer, "retry", f"{layer}: the registry failed. {status}")
        elif status == "Pushed":
            self._once(layer, "pushed", f"{layer}: pushed")

    def _pushing(self, layer: str, detail: Mapping[str, int]) -> None:
        """A line for each quarter of a layer; the engine's count may pass its own total."""
        current, total = detail.get("current", 0), detail.get("total", 0)
        if total > 4 * MB:
            quarter = min(3, 4 * current // total)
            self._once(layer, quarter, f"{layer}: {current // MB} of {total // MB} MB")

    def _once(self, layer: str, state: object, line: str) -> None:
        if self._told.get(layer) != state:
            self._told[layer] = state
            self._tell(line)
