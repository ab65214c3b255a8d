"""Any OpenAI-compatible chat endpoint: Ollama, vLLM, llama.cpp's server, or OpenAI itself."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.chat import Endpoint, FailedError, Patience, checked
from llm_twin.errors import ConfigError, RemoteError
from llm_twin.serving.hearing import listener
from llm_twin.serving.llm import Completion

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import httpx

    from llm_twin.serving.llm import Mode
    from llm_twin.settings import Settings

PATIENCE = Patience()

_SETTINGS = {
    401: "Set TWIN_LLM_KEY to a key that it accepts",
    403: "Set TWIN_LLM_KEY to a key that may use this model",
    404: "Set TWIN_LLM_URL to its base URL with /v1, and TWIN_LLM_MODEL to a model it serves",
}


@dataclass(frozen=True)
class OpenAILLM:
    """Asks ``<url>/chat/completions``; tries again after 429, 5xx and lost connections.

    Attributes:
        url: base URL, with ``/v1``.
        model: the name sent.
        key: sent as a bearer token when not empty; never printed.
        timeout: seconds to wait for an answer.
        pause: sleeps between attempts, given seconds.

    """

    url: str
    model: str
    key: str = field(default="", repr=False)
    timeout: float = 60.0
    pause: Callable[[float], None] = field(default=time.sleep, repr=False)
    mode: Mode = "openai"
    prompt: str = "answer"
    note: str = ""

    @classmethod
    def open(cls, settings: Settings) -> OpenAILLM:
        """Check the settings; nothing is asked yet.

        Raises:
            ConfigError: the URL, the key, the timeout or the model is missing or malformed.

        """
        if not settings.llm_model:
            raise ConfigError(
                "no model is named for the LLM endpoint",
                "TWIN_LLM_MODEL",
                "Set it to a model that the endpoint serves",
            )
        url = checked(settings)
        return cls(url, settings.llm_model, settings.llm_key, settings.llm_timeout)

    def complete(self, system: str, user: str, max_tokens: int) -> Completion:
        """Ask once, or up to three times.

        Raises:
            ConfigError: the endpoint refuses the key, the model or the address.
            RemoteError: it does not answer, or not as the OpenAI API does.

        """
        body = {
            "model": self.model,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": user},
            ],
            "max_tokens": max_tokens,
        }
        if (hear := listener()) is None:
            return self._post(body, self._completion)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        began = time.perf_counter()
        return self._post(body, lambda response: self._streamed(response, hear, began))

    def _post(
        self, body: dict[str, object], read: Callable[[httpx.Response], Completion]
    ) -> Completion:
        try:
            return self._endpoint.post(body, read)
        except FailedError as failure:
            raise self._failed(failure) from None

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self.url, self.key, self.timeout, PATIENCE, self.pause)

    def _completion(self, response: httpx.Response) -> Completion:
        response.read()
        try:
            data: Any = response.json()
            text = data["choices"][0]["message"]["content"].strip()
            return Completion(
                text, str(data.get("model") or self.model), *_counts(data), _cost(data)
            )
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise self._strange(response) from None

    def _streamed(
        self, response: httpx.Response, hear: Callable[[str], None], began: float
    ) -> Completion:
        """Read the words as they come and tell them; some endpoints send them at once anyway."""
        import httpx

        if "text/event-stream" not in response.headers.get("content-type", ""):
            return self._completion(response)
        words: list[str] = []
        model, first, ended = self.model, 0.0, False
        counts: tuple[int, int] = (0, 0)
        cost: float | None = None
        try:
            for data in _events(response):
                model = str(data.get("model") or model)
                if data.get("usage"):
                    counts, cost = _counts(data), _cost(data)
                for choice in data["choices"]:
                    ended |= bool(choice.get("finish_reason"))
                    if word := (choice.get("delta") or {}).get("content"):
                        first = first or (time.perf_counter() - began) * 1000
                        words.append(word)
                        hear(word)
            if not ended:
                raise httpx.RemoteProtocolError("the stream was cut off")
        except (ValueError, KeyError, TypeError, AttributeError):
            raise self._strange(response) from None
        except httpx.TransportError as error:
            if not words:
                raise
            # Asked again, it would say anew what was told already.
            raise self._unreachable(type(error).__name__, 1) from None
        return Completion(
            "".join(words).strip(), model, *counts, cost, first_token_ms=round(first, 2)
        )

    def _strange(self, response: httpx.Response) -> RemoteError:
        return RemoteError(
            "the LLM endpoint did not answer as the OpenAI API does",
            f"{self._endpoint.shown} (HTTP {response.status_code})",
            "Set TWIN_LLM_URL to the base URL of an OpenAI-compatible API, with /v1",
        )

    def _failed(self, failure: FailedError) -> ConfigError | RemoteError:
        if failure.response is not None:
            return self._refused(failure.response)
        if failure.silent:
            return RemoteError(
                f"the LLM endpoint did not answer within {self.timeout:g} s",
                self._endpoint.shown,
                "Set TWIN_LLM_TIMEOUT higher, or see whether it is overloaded",
            )
        return self._unreachable(failure.why, PATIENCE.attempts)

    def _unreachable(self, why: str, attempts: int) -> RemoteError:
        return RemoteError(
            f"the LLM endpoint cannot be reached ({why}, {attempts} attempts)",
            self._endpoint.shown,
            "Start it, or set TWIN_LLM_URL",
        )

    def _refused(self, response: httpx.Response) -> ConfigError | RemoteError:
        status = response.status_code
        where = f"{self._endpoint.shown} (HTTP {status}, model {self.model})"
        if status in _SETTINGS:
            return ConfigError("the LLM endpoint refused", where, _SETTINGS[status])
        said = self._endpoint.quoted(response)
        what = f"the LLM endpoint failed, saying “{said}”" if said else "the LLM endpoint failed"
        return RemoteError(what, where, "Try again later, or leave --llm out to get quotations")


def _counts(data: Any) -> tuple[int, int]:
    usage = data.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)


def _cost(data: Any) -> float | None:
    """In US dollars, where the endpoint says so, as routers in front of several models do."""
    cost = (data.get("usage") or {}).get("cost")
    return None if cost is None else float(cost)


def _events(response: httpx.Response) -> Iterator[Any]:
    """Yield the objects of a stream of server-sent events."""
    for line in response.iter_lines():
        name, _, text = line.partition(":")
        if name != "data":
            continue
        if text.strip() == "[DONE]":
            yield {"choices": [{"finish_reason": "stop"}]}
            return
        yield json.loads(text)
