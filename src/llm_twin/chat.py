"""What every caller of an OpenAI-compatible chat endpoint shares: one question, tried again.

What is asked and what an answer means is the callers' business; so are the words of an error.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit, urlunsplit

from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from llm_twin.settings import Settings

Read = TypeVar("Read")
LONGEST_SAID = 160


@dataclass(frozen=True)
class Patience:
    """How long a caller goes on.

    Attributes:
        attempts: in all.
        first: seconds before the second attempt; before each later one twice as long.
        longest: seconds to wait at most.
        for_long: ask again after a timeout too, and after ``longest`` where a server asks for a
            longer pause; otherwise either is the end, because somebody waits.

    """

    attempts: int = 3
    first: float = 0.5
    longest: float = 10.0
    for_long: bool = False


class FailedError(Exception):
    """No answer was had; callers say it in their own words.

    Attributes:
        why: for a person, such as ``ConnectError`` or ``HTTP 503``.
        response: what was said instead, already read; None where nothing came.
        silent: nothing came in time.

    """

    def __init__(
        self, why: str, response: httpx.Response | None = None, *, silent: bool = False
    ) -> None:
        super().__init__(why)
        self.why, self.response, self.silent = why, response, silent

    @property
    def passing(self) -> bool:
        """Whether the same question may be answered later."""
        return self.response is None or is_passing(self.response.status_code)


@dataclass(frozen=True)
class Endpoint:
    """Where to ask.

    Attributes:
        url: base URL, with ``/v1``.
        key: sent as a bearer token when not empty.
        timeout: seconds to wait for an answer.
        patience: with failures.
        pause: sleeps, given seconds.

    """

    url: str
    key: str = ""
    timeout: float = 60.0
    patience: Patience = Patience()
    pause: Callable[[float], None] = time.sleep

    def post(
        self,
        body: dict[str, object],
        read: Callable[[httpx.Response], Read],
        before: Callable[[], None] = lambda: None,
    ) -> Read:
        """Ask ``<url>/chat/completions``; tries again after 429, 5xx and lost connections.

        Args:
            body: of the request.
            read: makes the result of a response below 300, which may still be coming in.
            before: called ahead of each attempt.

        Raises:
            FailedError: nothing was to be had.

        """
        import httpx

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        patience = self.patience
        with httpx.Client(timeout=self.timeout, headers=headers) as client:
            for attempt in range(1, patience.attempts + 1):
                before()
                wait = patience.first * 2 ** (attempt - 1)
                try:
                    with client.stream(
                        "POST", f"{self.url}/chat/completions", json=body
                    ) as response:
                        if response.status_code < 300:
                            return read(response)
                        response.read()
                    failure = FailedError(f"HTTP {response.status_code}", response)
                    wait = max(wait, _asked_pause(response))
                except httpx.TimeoutException:
                    failure = FailedError(f"silent for {self.timeout:g} s", silent=True)
                except httpx.TransportError as error:
                    failure = FailedError(type(error).__name__)
                in_vain = failure.silent or wait > patience.longest
                if not failure.passing or (in_vain and not patience.for_long):
                    raise failure
                if attempt < patience.attempts:
                    self.pause(min(wait, patience.longest))
        raise failure

    @property
    def shown(self) -> str:
        """The address that is asked, as it may be printed."""
        return f"{without_password(self.url)}/chat/completions"

    def quoted(self, response: httpx.Response) -> str:
        """The server's own words on an error, short and without the key, or ""."""
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            return ""
        text = " ".join(str(message).split())
        text = text.replace(self.key, "…") if self.key else text
        return text[:LONGEST_SAID]


def checked(settings: Settings) -> str:
    """Return the base URL of the LLM endpoint.

    Raises:
        ConfigError: it is none, or the key or the timeout cannot be used.

    """
    if not is_address(settings.llm_url):
        raise ConfigError(
            "the LLM endpoint's address is not a URL",
            "TWIN_LLM_URL",
            "Set it like http://127.0.0.1:11434/v1",
        )
    if not settings.llm_timeout > 0:
        raise ConfigError("the LLM timeout is not above zero", "TWIN_LLM_TIMEOUT", "Set it like 60")
    if not (settings.llm_key.isascii() and settings.llm_key.isprintable()):
        what = "the LLM key holds characters that no key has"
        raise ConfigError(what, "TWIN_LLM_KEY", "Copy it again")
    return settings.llm_url.rstrip("/")


def is_address(url: str) -> bool:
    """Whether an endpoint may be there."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def without_password(url: str) -> str:
    """Return the URL as it may be printed."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def is_passing(status: int) -> bool:
    """Whether the same question may be answered later."""
    return status == 429 or status >= 500


def _asked_pause(response: httpx.Response) -> float:
    """Seconds that the server asks to wait, 0 when it does not say."""
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else 0.0
