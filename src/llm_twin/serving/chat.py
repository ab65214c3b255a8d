"""``/v1/chat/completions`` and ``/v1/models``, so that clients of the OpenAI API can ask the twin.

The last user message is the question; earlier ones are not read, as each answer comes from the
author's texts alone. Sampling parameters are taken and change nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import fastapi
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from llm_twin.errors import UserError
from llm_twin.serving.bodies import body_of, described
from llm_twin.serving.desk import TOKEN, Asked
from llm_twin.serving.problems import NotFound
from llm_twin.serving.streaming import COMMENT, Stream, event, event_stream, told

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from llm_twin.serving.desk import Desk, Reply

MODELS = {
    "llm-twin": "",
    "llm-twin-extractive": "extractive",
    "llm-twin-local": "local",
    "llm-twin-openai": "openai",
}
"""The names of models, and what writes the answer."""

Thread = Annotated[str, Field(max_length=200)]


class Part(BaseModel):
    """A part of a message; only text can be read."""

    type: Literal["text"] = "text"
    text: str


class Message(BaseModel):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    @property
    def text(self) -> str:
        """Its words."""
        if isinstance(self.content, list):
            return "\n".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(BaseModel):
    """What a stream tells besides."""

    include_usage: bool | None = False


class Chat(BaseModel):
    """The body of ``/v1/chat/completions``, as far as the twin heeds it."""

    model: str
    messages: list[Message]
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    n: Literal[1] | None = 1
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    user: Thread | None = None
    metadata: dict[str, Any] | None = None

    def asked(self) -> Asked:
        """Return the question.

        Raises:
            NotFound: there is no such model.
            UserError: nothing is asked.

        """
        if self.model not in MODELS:
            raise NotFound(
                "there is no such model", repr(self.model[:100]), f"Known: {', '.join(MODELS)}"
            )
        questions = [message.text for message in self.messages if message.role == "user"]
        if not questions:
            raise UserError("nothing is asked", hint='Send a message of the role "user"')
        return Asked(questions[-1], llm=MODELS[self.model], thread=self._thread())

    def limited(self, text: str) -> tuple[str, str]:
        """Return the text as far as it was wanted, and why it ends there."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        ends = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
        text = text[: min(ends)] if ends else text
        most = self.max_completion_tokens or self.max_tokens
        tokens = list(TOKEN.finditer(text))
        if most is None or len(tokens) <= most:
            return text, "stop"
        return text[: tokens[most - 1].end()], "length"

    @property
    def unlimited(self) -> bool:
        """Whether the text is wanted whole."""
        return not (self.stop or self.max_tokens or self.max_completion_tokens)

    def _thread(self) -> str:
        given = self.metadata or {}
        return str(given.get("thread_id") or given.get("thread") or self.user or "")[:200]


def add_chat(app: fastapi.FastAPI, desk: Desk) -> None:
    """Answer the OpenAI API's two paths."""

    @app.post("/v1/chat/completions", openapi_extra=described(Chat), response_model=None)
    async def chat(
        body: Annotated[Chat, fastapi.Depends(body_of(Chat))], request: fastapi.Request
    ) -> Response:
        """Answer the last message of a conversation, as the OpenAI API does."""
        entry, asked = request.state.log, body.asked()
        frame = _Frame(entry["request_id"], body.model)
        if body.stream:
            stream = Stream(desk, asked, live=body.unlimited)
            await stream.begin(entry)
            events = _chunks(stream, body, frame)
            return event_stream(told(events, request.url.path, entry))
        reply = await desk.places.finish(await desk.begin(asked, entry))
        return JSONResponse(
            frame.whole(reply, *body.limited(reply.answer.text)), 200, reply.headers()
        )

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List the names that ``model`` may have."""
        return {"object": "list", "data": [_model(name) for name in MODELS]}

    @app.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """Describe one of them."""
        if name not in MODELS:
            raise NotFound("there is no such model", repr(name[:100]))
        return _model(name)


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "llm-twin"}


class _Frame:
    """What surrounds the words of one completion."""

    def __init__(self, request_id: str, model: str) -> None:
        self._named = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, reply: Reply, text: str, reason: str) -> dict[str, Any]:
        """Return the completion in one object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        return {
            **self._named,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(reply, text),
            **_twin(reply),
        }

    def chunk(self, delta: dict[str, str], reason: str | None = None, **more: Any) -> bytes:
        """Return one event of a stream."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self.bare([choice], **more)

    def bare(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """Return an event with these choices."""
        named = {**self._named, "object": "chat.completion.chunk"}
        return event({**named, "choices": choices, **more})


def _twin(reply: Reply) -> dict[str, Any]:
    """What the OpenAI API has no name for."""
    found = reply.answer.to_dict()
    del found["text"]
    return {"system_fingerprint": reply.version, "twin": found, **reply.trace()}


def _usage(reply: Reply, text: str) -> dict[str, int]:
    prompt, whole = reply.usage
    completion = whole if text == reply.answer.text else len(TOKEN.findall(text))
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


async def _chunks(stream: Stream, body: Chat, frame: _Frame) -> AsyncIterator[bytes]:
    yield frame.chunk({"role": "assistant", "content": ""})
    async for piece in stream.pieces():
        if not piece:
            yield COMMENT
        elif body.unlimited:
            yield frame.chunk({"content": piece})
    reply = stream.reply()
    text, reason = body.limited(reply.answer.text)
    if not body.unlimited:
        yield frame.chunk({"content": text})
    yield frame.chunk({}, reason, **_twin(reply))
    if body.stream_options and body.stream_options.include_usage:
        yield frame.bare([], usage=_usage(reply, text))
    yield b"data: [DONE]\n\n"
