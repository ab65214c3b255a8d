"""``/v1/feedback``: what a reader thinks of an answer becomes a score on the answer's trace.

A correction, the answer that the reader wanted, is kept in the trace's metadata; the question, the
answer and it make a pair that a model can be trained to prefer by.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated, Any, Literal
from uuid import UUID  # noqa: TC003 (a field's type)

import fastapi
from anyio.to_thread import run_sync
from pydantic import BaseModel, ConfigDict, Field

from llm_twin.errors import NotReadyError, SpaceError
from llm_twin.serving.bodies import body_of, described
from llm_twin.serving.problems import NotFound
from llm_twin.tracing import client
from llm_twin.tracing.store.routing import Request

if TYPE_CHECKING:
    from llm_twin.tracing.client import Tracing

PATIENCE = (0.0, 0.1, 0.3, 0.8)
"""Seconds between looks: another worker may still carry the trace to the store."""

_THUMBS = {"up": 1.0, "down": 0.0}


class Feedback(BaseModel):
    """The body of ``/v1/feedback``.

    Attributes:
        trace_id: as an answer gave it.
        score: 0 (useless) to 1 (right), or a thumb.
        name: what is scored.
        reason: why, in words.
        correction: what the answer should have been.

    """

    model_config = ConfigDict(extra="forbid")

    trace_id: UUID
    score: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | Literal["up", "down"]
    name: Annotated[str, Field(min_length=1, max_length=100)] = "feedback"
    reason: Annotated[str, Field(max_length=2_000)] = ""
    correction: Annotated[str, Field(max_length=16_000)] = ""

    @property
    def value(self) -> float:
        """The score as a number."""
        return _THUMBS[self.score] if isinstance(self.score, str) else self.score


def add_feedback(app: fastapi.FastAPI) -> None:
    """Take feedback."""

    @app.post("/v1/feedback", openapi_extra=described(Feedback))
    async def feedback(
        body: Annotated[Feedback, fastapi.Depends(body_of(Feedback))],
    ) -> dict[str, Any]:
        """Score an answer by its trace's id; it is stored when this answers."""
        tracing = client.current()
        if tracing is None:
            raise NotReadyError("this service does not trace its answers", hint="Set TWIN_TRACE=1")
        await run_sync(_keep, tracing, body)
        return {"trace_id": str(body.trace_id), "name": body.name, "value": body.value}


def _keep(tracing: Tracing, body: Feedback) -> None:
    identity = str(body.trace_id)
    trace = _find(tracing, identity)
    if body.correction:
        correction = tracing.redactor.redact(body.correction)
        metadata = {**(trace.get("metadata") or {}), "correction": correction}
        _send(tracing, "PATCH", identity, {"metadata": metadata})
    tracing.score(identity, body.name, body.value, body.reason)


def _find(tracing: Tracing, identity: str) -> dict[str, Any]:
    for pause in PATIENCE:
        time.sleep(pause)
        if found := _send(tracing, "GET", identity):
            return found
    raise NotFound("there is no such trace", identity, "Use the trace_id of an answer")


def _send(
    tracing: Tracing, method: str, identity: str, body: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Ask the store about a trace; {} when it does not know it."""
    path = f"v1/private/traces/{identity}"
    answer = tracing.store.handle(Request(method, path, body=json.dumps(body or {}).encode()))
    if answer.status >= 400 and answer.status != 404:
        raise SpaceError("the trace store did not take the feedback", answer.status)
    if answer.status == 404 or not isinstance(answer.body, bytes):
        return {}
    return dict(json.loads(answer.body or b"{}"))
