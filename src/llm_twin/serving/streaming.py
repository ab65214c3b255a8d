"""Answers as server-sent events: the pieces of the text as they come, then all that belongs to it.

A model's own pieces are passed on as they are written; quotations are sent in pieces when they are
found. Comments keep the line open meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from starlette.responses import StreamingResponse

from llm_twin.errors import TwinError
from llm_twin.serving.citations import used
from llm_twin.serving.problems import Problem, judge, shaped

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from llm_twin.serving.desk import Asked, Desk, Reply

HEARTBEAT = 10.0
"""Seconds of silence after which a comment is sent."""

AT_ONCE = 0.05
"""Seconds in which an error is still told by its status, before the first byte of a stream."""

COMMENT = b": waiting\n\n"
_PIECE = re.compile(r"\s*\S+(?:\s+\S+){0,4}|\s+$")
_DECLINES = "i don't know"
_PART_OF_A_MARK = re.compile(r"\s*(?:\[[\s\d,;^]{0,40})?$")


def event(data: object, name: str = "") -> bytes:
    """Return one server-sent event."""
    text = json.dumps(data, ensure_ascii=False)
    return (f"event: {name}\n" * bool(name) + f"data: {text}\n\n").encode()


def pieces(text: str) -> list[str]:
    """Cut a text into pieces of a few words; joined they are the text."""
    return _PIECE.findall(text)


class Stream:
    """The pieces of one answer.

    Args:
        desk: where it is asked.
        asked: the question.
        live: whether a model's own pieces are wanted, which may turn out longer than allowed.

    """

    def __init__(self, desk: Desk, asked: Asked, *, live: bool = True) -> None:
        self._desk = desk
        self._asked = asked
        self._live = live
        self._raw = self._sent = ""
        self._heard: asyncio.Queue[str | None] = asyncio.Queue()

    async def begin(self, entry: dict[str, Any]) -> None:
        """Start answering.

        Raises:
            TwinError: what went wrong at once, so that the status can still say it.

        """
        loop = asyncio.get_running_loop()

        def hear(piece: str) -> None:
            loop.call_soon_threadsafe(self._heard.put_nowait, piece)

        self._ends = loop.time() + self._desk.places.timeout
        self._future = await self._desk.begin(self._asked, entry, hear if self._live else None)
        self._future.add_done_callback(lambda _: self._heard.put_nowait(None))
        if (await asyncio.wait({self._future}, timeout=AT_ONCE))[0]:
            self._future.result()

    async def pieces(self) -> AsyncIterator[str]:
        """Yield pieces of the text; "" when there has been none for a while.

        Raises:
            TwinError: what went wrong.

        """
        while True:
            left = self._ends - asyncio.get_running_loop().time()
            try:
                heard = await asyncio.wait_for(self._heard.get(), min(HEARTBEAT, left))
            except TimeoutError:
                if left <= HEARTBEAT:
                    raise self._desk.places.too_slow() from None
                yield ""
                continue
            if heard is None:
                break
            if piece := self._settled(heard):
                yield piece
        text = self.reply().answer.text
        if not self._sent:
            for piece in pieces(text):
                yield piece
        elif text.startswith(self._sent) and text != self._sent:
            yield text.removeprefix(self._sent)

    def reply(self) -> Reply:
        """Return the whole answer, once there are no more pieces."""
        return self._future.result()

    def _settled(self, piece: str) -> str:
        """Return what can be said after one more piece: marks are numbered as in the answer."""
        self._raw += piece
        if _DECLINES.startswith(_plain(self._raw)[: len(_DECLINES)]):
            return ""
        whole = _PART_OF_A_MARK.sub("", self._raw)
        offered: Sequence[Any] = range(self._asked.k)
        before, self._sent = self._sent, used(whole, offered)[0]
        return self._sent.removeprefix(before)


def _plain(text: str) -> str:
    return text.replace("’", "'").lstrip(" .!\"'*\n").lower()


def event_stream(events: AsyncIterator[bytes]) -> StreamingResponse:
    """Return the events as an answer that nothing between here and the client holds back."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)


async def told(
    events: AsyncIterator[bytes],
    path: str,
    entry: dict[str, Any],
    name: str = "",
) -> AsyncIterator[bytes]:
    """Pass events on; an error becomes the last one, of that name."""
    try:
        async for one in events:
            yield one
    except TwinError as error:
        problem = judge(error, entry)
        yield event({**shaped(problem, path, entry), "status": problem.status}, name)
    except Exception:
        words = "something went wrong here; the log has it under this request id"
        yield event(shaped(Problem(500, words, "InternalError"), path, entry), name)
        raise


async def ask_events(stream: Stream, request_id: str) -> AsyncIterator[bytes]:
    """Yield the events of ``/v1/ask``: token, citation, done."""
    yield COMMENT
    async for piece in stream.pieces():
        yield event({"text": piece}, "token") if piece else COMMENT
    reply = stream.reply().to_dict(request_id)
    for number, citation in enumerate(reply["citations"], 1):
        yield event({"number": number, **citation}, "citation")
    yield event(reply, "done")
