"""What a client is told instead of an answer: the status, the words and the shape of every error.

Below ``/v1/chat`` and ``/v1/models`` errors look as the OpenAI API's do, elsewhere as
``{"error": …, "kind": …, "request_id": …}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from starlette.responses import JSONResponse

from llm_twin.errors import (
    BusyError,
    ConfigError,
    NotReadyError,
    RemoteError,
    SpaceError,
    TwinError,
    UserError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

OPENAI = ("/v1/chat", "/v1/models")
_CODES = {
    401: "invalid_api_key",
    404: "model_not_found",
    413: "request_too_large",
    429: "rate_limit_exceeded",
    504: "timeout",
}


class NotFound(UserError):
    """What the client named does not exist."""


class Overloaded(BusyError):
    """More is asked at once than is answered at once."""


class TooSlow(TwinError):
    """An answer took longer than an answer may take."""


class Problem(NamedTuple):
    """What is said of an error."""

    status: int
    sentence: str
    kind: str


_NOT_READY = (503, "the twin is not ready to answer this")
_ANSWERS: dict[type[TwinError], tuple[int, str]] = {
    NotFound: (404, ""),
    Overloaded: (429, ""),
    TooSlow: (504, ""),
    UserError: (400, ""),
    NotReadyError: _NOT_READY,
    BusyError: _NOT_READY,
    SpaceError: _NOT_READY,
    ConfigError: (500, "the service is not set up for this"),
    RemoteError: (502, "a server that the twin asked did not answer as it should"),
    TwinError: (500, "the twin could not do this"),
}
"""Status and sentence of each error; "" is its own, which is about what the client sent."""


def judge(error: TwinError, entry: dict[str, Any]) -> Problem:
    """Say what a client may know of an error; the rest goes into the log's entry."""
    kind = next(kind for kind in type(error).__mro__ if kind in _ANSWERS)
    status, sentence = _ANSWERS[kind]
    if status >= 500:  # then `where` is a setting or an address, and no part of the question
        entry |= {"where": error.where, "hint": error.hint}
    return Problem(status, sentence or str(error), type(error).__name__)


def shaped(problem: Problem, path: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return the error as the clients of that path read it, and note it in the log's entry."""
    entry["error"] = problem.kind
    if not path.startswith(OPENAI):
        told = {"error": problem.sentence, "kind": problem.kind}
        return {**told, "request_id": entry["request_id"]}
    kind = "server_error" if problem.status >= 500 else "invalid_request_error"
    code = _CODES.get(problem.status)
    told = {"message": problem.sentence, "type": kind, "param": None, "code": code}  # type: ignore[dict-item]
    return {"error": told}


def response(
    problem: Problem,
    path: str,
    entry: dict[str, Any],
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return the error as the answer to a request for that path."""
    answer = JSONResponse(shaped(problem, path, entry), problem.status, headers)
    if problem.status == 401:
        answer.headers["WWW-Authenticate"] = "Bearer"
    if problem.status == 429:
        answer.headers["Retry-After"] = "1"
    return answer
