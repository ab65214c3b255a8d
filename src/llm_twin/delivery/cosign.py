"""Sign images and what is attached to them, and check signatures, with the ``cosign`` command.

With a key nothing leaves for a public log; without one a GitHub job signs with its own identity.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.delivery.reference import is_loopback
from llm_twin.errors import ConfigError, NotReadyError, RemoteError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llm_twin.delivery.credentials import Credentials
    from llm_twin.delivery.reference import Reference
    from llm_twin.delivery.registry import Registry

SECONDS = 120
GITHUB = "https://token.actions.githubusercontent.com"
HELPER = "docker-credential-twin"
INSTALL = "Install it (apt install cosign on Debian 13), or unset what asks for signatures"


@dataclass(frozen=True)
class Signer:
    """What to sign with, or to check signatures by.

    Attributes:
        key: a key file, or an address that cosign knows (``awskms://…``). The private one to sign,
            the public one to verify.
        identity: without a key: the workflow that signed, like
            ``https://github.com/owner/name/.github/workflows/cd.yml@refs/heads/main``. Only to
            verify; to sign it is the job's own.

    """

    key: str = ""
    identity: str = ""

    def sign(self, registry: Registry, refs: Iterable[Reference]) -> None:
        """Sign digests; the password of a key is read from ``COSIGN_PASSWORD``.

        Raises:
            NotReadyError: cosign is not installed.
            ConfigError: a reference has no digest.
            RemoteError: cosign failed; the message is its own.

        """
        how = ["--key", self.key, "--tlog-upload=false"] if self.key else []
        for ref in refs:
            _cosign(["sign", "--yes", *how], registry, ref)

    def verify(self, registry: Registry, ref: Reference) -> None:
        """Check the signature of a digest; errors as for ``sign``."""
        how = ["--key", self.key, "--insecure-ignore-tlog=true"] if self.key else [
            "--certificate-identity", self.identity, "--certificate-oidc-issuer", GITHUB
        ]  # fmt: skip
        _cosign(["verify", *how], registry, ref)


def find_signer(key: str, keyless: bool, environ: Mapping[str, str]) -> Signer | None:
    """What to sign with: a key, ``COSIGN_KEY``, or a GitHub job's identity; None if nothing is set.

    Raises:
        ConfigError: signing without a key is asked for where there is no identity.

    """
    if key := key or environ.get("COSIGN_KEY", ""):
        return Signer(key)
    if keyless and "ACTIONS_ID_TOKEN_REQUEST_URL" not in environ:
        raise ConfigError(
            "Only a GitHub job can sign without a key",
            "TWIN_COSIGN_KEYLESS",
            "Give the job the permission id-token: write, or set TWIN_COSIGN_KEY",
        )
    return Signer() if keyless else None


def _cosign(arguments: list[str], registry: Registry, ref: Reference) -> None:
    if not ref.digest:
        raise ConfigError("only a digest is signed, a tag may move", ref)
    plain = ["--allow-http-registry"] if is_loopback(ref.host) else []
    with _login(ref.host, registry.connection.credentials()) as environment:
        try:
            done = subprocess.run(
                ["cosign", *arguments, *plain, str(ref)], env=environment, timeout=SECONDS,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except FileNotFoundError:
            raise NotReadyError("cosign is not installed", arguments[0], INSTALL) from None
        except subprocess.TimeoutExpired:
            raise RemoteError(f"cosign did not end within {SECONDS} s", ref) from None
    if done.returncode:
        raise RemoteError(f"cosign {arguments[0]} failed ({_reason(done.stderr)})", ref)


def _reason(text: str) -> str:
    lines = [line for line in text.splitlines() if line.startswith(("Error:", "error "))]
    said = (lines or text.splitlines() or ["without a word"])[0].removeprefix("Error: ")
    if "decrypt" in said or "password" in said or "inappropriate ioctl" in said:
        said += "; is COSIGN_PASSWORD the key's?"
    return said[:300]


@contextlib.contextmanager
def _login(host: str, credentials: Credentials | None) -> Iterator[dict[str, str]]:
    """The environment in which cosign finds the login, and no file holds it.

    cosign asks docker's credential helpers; ours answers from its own environment.
    """
    if credentials is None:
        yield {**os.environ}
        return
    with tempfile.TemporaryDirectory(prefix="twin-cosign-") as folder:
        (Path(folder) / "config.json").write_text(json.dumps({"credHelpers": {host: "twin"}}))
        helper = Path(folder) / HELPER
        helper.write_text("#!/bin/sh\nprintf '%s' \"$TWIN_COSIGN_LOGIN\"\n")
        helper.chmod(0o700)
        login = {
            "ServerURL": host,
            "Username": credentials.username,
            "Secret": credentials.password,
        }
        yield {
            **os.environ,
            "DOCKER_CONFIG": folder,
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', '')}",
            "TWIN_COSIGN_LOGIN": json.dumps(login),
        }
