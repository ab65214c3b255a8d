"""From a question to its answer in the service: a place, a thread, a trace, and the numbers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, NotReadyError, UserError
from llm_twin.serving.hearing import hearing
from llm_twin.serving.limits import Places
from llm_twin.tracing import track

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from llm_twin.serving.answer import Answer
    from llm_twin.serving.metrics import Figures
    from llm_twin.serving.production import OpenTwin, Production
    from llm_twin.settings import Settings

TOKEN = re.compile(r"\w+|[^\w\s]")
"""What is counted where no model counts: words and signs."""


@dataclass(frozen=True)
class Asked:
    """A question as any of the paths takes it.

    Attributes:
        question: in plain words.
        k: passages to look at.
        llm: what writes the answer, or "" for the service's own choice.
        thread: the conversation that it belongs to, or "".

    """

    question: str
    k: int = 5
    llm: str = ""
    thread: str = ""


@dataclass(frozen=True)
class Reply:
    """An answer, which version of the twin gave it, and its trace's id, or "" without one."""

    asked: Asked
    answer: Answer
    version: str
    trace_id: str

    @property
    def usage(self) -> tuple[int, int]:
        """Tokens read and written: as the model counts them, or the words of both texts."""
        if self.answer.completion_tokens:
            return self.answer.prompt_tokens, self.answer.completion_tokens
        return len(TOKEN.findall(self.asked.question)), len(TOKEN.findall(self.answer.text))

    def to_dict(self, request_id: str) -> dict[str, Any]:
        """Plain JSON types."""
        identity = {"version": self.version, "request_id": request_id}
        return self.answer.to_dict() | identity | self.trace()

    def trace(self) -> dict[str, str]:
        """Return the trace's id by its name, if there is one."""
        return {"trace_id": self.trace_id} if self.trace_id else {}

    def headers(self) -> dict[str, str]:
        """Return the headers of the answer."""
        return {"X-Trace-Id": self.trace_id} if self.trace_id else {}


class Desk:
    """Where questions are taken, in one process.

    Attributes:
        production: what answers.
        figures: what is counted.
        places: how many are answered at once.
        draining: whether this process is about to end.

    """

    def __init__(self, settings: Settings, production: Production, figures: Figures) -> None:
        self.production = production
        self.figures = figures
        self.places = Places(settings)
        self.draining = False

    async def begin(
        self,
        asked: Asked,
        entry: dict[str, Any],
        hear: Callable[[str], None] | None = None,
    ) -> asyncio.Future[Reply]:
        """Start answering; see `Places.begin`.

        Args:
            asked: the question.
            entry: the request's line of log, which is added to.
            hear: told each piece of the text, in the answer's thread, if a model streams it.

        """

        def work() -> Reply:
            with hearing(hear):
                return self._answer(asked, entry)

        future = await self.places.begin(work)
        future.add_done_callback(self._count)
        return future

    def _answer(self, asked: Asked, entry: dict[str, Any]) -> Reply:
        opened = self.production.current()
        entry["version"] = opened.twin.version

        if asked.llm:
            _check(opened, asked.llm, entry)
        found = opened.answer(asked.question, asked.k, asked.llm, asked.thread)
        reply = Reply(asked, found, opened.twin.version, track.trace_id())
        entry |= {"mode": found.mode, "abstained": found.abstained} | reply.trace()
        return reply

    def _count(self, future: asyncio.Future[Reply]) -> None:
        if not future.cancelled() and future.exception() is None:
            reply = future.result()
            self.figures.answered(reply.answer.mode, reply.answer.abstained, *reply.usage)


def _check(opened: OpenTwin, llm: str, entry: dict[str, Any]) -> None:
    """Refuse a question that names an LLM which this service was not given."""
    try:
        opened.llm(llm)
    except (ConfigError, NotReadyError) as error:
        entry |= {"where": error.where, "hint": error.hint}
        raise UserError("this service has no such LLM", repr(llm), "Leave it out") from None
