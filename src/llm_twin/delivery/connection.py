"""HTTP to one registry: where it is, whom it trusts, and a login when it asks for one.

On urllib3, which is under every SDK here and takes a third of their time to import: asking whether
an image is there is all that ``invoke build-push`` does when nothing changed.
"""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urljoin, urlsplit

from llm_twin.delivery.credentials import IDENTITY, Credentials, find_credentials
from llm_twin.delivery.reference import HUB, HUB_API, is_loopback
from llm_twin.delivery.refusals import explain
from llm_twin.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import urllib3

    from llm_twin.delivery.credentials import Login

CERTIFICATES = Path("/etc/docker/certs.d")
CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
PASSING = (429, 502, 503, 504)
LONGEST_PAUSE = 10  # seconds; a registry that asks for a longer pause is waited for so long


class Connection:
    """One registry over HTTP. Reads are tried again when a failure may pass; writes are not.

    Args:
        host: with its port if it has one.
        login: gives the credentials; called again once when they are refused. Default: those
            that ``docker login`` has stored.
        ca: file of a certificate authority to trust beside the system's. Default: what the
            engine trusts for this host, ``/etc/docker/certs.d/<host>/ca.crt``.
        plain_http: leave TLS out also for a registry that is not on this machine.
        timeout: seconds to wait for each answer.

    """

    def __init__(
        self,
        host: str,
        login: Login | None = None,
        *,
        ca: Path | None = None,
        plain_http: bool = False,
        timeout: float = 20.0,
    ) -> None:
        self.host = host
        self._login = login or (lambda: find_credentials(host))
        self._credentials: Credentials | None = None
        self._authorization = ""
        if ca is None and (trusted := CERTIFICATES / host / "ca.crt").is_file():
            ca = trusted
        scheme = "http" if plain_http or (is_loopback(host) and ca is None) else "https"
        self.url = f"{scheme}://{HUB_API if host == HUB else host}"
        self._ca = ca
        self._timeout = timeout
        self._pool: urllib3.PoolManager | None = None

    def credentials(self, anew: bool = False) -> Credentials | None:
        """What to log in with, fetched once, or ``anew`` after it was refused."""
        if anew or self._credentials is None:
            self._credentials = self._login()
        return self._credentials

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        good: tuple[int, ...] = (200,),
        where: object = "",
    ) -> urllib3.BaseHTTPResponse:
        """Make a request, logging in where that is wanted and once more where it is refused.

        Args:
            method: of HTTP.
            path: on this registry, or a whole address that it gave.
            body: sent again after a login.
            headers: beside the authorization.
            good: statuses that are no failure.
            where: what the request is about, for the message; default: the host.

        Raises:
            TwinError: the registry cannot be reached or refuses; the message says why.

        """
        url = urljoin(self.url, path)
        headers = headers or {}
        answer = self._send(method, url, body, headers)
        for last in (False, True):
            # ECR says 403 for an old token, and to a HEAD without a word.
            old = answer.status == 403 and self._authorization.startswith("Basic")
            if not (answer.status == 401 or old):
                break
            if not self._log_in(answer, anew=last or bool(self._authorization)):
                break
            answer = self._send(method, url, body, headers)
        if answer.status in good:
            return answer
        raise explain(f"{answer.status} {_words(answer)}", self.host, where)

    def _send(
        self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
    ) -> urllib3.BaseHTTPResponse:
        from urllib3.exceptions import HTTPError

        if self._pool is None:
            self._pool = _pool(self.url, self._ca, self._timeout)
        if self._authorization and urlsplit(url).netloc == urlsplit(self.url).netloc:
            headers = {**headers, "Authorization": self._authorization}
        try:
            return self._pool.request(
                method, url, body=body, headers=headers, redirect=method != "HEAD"
            )
        except HTTPError as error:
            raise explain(str(error), self.host) from None

    def _log_in(self, answer: urllib3.BaseHTTPResponse, anew: bool) -> bool:
        """Get an authorization as the registry's answer wants it; whether it is another one."""
        before, self._authorization = self._authorization, ""
        challenge = answer.headers.get("WWW-Authenticate", "")
        credentials = self.credentials(anew)
        if challenge.lower().startswith("bearer"):
            self._authorization = self._token(dict(CHALLENGE.findall(challenge)), credentials)
        elif credentials is None:
            raise explain("wants a login", self.host)
        else:
            self._authorization = credentials.basic
        return self._authorization != before

    def _token(self, wanted: dict[str, str], credentials: Credentials | None) -> str:
        """What the registry's token server gives for a scope."""
        realm = wanted.pop("realm", "")
        parts = urlsplit(realm)
        if parts.scheme != "https" and not is_loopback(parts.netloc):
            raise RemoteError("the registry's token server has no TLS", realm or self.host)
        wanted = {key: wanted[key] for key in ("service", "scope") if key in wanted}
        if credentials and credentials.username == IDENTITY:
            form = {**wanted, "grant_type": "refresh_token", "client_id": "llm-twin"}
            body = urlencode({**form, "refresh_token": credentials.password}).encode()
            kind = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._send("POST", realm, body, kind)
        else:
            basic = {"Authorization": credentials.basic} if credentials else {}
            answer = self._send("GET", f"{realm}?{urlencode(wanted)}", None, basic)
        if answer.status != 200:
            raise explain(f"{answer.status} {_words(answer)}", self.host, realm)
        try:
            found = json.loads(answer.data)
            return f"Bearer {found.get('token') or found['access_token']}"
        except (ValueError, LookupError, AttributeError):
            raise RemoteError("the registry's token server gave no token", realm) from None


def _pool(url: str, ca: Path | None, timeout: float) -> urllib3.PoolManager:
    from urllib.request import getproxies, proxy_bypass

    import urllib3

    parts = urlsplit(url)
    retries = urllib3.Retry(
        3,
        connect=1,
        status_forcelist=PASSING,
        allowed_methods=("GET", "HEAD"),
        backoff_factor=0.2,
        raise_on_status=False,
        retry_after_max=LONGEST_PAUSE,
    )
    options: dict[str, Any] = {"timeout": timeout, "retries": retries, "ssl_context": _trust(ca)}
    proxy = getproxies().get(parts.scheme)
    if proxy and not is_loopback(parts.netloc) and not proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy, **options)
    return urllib3.PoolManager(**options)


def _trust(ca: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca:
        try:
            context.load_verify_locations(ca)
        except OSError as error:
            raise ConfigError(
                f"the registry's CA certificate cannot be read ({type(error).__name__})", ca
            ) from None
    return context


def _words(answer: urllib3.BaseHTTPResponse) -> str:
    """A registry's complaint as the engine would print it: ``name unknown: …``."""
    try:
        first = json.loads(answer.data)["errors"][0]
        code = str(first.get("code", "")).lower().replace("_", " ")
        detail = first.get("detail") or ""
        return f"{code}: {first.get('message', '')} {json.dumps(detail) if detail else ''}"
    except (ValueError, LookupError, TypeError, AttributeError):
        return str(answer.data[:200].decode("utf-8", "replace"))
