"""States of runs and stage runs: a type that code branches on, a name that people read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StateType(StrEnum):
    """The few states that code has to tell apart."""

    SCHEDULED = "Scheduled"
    PENDING = "Pending"
    RUNNING = "Running"
    COMPLETED = "Completed"
    FAILED = "Failed"
    CANCELLED = "Cancelled"
    CRASHED = "Crashed"


@dataclass(frozen=True)
class State:
    """A type, a finer name (``Cached``, ``TimedOut``) and a sentence."""

    type: StateType
    name: str = ""
    message: str = ""

    def __str__(self) -> str:
        return f"{self.type}({self.name})" if self.name and self.name != self.type else self.type

    @property
    def good(self) -> bool:
        """Whether what comes after may go on."""
        return self.type is StateType.COMPLETED


PENDING = State(StateType.PENDING)
RUNNING = State(StateType.RUNNING)


def awaiting_retry(message: str) -> State:
    """An attempt did not do it; another one will follow."""
    return State(StateType.SCHEDULED, "AwaitingRetry", message)


def completed(message: str = "", name: str = "") -> State:
    """It did what it should."""
    return State(StateType.COMPLETED, name, message)


def failed(message: str, name: str = "") -> State:
    """It said no, or raised."""
    return State(StateType.FAILED, name, message)


def cancelled(message: str, name: str = "") -> State:
    """Somebody stopped it, or something it needs did not complete."""
    return State(StateType.CANCELLED, name, message)


def crashed(message: str) -> State:
    """Its process died without a word."""
    return State(StateType.CRASHED, "", message)
