"""Who hears a model's words while it writes them: the stream that a service sends, or nobody."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_hear: ContextVar[Callable[[str], None] | None] = ContextVar("hear", default=None)


@contextmanager
def hearing(hear: Callable[[str], None] | None) -> Iterator[None]:
    """Have a model's words told to a function, in this thread."""
    token = _hear.set(hear)
    try:
        yield
    finally:
        _hear.reset(token)


def listener() -> Callable[[str], None] | None:
    """Return the function that a model's words are told to, or None when nobody listens."""
    return _hear.get()
