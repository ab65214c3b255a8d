"""How much is answered at once and for how long; the bytes of a body are bounded in `boundary`.

An answer is made in a thread, and a thread cannot be stopped: one whose time is over goes on, with
nobody waiting for it, and keeps its place until it is done.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from llm_twin.errors import ConfigError
from llm_twin.serving.problems import Overloaded, TooSlow

if TYPE_CHECKING:
    from collections.abc import Callable

    from llm_twin.settings import Settings

T = TypeVar("T")

QUEUE = 2
"""How many may wait for each one that is answered."""

QUEUE_SECONDS = 5.0
"""How long they wait."""


class Places:
    """As many places as answers are made at once by this process.

    Attributes:
        timeout: seconds that one answer may take.

    """

    def __init__(self, settings: Settings) -> None:
        places, self.timeout = settings.serve_concurrency, settings.serve_timeout
        for name, value in (("CONCURRENCY", places), ("TIMEOUT", self.timeout)):
            if not value > 0:
                raise ConfigError(f"TWIN_SERVE_{name} is not above zero", value, "Unset it")
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="answer")
        self._free = asyncio.Semaphore(places)
        self._queue = places * QUEUE
        self._waiting = 0

    async def begin(self, function: Callable[[], T]) -> asyncio.Future[T]:
        """Start a function in a thread as soon as there is a place; what it returns comes later.

        Raises:
            Overloaded: too many wait already, or it waited too long.

        """
        await self._take()
        future = asyncio.get_running_loop().run_in_executor(self._pool, function)
        future.add_done_callback(self._leave)
        return future

    async def finish(self, future: asyncio.Future[T]) -> T:
        """Wait for what `begin` started.

        Raises:
            TooSlow: it takes longer than an answer may.

        """
        if not (await asyncio.wait({future}, timeout=self.timeout))[0]:
            raise self.too_slow()
        return future.result()

    def too_slow(self) -> TooSlow:
        """Return the error of an answer whose time is over."""
        return TooSlow(f"the answer was not done within {self.timeout:g} s", hint="Ask again later")

    async def _take(self) -> None:
        if self._waiting >= self._queue:
            raise _overloaded()
        self._waiting += 1
        try:
            await asyncio.wait_for(self._free.acquire(), QUEUE_SECONDS)
        except TimeoutError:
            raise _overloaded() from None
        finally:
            self._waiting -= 1

    def _leave(self, future: asyncio.Future[T]) -> None:
        self._free.release()
        if not future.cancelled():
            future.exception()  # or asyncio reports those that nobody waited for


def _overloaded() -> Overloaded:
    return Overloaded("too many questions are being answered", hint="Ask again in a second")
