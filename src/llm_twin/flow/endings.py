"""How stages end, as states and sentences, and how a signal ends a run."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING

from llm_twin.errors import TwinError
from llm_twin.flow.states import State, cancelled, completed, crashed, failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm_twin.flow.process import Outcome
    from llm_twin.flow.stage import Stage


def said(error: BaseException) -> str:
    """An error as one sentence."""
    return str(error) if isinstance(error, TwinError) else f"{type(error).__name__}: {error}"


def state_of(stage: Stage, outcome: Outcome) -> State:
    """The state that a child's end means for its stage."""
    if outcome.stopped == "timeout":
        return failed(f"it took longer than {stage.timeout:g} s", "TimedOut")
    if outcome.stopped:
        return cancelled("stopped")
    if outcome.crashed:
        hint = " (out of memory?)" if outcome.signal == "SIGKILL" else ""
        return crashed(outcome.error + hint)
    if outcome.exit_code:
        return failed(outcome.error or f"exit code {outcome.exit_code}")
    result = outcome.result["result"]
    message = result.get("message", "") if isinstance(result, dict) else ""
    return completed(str(message))


@contextlib.contextmanager
def stopped_by_signals(stop: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM stop a run: children ended, history written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda *_: stop("stopped by a signal"))
        for number in (signal.SIGINT, signal.SIGTERM)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
