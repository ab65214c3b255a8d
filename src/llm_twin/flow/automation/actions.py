"""What an automation does: run a flow, raise an alert, call a webhook."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, FlowError
from llm_twin.flow.automation.words import declared_at
from llm_twin.flow.policy import Backoff, Retry

if TYPE_CHECKING:
    from collections.abc import Mapping

SEVERITIES = ("info", "warning", "error", "critical")
CALL_RETRY = Retry(5) + Backoff(initial=1, limit=60)
CALL_SECONDS = 10


@dataclass(frozen=True)
class FromPayload:
    """See ``from_payload``."""

    path: str
    default: Any = None

    def get(self, payload: Mapping[str, Any]) -> Any:
        """The value at the path.

        Raises:
            FlowError: it is not there, and there is no default.

        """
        found: Any = payload
        for name in self.path.split("."):
            found = found.get(name) if isinstance(found, dict) else None
        found = self.default if found is None else found
        if found is None:
            raise FlowError("the payload has no such value", self.path)
        return found


@dataclass(frozen=True)
class RunFlow:
    """See ``run_flow``."""

    flow: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join(["run", self.flow, *(f"{k}={v}" for k, v in self.parameters.items())])

    def given(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """The parameters, those from the payload filled in."""
        return {
            name: value.get(payload) if isinstance(value, FromPayload) else value
            for name, value in self.parameters.items()
        }


@dataclass(frozen=True)
class Alert:
    """See ``alert``."""

    text: str
    severity: str

    def __str__(self) -> str:
        return f"alert {self.severity}: {self.text}"


@dataclass(frozen=True)
class CallWebhook:
    """See ``call_webhook``."""

    url: str
    url_env: str
    secret_env: str

    def __str__(self) -> str:
        return f"call {self.url or '$' + self.url_env}"

    def send(self, idempotency_key: str, message: Mapping[str, Any]) -> str:
        """POST the message once; return "" when it was taken (2xx), else what went wrong.

        Raises:
            ConfigError: the address or the secret is not set.

        """
        import urllib.request
        from http.client import HTTPException

        class StayPut(urllib.request.HTTPRedirectHandler):
            def redirect_request(self, *_: object) -> None:
                """Following would turn the POST into a GET and lose the message."""

        body = json.dumps(message).encode()
        headers = {"Content-Type": "application/json", "Idempotency-Key": idempotency_key}
        if self.secret_env:
            headers["X-Hub-Signature-256"] = signature(secret(self.secret_env), body)
        url = web_address(self.url or secret(self.url_env).decode())
        request = urllib.request.Request(url, body, headers)  # noqa: S310
        try:
            with urllib.request.build_opener(StayPut).open(request, timeout=CALL_SECONDS):
                return ""
        except (OSError, ValueError, HTTPException) as error:
            return f"{type(error).__name__}: {error}"


Action = RunFlow | Alert | CallWebhook


def run_flow(flow: str, **parameters: Any) -> RunFlow:
    """Run a flow; its parameters are values, or taken from what fired it with ``from_payload``."""
    return RunFlow(flow, parameters)


def from_payload(path: str, default: Any = None) -> FromPayload:
    """A value out of what fired the automation: ``from_payload("repository.name")``."""
    return FromPayload(path, default)


def alert(text: str, severity: str = "error") -> Alert:
    """Raise an alert: info, warning, error or critical."""
    if severity not in SEVERITIES:
        hint = f"Mend it in {declared_at()}: one of {', '.join(SEVERITIES)}"
        raise FlowError("no such severity", repr(severity), hint)
    return Alert(text, severity)


def call_webhook(url: str = "", *, url_env: str = "", secret_env: str = "") -> CallWebhook:
    """POST what happened as JSON, at least once, until the answer is 2xx; five attempts.

    Args:
        url: where to.
        url_env: the environment variable that holds the address, when it is a secret.
        secret_env: the variable with the secret to sign with, as GitHub does.

    """
    if bool(url) == bool(url_env):
        hint = f"Mend it in {declared_at()}: either an address or url_env"
        raise FlowError("a webhook to call needs one address", url, hint)
    if url:
        web_address(url)
    return CallWebhook(url, url_env, secret_env)


def web_address(url: str) -> str:
    """The same address, if it is one of the web.

    Raises:
        FlowError: it is not; its path, which can be secret, is not shown.

    """
    if not url.startswith(("http://", "https://")):
        raise FlowError("not a web address", url[:8] + "...", "Begin it with https://")
    return url


def secret(variable: str) -> bytes:
    """The value of an environment variable that has to be set.

    Raises:
        ConfigError: it is not.

    """
    found = os.environ.get(variable, "")
    if not found:
        raise ConfigError("a secret is not set", variable, f"Type: export {variable}=...")
    return found.encode()


def signature(key: bytes, body: bytes) -> str:
    """GitHub's signature of a body: ``sha256=`` and its HMAC in hex."""
    import hashlib
    import hmac

    return "sha256=" + hmac.new(key, body, hashlib.sha256).hexdigest()
