"""A judge's opinion of answers, asked for several times, because one opinion alone is a dice roll.

The client, its prompt and the strict reading of verdicts are those that score traced answers.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean
from threading import Event
from typing import TYPE_CHECKING, Any

from llm_twin.errors import RemoteError
from llm_twin.tracing.evaluation.judge import Judge, address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_twin.ct.answers import Told
    from llm_twin.settings import Settings

    Progress = Callable[[str], None]

CRITERION = (
    "The answer says what the question asks for, rightly by the passages, and says nothing that"
    " they do not say."
)
AT_ONCE = 4
GIVE_UP = 8
"""Failures from the start, without one verdict, after which a judge is not asked any more."""


def judge_answers(
    told: Sequence[Told],
    model: str,
    settings: Settings,
    times: int,
    progress: Progress = lambda line: None,
) -> dict[str, Any]:
    """Have each answer that was not declined judged several times.

    Args:
        told: from ``answer_questions``.
        model: the judge's name at ``settings.judge_url``.
        settings: the judge's address and key.
        times: how often each answer is judged.
        progress: told of every round, and of the first failure.

    Returns:
        ``score`` (mean over the answers, 0 to 1), ``noise`` (standard deviation between verdicts on
        the same answer), each None when it cannot be told; ``n`` (answers with a verdict),
        ``declined`` (answers that were not judged), ``asked`` (verdicts asked for), ``failed``
        (those not had, and not tried after the judge was given up), ``why`` (of the first failure),
        and ``items`` with ``id`` and ``value`` (mean verdict).

    Raises:
        ConfigError: the judge's address is no URL.

    """
    given = [one for one in told if not one.answer.abstained]
    judge = Judge(address(settings), model, settings.judge_key, take=lambda: True)
    bench = _Bench(judge, progress)
    rounds = [bench.judge(given, number, times) for number in range(1, times + 1)]
    verdicts = [[one for one in own if one is not None] for own in zip(*rounds, strict=True)]
    means = {one.id: fmean(own) for one, own in zip(given, verdicts, strict=False) if own}
    return {
        "score": fmean(means.values()) if means else None,
        "noise": noise(verdicts),
        "n": len(means),
        "declined": len(told) - len(given),
        "asked": len(given) * times,
        "failed": len(given) * times - sum(map(len, verdicts)),
        "why": bench.why,
        "items": [{"id": key, "value": value} for key, value in means.items()],
    }


def noise(verdicts: Sequence[Sequence[float]]) -> float | None:
    """Return the standard deviation within answers, over all that have two verdicts or more."""
    repeated = [own for own in verdicts if len(own) > 1]
    if not repeated:
        return None
    squares = sum((value - fmean(own)) ** 2 for own in repeated for value in own)
    return math.sqrt(squares / sum(len(own) - 1 for own in repeated))


class _Bench:
    """Asks a few at a time, and no more once nothing but failures came."""

    def __init__(self, judge: Judge, progress: Progress) -> None:
        self.judge_of, self.progress = judge, progress
        self.why = ""
        self.failures = 0
        self.had, self.gone = Event(), Event()

    def judge(self, told: Sequence[Told], number: int, times: int) -> list[float | None]:
        """Judge every answer once; None where there is no verdict."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = list(pool.map(self._verdict, told))
        got = sum(one is not None for one in found)
        self.progress(f"judged {got} of {len(told)} answers, round {number} of {times}")
        return found

    def _verdict(self, told: Told) -> float | None:
        if self.gone.is_set():
            return None
        try:
            value = self.judge_of.score(CRITERION, told.view).value
        except RemoteError as error:
            self._failed(str(error))
            return None
        self.had.set()
        return value

    def _failed(self, why: str) -> None:
        self.failures += 1
        if not self.why:
            self.why = why
            self.progress(why)
        if self.failures >= GIVE_UP and not self.had.is_set():
            self.gone.set()
