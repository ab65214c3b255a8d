"""The HTTP service: the one answer path, what a platform asks of a container, and typed errors.

::

    POST /v1/ask, /invocations   {"question": "…", "k": 5, "llm": ""} → Answer, version, request_id
    GET  /healthz                the process lives
    GET  /readyz, /ping          the promoted bundle is open and can be searched; else 503

``/invocations`` and ``/ping`` are SageMaker's names for the same two things.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import fastapi
from anyio.to_thread import run_sync
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.exceptions import HTTPException

from llm_twin import __version__
from llm_twin.errors import (
    BusyError,
    ConfigError,
    NotReadyError,
    RemoteError,
    SpaceError,
    TwinError,
    UserError,
)
from llm_twin.serving.boundary import Boundary, log, problem
from llm_twin.serving.production import Production

if TYPE_CHECKING:
    from llm_twin.serving.twin import Twin
    from llm_twin.settings import Settings

_NOT_READY = (503, "the twin is not ready to answer this")
_ANSWERS: dict[type[TwinError], tuple[int, str]] = {
    UserError: (400, ""),
    NotReadyError: _NOT_READY,
    BusyError: _NOT_READY,
    SpaceError: _NOT_READY,
    ConfigError: (500, "the service is not set up for this"),
    RemoteError: (502, "a server that the twin asked did not answer as it should"),
    TwinError: (500, "the twin could not do this"),
}
"""Status and sentence of each error; "" is its own, which is about what the client sent."""


class Question(BaseModel):
    """The body of ``/v1/ask``.

    Attributes:
        question: in plain words.
        k: passages to look at.
        llm: ``extractive`` (quotations), ``local`` or ``openai``; "" is the service's own choice.

    """

    model_config = ConfigDict(extra="forbid")

    question: str
    k: int = 5
    llm: Literal["", "extractive", "local", "openai"] = ""


def create_app(settings: Settings, twin: Twin | None = None) -> fastapi.FastAPI:
    """Return the service as an ASGI application; ``app.state.production`` is what it answers from.

    Args:
        settings: where the promoted bundle is. One promoted later is picked up.
        twin: answer with this one instead, whatever is promoted.

    """
    app = fastapi.FastAPI(
        title="llm-twin",
        version=__version__,
        docs_url=None,
        redoc_url=None,
    )
    app.state.production = Production(settings, twin, _tell_refused)
    app.add_middleware(Boundary)
    app.add_exception_handler(TwinError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_bad_body)
    app.add_exception_handler(HTTPException, _on_bad_address)
    _add_answering(app, app.state.production)
    _add_probes(app, app.state.production)
    return app


async def _question(request: fastapi.Request) -> Question:
    """Read the body as JSON whatever its declared type: ``curl -d`` says that it is a form."""
    try:
        return Question.model_validate_json(await request.body())
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None


_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": Question.model_json_schema()}},
    }
}


def _add_answering(app: fastapi.FastAPI, production: Production) -> None:
    @app.post("/v1/ask", openapi_extra=_BODY)
    @app.post("/invocations", openapi_extra=_BODY)
    def ask(
        asked: Annotated[Question, fastapi.Depends(_question)], request: fastapi.Request
    ) -> JSONResponse:
        """Answer a question from the author's texts, with citations."""
        entry = request.state.log
        opened = production.current()
        entry["version"] = opened.twin.version
        found = opened.answer(asked.question, asked.k, asked.llm)
        entry |= {"mode": found.mode, "abstained": found.abstained}
        identity = {"version": opened.twin.version, "request_id": entry["request_id"]}
        return JSONResponse(found.to_dict() | identity)


def _add_probes(app: fastapi.FastAPI, production: Production) -> None:
    # A thread of their own: a platform must not take slow answers for a dead service.
    own = anyio.CapacityLimiter(1)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Tell that the process lives."""
        return {"status": "alive"}

    @app.get("/readyz")
    @app.get("/ping")
    async def readyz(request: fastapi.Request) -> JSONResponse:
        """Tell whether a question would be answered now."""
        try:
            version = await run_sync(production.probe, limiter=own)
        except TwinError as error:
            return _problem(request, 503, str(error), type(error).__name__)
        return JSONResponse({"status": "ready", "version": version})


async def _on_error(request: fastapi.Request, error: Any) -> JSONResponse:
    kind = next(kind for kind in type(error).__mro__ if kind in _ANSWERS)
    status, sentence = _ANSWERS[kind]
    if status >= 500:  # then `where` is a setting or an address, and no part of the question
        request.state.log |= {"where": error.where, "hint": error.hint}
    return _problem(request, status, sentence or str(error), type(error).__name__)


async def _on_bad_body(request: fastapi.Request, error: Any) -> JSONResponse:
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"]))
    sentence = UserError(
        "the request's body cannot be used",
        f"{field}: {first['msg']}" if field else "it is not a JSON object",
        'Send JSON like {"question": "What is …?", "k": 5}',
    )
    return _problem(request, 422, str(sentence), "UserError")


async def _on_bad_address(request: fastapi.Request, error: Any) -> JSONResponse:
    sentence = "there is nothing here" if error.status_code == 404 else "not with this method"
    answer = _problem(request, error.status_code, sentence, "UserError")
    answer.headers.update(error.headers or {})
    return answer


def _problem(request: fastapi.Request, status: int, sentence: str, kind: str) -> JSONResponse:
    entry = request.state.log
    entry["error"] = kind
    return problem(status, sentence, kind, entry["request_id"])


def _tell_refused(error: TwinError) -> None:
    log({"event": "refused", "error": type(error).__name__, "reason": str(error)})
