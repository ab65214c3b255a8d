"""When to try again, and how long to wait before: policies that compose with ``+``.

::

    Retry(3)                                    three attempts in all, at once
    Retry(3) + backoff + jitter                 1 s, 2 s, ... up to 60 s, each up to 1 s more
    Retry(5, on=(ConnectionError, TimedOut)) + Backoff(initial=5, limit=120)

Any of tenacity's ``wait_*`` objects can be added as well; tenacity itself is not imported here,
because every task file imports this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from llm_twin.errors import FlowError, UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    Wait = Callable[[Any], float]


class TimedOut(Exception):
    """An attempt took longer than its stage's timeout; name it in ``on=`` to retry only those."""


class Crashed(Exception):
    """An attempt's process was killed: out of memory, a segmentation fault, a signal."""


@dataclass(frozen=True)
class Backoff:
    """Wait ``initial`` seconds, then ``factor`` times as long each time, at most ``limit``."""

    initial: float = 1.0
    factor: float = 2.0
    limit: float = 60.0

    def __call__(self, state: Any) -> float:
        return min(self.limit, self.initial * self.factor ** (int(state.attempt_number) - 1))


@dataclass(frozen=True)
class Jitter:
    """Wait a random time of up to ``most`` seconds, so that many do not come back at once."""

    most: float = 1.0

    def __call__(self, state: Any) -> float:
        import random

        return random.uniform(0, self.most)


@dataclass(frozen=True)
class Retry:
    """How often to try, and after which errors.

    Attributes:
        attempts: how many in all, the first included.
        on: after these errors only. Bad input (UserError) is retried only when it is named here:
            it would be bad again.
        waits: callables from a state with ``attempt_number`` (1 for the first) to seconds; summed.

    """

    attempts: int = 3
    on: tuple[type[BaseException], ...] = (Exception,)
    waits: tuple[Wait, ...] = ()

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise FlowError("a stage needs at least one attempt", f"Retry({self.attempts})")

    def __add__(self, wait: Wait) -> Retry:
        return replace(self, waits=(*self.waits, wait))

    def wants(self, error: BaseException) -> bool:
        """Whether another attempt makes sense after this error."""
        if isinstance(error, UserError):
            return any(kind is not Exception and isinstance(error, kind) for kind in self.on)
        if isinstance(error, SystemExit):
            return Exception in self.on
        return isinstance(error, self.on)

    def delay(self, attempt: int) -> float:
        """Seconds to wait after attempt number ``attempt``."""
        state = SimpleNamespace(attempt_number=attempt)
        return sum(wait(state) for wait in self.waits)


backoff = Backoff()
jitter = Jitter()
