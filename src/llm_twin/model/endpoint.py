"""An OpenAI-compatible endpoint that is asked for JSON, many times, by a job that may take long.

Unlike the answer path, which a reader waits for, it waits as long as a server asks it to within a
minute, and tries again after timeouts.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit, urlunsplit

from llm_twin.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx

    from llm_twin.settings import Settings

ATTEMPTS = 5
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
"""Seconds."""
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
        url = settings.llm_url.rstrip("/")
        try:
            parts = urlsplit(url)
            sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            sound = False
        if not sound:
            hint = "Set it like http://127.0.0.1:11434/v1"
            raise ConfigError("the LLM endpoint's address is not a URL", "TWIN_LLM_URL", hint)
        if not (settings.llm_key.isascii() and (settings.llm_key + "x").isprintable()):
            what = "the LLM key holds characters that no key has"
            raise ConfigError(what, "TWIN_LLM_KEY", "Copy it again")
        if not settings.llm_timeout > 0:
            raise ConfigError(
                "the LLM timeout is not above zero", "TWIN_LLM_TIMEOUT", "Set it like 60"
            )
        return cls(url, model, settings.llm_key, settings.llm_timeout)

    @property
    def shown(self) -> str:
        """The address as it may be printed: without a password or query."""
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        return f"{urlunsplit(parts._replace(netloc=host, query=''))}/chat/completions"

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
                return self._insisted({**body, "response_format": _format(schema)})
            except _NotStructuredError:
                self.structured = False
        return self._insisted(body)

    def _insisted(self, body: dict[str, Any]) -> Reply:
        import httpx

        failure: RemoteError | None = None
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        with httpx.Client(timeout=self.timeout, headers=headers) as client:
            for attempt in range(1, ATTEMPTS + 1):
                wait = FIRST_PAUSE * 2 ** (attempt - 1)
                try:
                    response = client.post(f"{self.url}/chat/completions", json=body)
                except httpx.TimeoutException:
                    failure = self._failed(f"did not answer within {self.timeout:g} s")
                except httpx.TransportError as error:
                    failure = self._failed(f"cannot be reached ({type(error).__name__})")
                else:
                    if response.status_code < 400:
                        return self._read(response)
                    failure = self._refused(response, "response_format" in body)
                    wait = max(wait, _asked_pause(response))
                if attempt < ATTEMPTS:
                    self.pause(min(wait, LONGEST_PAUSE))
        assert failure is not None
        raise failure

    def _failed(self, how: str) -> RemoteError:
        hint = "What it wrote so far is kept; try again later"
        return RemoteError(f"the LLM endpoint {how}, {ATTEMPTS} times", self.shown, hint)

    def _refused(self, response: httpx.Response, structured: bool) -> RemoteError:
        """What to raise if it goes on like that; raise at once what will not pass."""
        status = response.status_code
        if status == 429 or status >= 500:
            return self._failed(f"failed (HTTP {status})")
        if structured and status in _NOT_STRUCTURED:
            raise _NotStructuredError
        where = f"{self.shown} (HTTP {status}, model {self.model})"
        if status in _HINTS:
            raise ConfigError("the LLM endpoint refused", where, _HINTS[status])
        raise RemoteError(f"the LLM endpoint refused{self._said(response)}", where)

    def _said(self, response: httpx.Response) -> str:
        """The server's own words, short and without the key, or ""."""
        try:
            message = " ".join(str(response.json()["error"]["message"]).split())
        except (ValueError, KeyError, TypeError):
            return ""
        message = message.replace(self.key, "…") if self.key else message
        return f", saying “{message[:160]}”"

    def _read(self, response: httpx.Response) -> Reply:
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


class _NotStructuredError(Exception):
    """The server does not know structured output."""


def _format(schema: Mapping[str, Any]) -> dict[str, Any]:
    named = {"name": "pairs", "strict": True, "schema": schema}
    return {"type": "json_schema", "json_schema": named}


def _asked_pause(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, 0 when it does not say."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0


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
