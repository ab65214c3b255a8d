"""AWS credentials without static keys, and AWS's refusals in words that say what to do.

A GitHub job proves who it is with a token of its own and gets an hour's credentials for it, in
memory; botocore fetches new ones before they expire, so a push may take longer. Everywhere else
boto3's own chain is used: profiles, SSO, instance roles.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llm_twin.delivery.aws_policies import SESSION
from llm_twin.delivery.aws_scope import AUDIENCE, ISSUER, ROLE, ROLE_EXAMPLE
from llm_twin.errors import ConfigError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llm_twin.settings import Settings

TIMEOUT = 10  # seconds for one answer of GitHub's token service
PERMISSION = "Give the job `permissions: {id-token: write, contents: read}` in the workflow"
LOG_IN = (
    "Type: aws sso login, or set AWS_PROFILE; in a GitHub job set TWIN_AWS_ROLE to the role's ARN"
)
CLOCK = "Set the machine's clock, for example with: timedatectl set-ntp true"
OUTDATED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidClientTokenId",
    "UnrecognizedClientException",
}
CLOCK_WORDS = re.compile(r"signature expired|not yet (current|valid)|skew|must be before", re.I)


def session(
    settings: Settings, *, region: str = "", environ: Mapping[str, str] | None = None
) -> Any:
    """Return a ``boto3.Session`` whose credentials work now and renew themselves.

    Args:
        settings: ``aws_role`` is taken on in a GitHub job, then ``aws_assume_role`` anywhere.
        region: where to talk to; default: as ``find_region`` says.
        environ: default: this process's environment.

    Raises:
        ConfigError: no credentials, no region, or a role that may not be taken on.
        RemoteError: GitHub or AWS did not answer.

    """
    import boto3.session  # type: ignore[import-untyped]

    environ = os.environ if environ is None else environ
    region = find_region(settings, region, environ)
    with plain_errors():
        core = _core(region)
        if settings.aws_role and environ.get("GITHUB_ACTIONS") == "true":
            core = _core(region, _by_token(core, _checked(settings.aws_role, "ROLE"), environ))
        if settings.aws_assume_role:
            role = _checked(settings.aws_assume_role, "ASSUME_ROLE")
            core = _core(region, _by_role(core, role, environ))
        _found(core).get_frozen_credentials()
    return boto3.session.Session(botocore_session=core)


def find_region(
    settings: Settings, given: str = "", environ: Mapping[str, str] | None = None
) -> str:
    """Return the region given, that of the settings, of ``AWS_REGION``, or of boto3's own files.

    Raises:
        ConfigError: there is none.

    """
    environ = os.environ if environ is None else environ
    # boto3 itself reads only AWS_DEFAULT_REGION; other SDKs and GitHub's actions set AWS_REGION.
    region = given or settings.aws_region or environ.get("AWS_REGION", "")
    with plain_errors():
        region = region or _core("").get_config_variable("region") or ""
    if not region:
        raise ConfigError("no AWS region is set", hint="Set it like TWIN_AWS_REGION=eu-central-1")
    return region


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what boto3 raises inside into one plain sentence."""
    from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
    from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

    try:
        yield
    except ClientError as error:
        raise refusal(error) from None
    except ResponseParserError:
        hint = "Check the proxy and AWS_ENDPOINT_URL"
        raise RemoteError("something that is not AWS answered", hint=hint) from None
    except BotoCoreError as error:
        raise _trouble(error) from None


def refusal(error: Any) -> TwinError:
    """What AWS's answer to a request means, given as a ``ClientError``."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    where = error.operation_name
    if CLOCK_WORDS.search(message):
        return ConfigError("AWS and this machine do not agree on the time", where, CLOCK)
    if missing := re.search(
        r"not authorized to perform:? ([\w-]+:\w+)(?: on resource: (\S+))?", message
    ):
        what = f"these AWS credentials lack the permission {missing[1]}"
        return ConfigError(what, (missing[2] or where).rstrip(".,"), "Add it to their policy")
    if code in OUTDATED:
        return ConfigError("AWS does not accept these credentials any more", where, LOG_IN)
    if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400) >= 500:
        return RemoteError(f"AWS failed with {code}", where, "Try again in a minute")
    return TwinError(f"AWS refused with {code}", where, message)


def _trouble(error: Exception) -> TwinError:
    kind = type(error).__name__
    if kind in ("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"):
        where = error.kwargs.get("endpoint_url", "")  # type: ignore[attr-defined]
        return RemoteError("AWS does not answer", where, "Check the network and TWIN_AWS_REGION")
    return ConfigError(f"AWS cannot be used ({kind})", str(error).rstrip("."), LOG_IN)


def _checked(role: str, name: str) -> str:
    if not re.fullmatch(ROLE, role):
        raise ConfigError(
            f"TWIN_AWS_{name} is not the ARN of a role", repr(role), f"Set it like {ROLE_EXAMPLE}"
        )
    return role


def _core(region: str, refresh: Callable[[], Any] | None = None) -> Any:
    """A botocore session; with ``refresh`` its credentials come from there and nowhere else."""
    from botocore.credentials import (  # type: ignore[import-untyped]
        CredentialProvider,
        CredentialResolver,
        DeferredRefreshableCredentials,
    )
    from botocore.session import get_session  # type: ignore[import-untyped]

    core = get_session()
    if region:
        core.set_config_variable("region", region)
    if refresh:
        provider = CredentialProvider()
        provider.METHOD = "llm-twin"
        provider.load = lambda: DeferredRefreshableCredentials(refresh, provider.METHOD)
        core.register_component("credential_provider", CredentialResolver([provider]))
    return core


def _found(core: Any) -> Any:
    found = core.get_credentials()
    if found is None:
        raise ConfigError("no AWS credentials were found", hint=LOG_IN)
    return found


def _taking(environ: Mapping[str, str]) -> dict[str, Any]:
    """How a role is taken on: the name shows up in CloudTrail and leads back to the job."""
    run = "-".join(environ.get(f"GITHUB_RUN_{part}", "") for part in ("ID", "ATTEMPT")).strip("-")
    return {"RoleSessionName": f"llm-twin-{run or os.getpid()}", "DurationSeconds": SESSION}


def _by_token(core: Any, role: str, environ: Mapping[str, str]) -> Callable[[], Any]:
    from botocore.credentials import AssumeRoleWithWebIdentityCredentialFetcher
    from botocore.exceptions import ClientError

    token = JobToken(environ)
    fetcher = AssumeRoleWithWebIdentityCredentialFetcher(
        core.create_client, token.fetch, role, _taking(environ)
    )

    def fetch() -> Any:
        with plain_errors():
            try:
                return fetcher.fetch_credentials()
            except ClientError as error:
                raise _distrust(error, role, token.claims) from None

    return fetch


def _by_role(core: Any, role: str, environ: Mapping[str, str]) -> Callable[[], Any]:
    from botocore.credentials import AssumeRoleCredentialFetcher

    fetcher = AssumeRoleCredentialFetcher(core.create_client, _found(core), role, _taking(environ))

    def fetch() -> Any:
        with plain_errors():
            return fetcher.fetch_credentials()

    return fetch


def _distrust(error: Any, role: str, claims: Mapping[str, Any]) -> TwinError:
    """Why a job's token got no credentials."""
    code, message = error.response["Error"]["Code"], error.response["Error"].get("Message", "")
    if code == "AccessDenied":
        subject = claims.get("sub", "unknown")
        return ConfigError(
            f"the role does not exist or does not trust this job, whose subject is {subject}",
            role,
            f'Its trust policy needs the line "{ISSUER}:sub": "{subject}". {_bootstrap(claims)}',
        )
    if code == "InvalidIdentityToken" and "audience" in message.lower():
        return ConfigError(
            f"AWS does not expect the token's audience {claims.get('aud')}",
            role,
            f"Add {AUDIENCE} to the audiences of the provider {ISSUER} and to the trust policy",
        )
    if code == "InvalidIdentityToken" and "provider found" in message:
        what = f"the role's account has no provider for {ISSUER}"
        return ConfigError(what, role, _bootstrap(claims))
    return refusal(error)


def _bootstrap(claims: Mapping[str, Any]) -> str:
    """The line that makes the roles for the repository that a token is of."""
    line = f"Type: invoke aws.bootstrap --repository {claims.get('repository', 'owner/name')}"
    if "@" not in claims.get("sub", ""):
        return line
    owner, repository = (claims.get(f"repository_{name}") for name in ("owner_id", "id"))
    return f"{line} --owner-id {owner} --repository-id {repository}"


class JobToken:
    """GitHub's token for the job that runs here. It is held in no file and shown in no message.

    Attributes:
        claims: what the token last fetched says; AWS checks its signature, this class does not.

    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.claims: Mapping[str, Any] = {}

    def fetch(self) -> str:
        """Ask GitHub for a token; it lives for minutes, so each renewal asks again.

        Raises:
            ConfigError: the workflow may not have one.
            RemoteError: GitHub's token service did not give one.

        """
        url = self._environ.get("ACTIONS_ID_TOKEN_REQUEST_URL", "")
        bearer = self._environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
        if not (url and bearer):
            job = self._environ.get("GITHUB_WORKFLOW_REF") or self._environ.get("GITHUB_JOB", "")
            raise ConfigError("this job may not ask GitHub for an identity token", job, PERMISSION)
        token = _ask(url, bearer)
        self.claims = _claims(token)
        return token


def _ask(url: str, bearer: str) -> str:
    import requests
    from urllib3.util import Retry

    host = urlsplit(url).netloc
    retry = Retry(
        2, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), raise_on_status=False
    )
    with requests.Session() as http:
        http.mount(url, requests.adapters.HTTPAdapter(max_retries=retry))
        try:
            answer = http.get(
                url,
                params={"audience": AUDIENCE},
                headers={"Authorization": f"Bearer {bearer}"},
                timeout=TIMEOUT,
            )
        except requests.RequestException as error:
            what = f"GitHub's token service cannot be reached ({type(error).__name__})"
            raise RemoteError(what, host, "Run the job again") from None
    if answer.status_code in (401, 403):
        raise ConfigError("GitHub gives this job no identity token", host, PERMISSION)
    try:
        return str(answer.json()["value"])
    except (ValueError, KeyError, TypeError):
        what = f"GitHub's token service answered {answer.status_code} and no token"
        raise RemoteError(what, host, "Run the job again") from None


def _claims(token: str) -> Mapping[str, Any]:
    try:
        body = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (IndexError, ValueError, binascii.Error):
        return {}
    return claims if isinstance(claims, dict) else {}
