"""Is what was started the twin that was meant? One real question tells more than any health check.

A deployment is put live only if this says so, whatever the target.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING, Any

from llm_twin.errors import RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable

    Answer = tuple[int, dict[str, Any], float]

QUESTION = "What is this about?"
READY_SECONDS = 60.0
LATENCY_SECONDS = 5.0
PAUSE_SECONDS = 0.1
FIRST = 3
TIMES = 3


def smoke(
    ask: Callable[[str], Answer],
    ready: Callable[[], bool],
    question: str = "",
    citation: str = "",
    latency_s: float = LATENCY_SECONDS,
    ready_s: float = READY_SECONDS,
) -> dict[str, str]:
    """Wait until a service is ready, and ask it.

    Args:
        ask: ask a question; gives status, body and seconds.
        ready: whether it would answer now; raises a TwinError when it has ended.
        question: one that the twin answers.
        citation: a part of a title or link that one of the first three citations must have;
            empty: any will do.
        latency_s: what the median of three answers may take, in seconds.
        ready_s: seconds that it may take to become ready.

    Returns: the ``latency`` for the deployment's facts, in seconds.

    Raises:
        RemoteError: it is not what was meant, and in which way.

    """
    question = question or QUESTION
    _wait(ready, ready_s)
    seconds = [_ask_once(ask, question, citation) for _ in range(TIMES)]
    median = statistics.median(seconds)
    if median > latency_s:
        raise RemoteError(
            f"it answers too slowly ({median:.1f} s, may take {latency_s:g} s)",
            question,
            "Allow it more with --latency, or find out why",
        )
    return {"latency": f"{median:.3f}"}


def _wait(ready: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            raise RemoteError(f"it was not ready within {seconds:g} s")
        time.sleep(PAUSE_SECONDS)


def _ask_once(ask: Callable[[str], Answer], question: str, citation: str) -> float:
    status, body, seconds = ask(question)
    if status != 200:
        said = str(body.get("error", ""))[:200]
        raise RemoteError(f"it answered {status}" + (f" ({said})" if said else ""), question)
    citations = body.get("citations") or []
    if body.get("abstained") or not citations:
        raise RemoteError(
            "it does not know the answer" if body.get("abstained") else "it cited nothing",
            question,
            "Give it one that it answers: --question",
        )
    cited = [f"{one.get('title', '')} {one.get('link', '')}" for one in citations[:FIRST]]
    if not any(citation in text for text in cited):
        raise RemoteError(
            f"it did not cite {citation}, but {cited[0].strip()}",
            question,
            "Give another: --question and --citation",
        )
    return seconds
