"""What answers behind the front: a container of a pinned image, or a process of a pinned bundle."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from llm_twin.delivery.deploy.steps import Deployment
    from llm_twin.settings import Settings

STOP_SECONDS = 10
"""What requests under way get when a backend is ended."""

# What answering reads, beside what is in the image or the bundle.
ANSWERING = (
    "embedder", "embedder_url", "embedder_key", "index_url", "index_key",
    "llm", "llm_url", "llm_model", "llm_key", "llm_timeout",
    "api_keys", "serve_concurrency", "serve_timeout",
    "trace", "trace_project", "trace_patterns", "trace_rate", "trace_slow", "trace_low_score",
    "trace_grace", "trace_days", "trace_mb", "opik_url", "opik_key", "opik_workspace",
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


def environment(
    settings: Settings, deployment: Deployment, *, secrets: bool = True
) -> dict[str, str]:
    """What the service is told: settings that differ from the default, and what it is.

    Args:
        settings: those of this machine.
        deployment: says which commit and image its traces name.
        secrets: whether keys are among them.

    """
    default = type(settings)()
    hidden = {one.name for one in dataclasses.fields(settings) if not one.repr}
    found = {
        f"TWIN_{name.upper()}": str(value)
        for name in ANSWERING
        if (value := getattr(settings, name)) != getattr(default, name)
        and (secrets or name not in hidden)
    }
    known = {
        "TWIN_COMMIT": deployment.facts.get("commit", ""),
        "TWIN_IMAGE_DIGEST": deployment.digest,
    }
    return found | {name: fact for name, fact in known.items() if fact}
