"""User and password of a registry, from where ``docker login`` keeps them; nothing is ever written.

The SDK can read them too, but its import alone takes half of what ``invoke build-push`` may take
when nothing changed, and it waits for a credential helper for ever.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.reference import HUB
from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HELPER_SECONDS = 30
HUB_KEY = "https://index.docker.io/v1/"
# What credential helpers call a user whose password is an identity token.
IDENTITY = "<token>"


@dataclass(frozen=True)
class Credentials:
    """What a registry, or the server that gives out its tokens, is told.

    Attributes:
        username: ``<token>`` where the password is an identity token.
        password: never printed.

    """

    username: str
    password: str = field(repr=False)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()

    @property
    def for_engine(self) -> dict[str, str]:
        """As the engine wants them with a push or a pull."""
        if self.username == IDENTITY:
            return {"identitytoken": self.password}
        return {"username": self.username, "password": self.password}


if TYPE_CHECKING:
    Login = Callable[[], Credentials | None]


def find_credentials(host: str, environ: Mapping[str, str] | None = None) -> Credentials | None:
    """What ``docker login`` has stored for a registry's host; None if nothing.

    Raises:
        ConfigError: docker's ``config.json`` cannot be read, or its credential helper failed.

    """
    environ = os.environ if environ is None else environ
    home = environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or Path.home(), ".docker")
    path = Path(home, "config.json")
    config = _read(path)
    key = HUB_KEY if host == HUB else host
    helper = _table(config, "credHelpers").get(key) or config.get("credsStore")
    stored = _ask(str(helper), key, environ) if helper else None
    if stored is None:
        entries = _table(config, "auths")
        stored = _decode(entries.get(key) or entries.get(f"https://{key}") or {}, path)
    return stored


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"docker's settings cannot be read ({type(error).__name__})", path, "Correct the file"
        ) from None
    return found if isinstance(found, dict) else {}


def _table(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def _decode(entry: Mapping[str, str], path: Path) -> Credentials | None:
    if token := entry.get("identitytoken"):
        return Credentials(IDENTITY, token)
    try:
        text = base64.b64decode(entry.get("auth", ""), validate=True).decode()
    except ValueError:
        raise ConfigError(
            "docker's settings hold a login that cannot be read", path, "Type: docker login again"
        ) from None
    username, _, password = text.partition(":")
    return Credentials(username, password) if username else None


def _ask(helper: str, key: str, environ: Mapping[str, str]) -> Credentials | None:
    """What a credential helper knows; it says on standard output also that it knows nothing."""
    program = f"docker-credential-{helper}"
    try:
        done = subprocess.run(
            [program, "get"],
            input=key,
            env=dict(environ),
            capture_output=True,
            text=True,
            timeout=HELPER_SECONDS,
        )
        if done.returncode and "credentials not found" in done.stdout:
            return None
        found = json.loads(done.stdout)
        return Credentials(found["Username"], found["Secret"])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"docker's credential helper gave no answer ({type(error).__name__})",
            f"{program} for {key}",
            "Install it, or take it out of docker's config.json",
        ) from None
