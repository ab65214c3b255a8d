"""The HTTP service: the one answer path, what a platform asks of a container, and typed errors.

::

    POST /v1/ask                 {"question": "…", "k": 5, "llm": "", "thread": "", "stream": false}
                                 → Answer, version, request_id, trace_id; or events
    POST /v1/chat/completions    as the OpenAI API has it; GET /v1/models
    POST /v1/feedback            {"trace_id": "…", "score": "up"} → a score on the answer's trace
    POST /invocations            {"question": "…", "k": 5, "llm": ""} → as /v1/ask
    GET  /healthz                the process lives
    GET  /readyz, /ping          the promoted bundle is open and can be searched; else 503
    GET  /metrics                numbers for Prometheus

``/invocations`` and ``/ping`` are SageMaker's names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import anyio
import fastapi
from anyio.to_thread import run_sync
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from llm_twin import __version__
from llm_twin.errors import NotReadyError, TwinError, UserError
from llm_twin.serving.bodies import body_of, described
from llm_twin.serving.boundary import Boundary, log
from llm_twin.serving.chat import add_chat
from llm_twin.serving.desk import Asked, Desk
from llm_twin.serving.feedback import add_feedback
from llm_twin.serving.keys import Keys
from llm_twin.serving.metrics import Figures
from llm_twin.serving.problems import OPENAI, Problem, judge, response
from llm_twin.serving.production import Production
from llm_twin.serving.streaming import Stream, ask_events, event_stream, told

if TYPE_CHECKING:
    from llm_twin.serving.twin import Twin
    from llm_twin.settings import Settings

_EXAMPLES = {
    "/v1/feedback": '{"trace_id": "…", "score": "up"}',
    "/v1/chat/completions": '{"model": "llm-twin", "messages": [{"role": "user", "content": "…"}]}',
}
_EXAMPLE = '{"question": "What is …?", "k": 5}'


class Question(BaseModel):
    """The body of ``/invocations``.

    Attributes:
        question: in plain words.
        k: passages to look at.
        llm: ``extractive`` (quotations), ``local`` or ``openai``; "" is the service's own choice.

    """

    model_config = ConfigDict(extra="forbid")

    question: str
    k: int = 5
    llm: Literal["", "extractive", "local", "openai"] = ""


class Ask(Question):
    """The body of ``/v1/ask``.

    Attributes:
        thread: the conversation that the question belongs to.
        stream: whether the answer comes as events; ``Accept: text/event-stream`` says so too.

    """

    thread: Annotated[str, Field(max_length=200)] = ""
    stream: bool = False


def create_app(
    settings: Settings, twin: Twin | None = None, figures: Figures | None = None
) -> fastapi.FastAPI:
    """Return the service as an ASGI application; ``app.state.desk`` is where questions are taken.

    Answers are traced if `llm_twin.tracing.client.start` was called in this process.

    Args:
        settings: where the promoted bundle is. One promoted later is picked up.
        twin: answer with this one instead, whatever is promoted.
        figures: the numbers that workers share.

    Raises:
        ConfigError: a limit or a key cannot be used.

    """
    app = fastapi.FastAPI(
        title="llm-twin",
        version=__version__,
        docs_url=None,
        redoc_url=None,
    )
    figures = figures or Figures()
    desk = Desk(settings, Production(settings, twin, _tell_refused), figures)
    app.state.desk = desk
    app.add_middleware(Boundary, Keys(settings.api_keys), figures)
    app.add_exception_handler(TwinError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_bad_body)
    app.add_exception_handler(HTTPException, _on_bad_address)
    _add_answering(app, desk)
    add_chat(app, desk)
    add_feedback(app)
    _add_probes(app, desk)
    return app


def _add_answering(app: fastapi.FastAPI, desk: Desk) -> None:
    async def whole(asked: Asked, request: fastapi.Request) -> JSONResponse:
        entry = request.state.log
        reply = await desk.places.finish(await desk.begin(asked, entry))
        return JSONResponse(reply.to_dict(entry["request_id"]), headers=reply.headers())

    @app.post("/v1/ask", openapi_extra=described(Ask), response_model=None)
    async def ask(
        body: Annotated[Ask, fastapi.Depends(body_of(Ask))], request: fastapi.Request
    ) -> Response:
        """Answer a question from the author's texts, with citations."""
        asked = Asked(body.question, body.k, body.llm, body.thread)
        if not (body.stream or "text/event-stream" in request.headers.get("Accept", "")):
            return await whole(asked, request)
        entry = request.state.log
        stream = Stream(desk, asked)
        await stream.begin(entry)
        events = ask_events(stream, entry["request_id"])
        return event_stream(told(events, request.url.path, entry, "error"))

    @app.post("/invocations", openapi_extra=described(Question), response_model=None)
    async def invocations(
        body: Annotated[Question, fastapi.Depends(body_of(Question))], request: fastapi.Request
    ) -> Response:
        """Answer as /v1/ask does; SageMaker's name for it."""
        return await whole(Asked(body.question, body.k, body.llm), request)


def _add_probes(app: fastapi.FastAPI, desk: Desk) -> None:
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
            if desk.draining:
                raise NotReadyError("the service is about to end")
            version = await run_sync(desk.production.probe, limiter=own)
        except TwinError as error:
            said = Problem(503, str(error), type(error).__name__)
            return response(said, request.url.path, request.state.log)
        return JSONResponse({"status": "ready", "version": version})

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        """Numbers for Prometheus."""
        text = desk.figures.render() + await run_sync(_tracing_figures)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


def _tracing_figures() -> str:
    from llm_twin.tracing import client, status

    tracing = client.current()
    return status.metrics(tracing.store) if tracing else ""


async def _on_error(request: fastapi.Request, error: Any) -> JSONResponse:
    entry = request.state.log
    return response(judge(error, entry), request.url.path, entry)


async def _on_bad_body(request: fastapi.Request, error: Any) -> JSONResponse:
    path = request.url.path
    # Of the errors about all that a field may be, the deepest is about what it was meant to be.
    deepest = max(error.errors(), key=lambda one: len(one["loc"]))
    field = ".".join(map(str, deepest["loc"]))
    sentence = UserError(
        "the request's body cannot be used",
        f"{field}: {deepest['msg']}" if field else "it is not a JSON object",
        f"Send JSON like {_EXAMPLES.get(path, _EXAMPLE)}",
    )
    said = Problem(400 if path.startswith(OPENAI) else 422, str(sentence), "UserError")
    return response(said, path, request.state.log)


async def _on_bad_address(request: fastapi.Request, error: Any) -> JSONResponse:
    sentence = "there is nothing here" if error.status_code == 404 else "not with this method"
    said = Problem(error.status_code, sentence, "UserError")
    return response(said, request.url.path, request.state.log, error.headers)


def _tell_refused(error: TwinError) -> None:
    log({"event": "refused", "error": type(error).__name__, "reason": str(error)})
