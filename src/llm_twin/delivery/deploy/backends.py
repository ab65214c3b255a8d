"""What answers behind the front: a container of a pinned image, or a process of a pinned bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llm_twin.settings import Settings

STOP_SECONDS = 10
"""What requests under way get when a backend is ended."""

# What answering reads, beside what is in the image or the bundle.
ANSWERING = (
    "embedder", "embedder_url", "embedder_key", "index_url", "index_key",
    "llm", "llm_url", "llm_model", "llm_key", "llm_timeout",
)  # fmt: skip


class Backend(Protocol):
    """One version, running or not; everything may be called again."""

    def fetch(self) -> dict[str, str]:
        """Have at hand what it runs from; facts about it."""
        ...

    def start(self) -> None:
        """Start it unless it runs."""
        ...

    def url(self) -> str:
        """Its address while it runs; else empty."""
        ...

    def ended(self) -> str:
        """How it ended, with its last words; empty while it runs."""
        ...

    def stop(self) -> None:
        """End it; it can be started again."""
        ...

    def remove(self) -> None:
        """End it and take away what it ran from."""
        ...


def environment(settings: Settings) -> dict[str, str]:
    """What the service is told of the settings: those that differ from the default."""
    default = type(settings)()
    found = {name: getattr(settings, name) for name in ANSWERING}
    return {
        f"TWIN_{name.upper()}": str(value)
        for name, value in found.items()
        if value != getattr(default, name)
    }
