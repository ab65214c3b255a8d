"""What a target has to offer: steps that can be done, undone, and done again after a crash."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

RUNNING = "Running"
ROLLING_BACK = "RollingBack"
COMPLETED = "Completed"
ROLLED_BACK = "RolledBack"
UNFINISHED = "Failed(Unfinished)"


def nothing() -> None:
    """Nothing has to be undone."""


@dataclass(frozen=True)
class Step:
    """A part of a deployment.

    Attributes:
        name: unique among the steps of a deployment.
        do: idempotent: looks before it acts. What it returns becomes part of the facts.
        undo: idempotent, and right too when ``do`` never began or was cut in the middle.
        commits: once it has begun, a deployment that died goes forward and not back; once it is
            done, a failure later on does not take it back.

    """

    name: str
    do: Callable[[], dict[str, str] | None]
    undo: Callable[[], None] = nothing
    commits: bool = False


@dataclass
class Deployment:
    """One row of the journal; times in seconds since the epoch.

    Attributes:
        id: sorts by time.
        target: its name.
        image: pinned by digest; empty for a process of this machine.
        digest: of the image.
        kind: ``deploy``, ``rollback`` or ``undeploy``.
        state: ``Running``, ``RollingBack``, ``Completed``, ``RolledBack``, or
            ``Failed(Unfinished)``: it is past the point of return and waits for a recovery.
        previous: id of the deployment that was live when it began; empty if none was.
        options: what was asked for: all that a recovery needs.
        facts: what its steps found and made.
        began: when.
        ended: when its end state was reached; None before.
        reason: why it did not complete.

    """

    id: str
    target: str
    image: str
    digest: str
    kind: str
    state: str = RUNNING
    previous: str = ""
    options: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    began: float = 0.0
    ended: float | None = None
    reason: str = ""

    @property
    def label(self) -> str:
        """Its id and what is in it, for a person."""
        version = self.facts.get("version") or self.digest.removeprefix("sha256:")[:12]
        return f"{self.id} ({version})" if version else self.id


class Target(Protocol):
    """Where a twin can be deployed to."""

    name: str

    def steps(self, deployment: Deployment, previous: Deployment | None) -> list[Step]:
        """Everything between now and the deployment being live, the previous one retired."""
        ...

    def removal(self, live: Deployment | None, history: list[Deployment]) -> list[Step]:
        """Take away everything that any deployment made; always goes forward.

        Args:
            live: the deployment that serves now.
            history: all deployments to this target, newest first.

        """
        ...

    def describe(self, live: Deployment) -> str:
        """Where the live deployment answers, in a line."""
        ...
