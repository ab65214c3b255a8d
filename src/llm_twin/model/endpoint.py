"""An OpenAI-compatible endpoint that is asked for JSON, many times, by a job that may take long.

Unlike the answer path, which a reader waits for, it waits as long as a server asks it to within a
minute, and tries again after timeouts.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_twin import chat
from llm_twin.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

    from llm_twin.settings import Settings

PATIENCE = chat.Patience(attempts=5, first=1.0, longest=60.0, for_long=True)
_HINTS = {
    401: "Set TWIN_LLM_KEY to a key that it accepts",
    403: "Set TWIN_LLM_KEY to a key that may use this model",
    404: "Set TWIN_LLM_URL to its base URL with /v1, and data.generate.model to a model it serves",
}
_NOT_STRUCTURED = (400, 422)
"""What servers say that do not know ``response_format``."""


class Reply(NamedTuple):
    """What the model wrote.

    Attributes:
        text: its words; should be JSON.
        tokens_in: tokens read, by the server's account.
        tokens_out: tokens written, by the server's account; 0 where it does not tell.

    """

    text: str
    tokens_in: int
    tokens_out: int


@dataclass
class Endpoint:
    """Asks ``<url>/chat/completions`` for an object of a JSON schema.

    Attributes:
        url: base URL, with ``/v1``.
        model: the name sent.
        key: sent as a bearer token when not empty; never printed.
        timeout: seconds to wait for an answer.
        pause: sleeps between attempts, given seconds.
        structured: whether the server is asked for the schema; off once it has refused that.

    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)
    structured: bool = True

    @classmethod
    def of(cls, settings: Settings, model: str) -> Endpoint:
        """Check the settings; nothing is asked yet.

        Raises:
            ConfigError: the URL, the key or the timeout cannot be used.

        """
        return cls(chat.checked(settings), model, settings.llm_key, settings.llm_timeout)

    @property
    def shown(self) -> str:
        """The address as it may be printed: without a password or query."""
        return self._endpoint.shown

    @property
    def _endpoint(self) -> chat.Endpoint:
        return chat.Endpoint(self.url, self.key, self.timeout, PATIENCE, self.pause)

    def ask(self, system: str, user: str, schema: Mapping[str, Any], max_tokens: int) -> Reply:
        """Ask, several times where a server or the way to it fails.

        Raises:
            ConfigError: the endpoint refuses the key, the model or the address.
            RemoteError: it does not answer, or not as the OpenAI API does.

        """
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if self.structured:
            try:
                return self._endpoint.post({**body, "response_format": _format(schema)}, self._read)
            except chat.FailedError as failure:
                if getattr(failure.response, "status_code", 0) not in _NOT_STRUCTURED:
                    raise self._failed(failure) from None
                self.structured = False
        try:
            return self._endpoint.post(body, self._read)
        except chat.FailedError as failure:
            raise self._failed(failure) from None

    def _failed(self, failure: chat.FailedError) -> ConfigError | RemoteError:
        """What is to be raised for a failure."""
        if failure.passing:
            how = f"cannot be reached ({failure.why})"
            if failure.silent:
                how = f"did not answer within {self.timeout:g} s"
            elif failure.response is not None:
                how = f"failed ({failure.why})"
            hint = "What it wrote so far is kept; try again later"
            times = f"{PATIENCE.attempts} times"
            return RemoteError(f"the LLM endpoint {how}, {times}", self.shown, hint)
        assert failure.response is not None
        status = failure.response.status_code
        where = f"{self.shown} (HTTP {status}, model {self.model})"
        if status in _HINTS:
            return ConfigError("the LLM endpoint refused", where, _HINTS[status])
        said = self._endpoint.quoted(failure.response)
        said = f", saying “{said}”" if said else ""
        return RemoteError(f"the LLM endpoint refused{said}", where)

    def _read(self, response: httpx.Response) -> Reply:
        response.read()
        try:
            data = response.json()
            text = data["choices"][0]["message"]["content"] or ""
            usage = data.get("usage") or {}
            counts = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
            return Reply(text.strip(), *counts)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise RemoteError(
                "the LLM endpoint did not answer as the OpenAI API does",
                f"{self.shown} (HTTP {response.status_code})",
                "Set TWIN_LLM_URL to the base URL of an OpenAI-compatible API, with /v1",
            ) from None


def _format(schema: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": "pairs", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": named}


def json_in(text: str) -> Any:
    """The JSON object in a model's text, which may stand in a code block or behind words.

    Raises:
        ValueError: there is none.

    """
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            return decoder.raw_decode(text, at)[0]
        except (json.JSONDecodeError, RecursionError):
            at = text.find("{", at + 1)
    raise ValueError("there is no JSON object in the answer")
