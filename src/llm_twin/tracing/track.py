"""``@traced``: spans for the answer path, at next to no cost while nothing is traced.

The SDK takes a second to import, so a command that does not trace must not import it, and a module
cannot carry ``@opik.track``. A function marked here becomes one that ``opik.track`` made when the
first call is traced. What goes into a span is said beside the function, not inside it.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Describe = Callable[..., Mapping[str, Any]]

P = ParamSpec("P")
R = TypeVar("R")

_OF_TRACES = ("input", "output", "metadata", "tags")
_enabled = False
_last: ContextVar[str] = ContextVar("last_trace_id", default="")


def enable() -> None:
    """Trace from now on."""
    global _enabled
    _enabled = True


def disable() -> None:
    """Trace no more."""
    global _enabled
    _enabled = False


def traced(
    name: str,
    kind: str = "general",
    *,
    before: Describe | None = None,
    after: Describe | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make each call of a function a span; also a trace when no other surrounds it.

    Args:
        name: of the span.
        kind: Opik's type of it: general, llm, tool or guardrail.
        before: called with the function's arguments; returns what `annotate` takes, like ``input``,
            and perhaps ``thread_id``, the conversation that the trace belongs to.
        after: called with the result; returns what `annotate` takes, like ``output``, ``usage``,
            ``model``, ``provider``, ``metadata``.

    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        tracked: Callable[P, R] | None = None

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            nonlocal tracked
            if not _enabled:
                return function(*args, **kwargs)
            if tracked is None:
                tracked = _tracked(function, name, kind, before, after)
            return tracked(*args, **kwargs)

        return wrapper

    return decorate


def annotate(thread_id: str = "", **fields: Any) -> None:
    """Add to the innermost span what ``opik.update_current_span`` takes, if this is traced.

    Where that span is a trace's outermost, its input, output, metadata and tags are the trace's.
    """
    if not _enabled:
        return
    from opik import context_storage  # opik_context's functions copy what they return

    span, trace = context_storage.top_span_data(), context_storage.get_trace_data()
    if span is not None:
        span.update(**fields)
    if trace is not None:
        outermost = span is None or span.parent_span_id is None
        mine = {key: fields[key] for key in _OF_TRACES if outermost and key in fields}
        trace.update(**mine, **({"thread_id": thread_id} if thread_id else {}))


def annotate_trace(**fields: Any) -> None:
    """Add to the trace what ``opik.update_current_trace`` takes, like ``thread_id``."""
    if _enabled:
        import opik

        opik.update_current_trace(**fields)


def trace_id() -> str:
    """Return the id, for feedback, of the trace around this call or else of the last one here.

    "Here" is a context (`contextvars`): the same thread, and for a service the same request.
    "" when there was none.
    """
    if not _enabled:
        return ""
    from opik import context_storage

    trace = context_storage.get_trace_data()
    return trace.id if trace else _last.get()


def _tracked(
    function: Callable[P, R],
    name: str,
    kind: str,
    before: Describe | None,
    after: Describe | None,
) -> Callable[P, R]:
    import opik

    def described(*args: P.args, **kwargs: P.kwargs) -> R:
        _last.set(trace_id())
        fields = dict(before(*args, **kwargs)) if before is not None else {}
        try:
            result = function(*args, **kwargs)
            if after is not None:
                fields |= after(result)
        finally:
            annotate(**fields)
        return result

    # Opik asks for it at every call; found anew each time it costs more than the span.
    described.__signature__ = inspect.signature(described)  # type: ignore[attr-defined]
    type_: Any = kind
    tracked: Callable[P, R] = opik.track(
        name=name, type=type_, capture_input=False, capture_output=False
    )(described)
    return tracked
