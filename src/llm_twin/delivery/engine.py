"""The container engine, found as the docker command finds it, and plain words when it is not there.

Where it is (``Address``) is read without the SDK, whose import alone takes longer than
``invoke build-push`` may when nothing changed; ``find_engine`` connects.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import socket
import ssl
import urllib.parse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError, NotReadyError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from docker import APIClient  # type: ignore[import-untyped]

DEFAULT_HOST = "unix:///var/run/docker.sock"
CONNECT_SECONDS = 15
# Any that the SDK accepts: the engine is then asked for its own.
FIRST_VERSION = "1.24"
# The SDK's own minute between two words of an answer is too short for the push of a large layer.
ANSWER_SECONDS = 900


START = "Start it: systemctl start docker, or dockerd as root"
UNUSABLE = "Set DOCKER_HOST like unix:///var/run/docker.sock or tcp://host:2376"
FORWARD = (
    "Forward its socket: ssh -nNTL /tmp/docker.sock:/var/run/docker.sock HOST, "
    "and set DOCKER_HOST=unix:///tmp/docker.sock"
)
CERTIFICATES = (
    "Set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to where ca.pem, cert.pem, key.pem are"
)
WORDS: tuple[tuple[type[BaseException], str, str], ...] = (
    (FileNotFoundError, "There is no container engine", START),
    (PermissionError, "You may not use the container engine",
     "Type: sudo usermod -aG docker $USER, and log in again"),
    (ConnectionRefusedError, "The container engine has ended and left its address behind", START),
    (socket.gaierror, "The container engine's host is unknown", "Check DOCKER_HOST"),
    (TimeoutError, "The container engine does not answer", "Look whether it is overloaded"),
)  # fmt: skip


@dataclass(frozen=True)
class Address:
    """Where an engine listens.

    Attributes:
        host: like ``unix:///var/run/docker.sock`` or ``tcp://host:2376``.
        certificates: the folder with ``ca.pem``, ``cert.pem`` and ``key.pem``, if it wants them.
        verify: whether its own certificate is checked.
        source: which variable or context said so.

    """

    host: str
    certificates: Path | None = None
    verify: bool = True
    source: str = "the default"

    def image(self, name: str) -> dict[str, Any]:
        """What is known of a local image, asked without the SDK on a Unix socket; empty if nothing.

        Raises:
            TwinError: the engine cannot be reached, or answered something else.

        """
        if not self.host.startswith("unix://"):
            return Engine.connect(self).image(name)
        connection = _UnixConnection(self.host.removeprefix("unix://"))
        try:
            connection.request("GET", f"/images/{urllib.parse.quote(name, safe='/:@')}/json")
            answer = connection.getresponse()
            found = json.load(answer)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise unreachable(error, self) from error
        finally:
            connection.close()
        if answer.status not in (200, 404):
            raise RemoteError("The engine gave no answer about an image", found.get("message", ""))
        return dict(found) if answer.status == 200 else {}

    def image_id(self, name: str) -> str:
        """The id of a local image; empty if there is none of that name; errors as ``image``."""
        return str(self.image(name).get("Id", ""))


@dataclass(frozen=True)
class Engine:
    """An engine that answers.

    Attributes:
        address: where.
        api: the SDK's client for it.

    """

    address: Address
    api: APIClient

    @classmethod
    def connect(cls, address: Address) -> Engine:
        """Ask the engine for its version.

        Raises:
            NotReadyError: nothing answers there, or this user may not ask.
            ConfigError: the address cannot be used.
            RemoteError: what answers is no engine.

        """
        import requests
        from docker import APIClient, errors

        if address.host.startswith("ssh://"):
            raise ConfigError("An engine behind ssh cannot be used directly", address.host, FORWARD)
        try:
            api = APIClient(address.host, FIRST_VERSION, CONNECT_SECONDS, _tls(address))
            # Else REQUESTS_CA_BUNDLE would count before the engine's own certificate authority.
            api.trust_env = False
            api._version = str(api.version(api_version=False)["ApiVersion"])
        except (errors.DockerException, requests.RequestException, ValueError, KeyError) as error:
            raise unreachable(error, address) from error
        api.timeout = ANSWER_SECONDS
        return cls(address, api)

    @property
    def url(self) -> str:
        """What the paths of the engine's API follow, version included."""
        return f"{self.api.base_url}/v{self.api.api_version}"

    def image(self, name: str) -> dict[str, Any]:
        """What is known of a local image; empty if there is none of that name."""
        from docker import errors

        try:
            return dict(self.api.inspect_image(name))
        except errors.ImageNotFound:
            return {}

    def image_id(self, name: str) -> str:
        """The id of a local image; empty if there is none of that name."""
        return str(self.image(name).get("Id", ""))

    def credentials(self, registry: str) -> tuple[str, str]:
        """User and password that ``docker login`` has stored for a registry; empty if none."""
        from docker import auth, errors

        try:
            found = auth.resolve_authconfig(self.api._auth_configs, registry) or {}
        except errors.DockerException as error:
            raise ConfigError(
                f"The credentials of {registry} could not be read ({error})",
                "docker's config.json",
                f"Type: docker logout {registry}",
            ) from error
        return found.get("username") or "", found.get("password") or ""

    def reclaimable(self) -> int:
        """Bytes of build cache that ``docker builder prune`` would free; 0 if nobody knows."""
        import requests
        from docker import errors

        try:
            cache = self.api.df().get("BuildCache") or ()
        except (errors.DockerException, requests.RequestException):
            return 0
        return sum(item["Size"] for item in cache if not (item["InUse"] or item.get("Shared")))


def find_engine(env: Mapping[str, str] | None = None) -> Engine:
    """Connect to the engine that ``find_address`` finds; errors as in ``Engine.connect``."""
    return Engine.connect(find_address(env))


def find_address(env: Mapping[str, str] | None = None) -> Address:
    """``DOCKER_HOST``, else ``DOCKER_CONTEXT`` or the current context, else the usual socket.

    Raises:
        ConfigError: the context does not exist or cannot be read.

    """
    env = os.environ if env is None else env
    if host := env.get("DOCKER_HOST"):
        folder = Path(env.get("DOCKER_CERT_PATH") or _folder(env)) if _wants_tls(env) else None
        return Address(host, folder, bool(env.get("DOCKER_TLS_VERIFY")), "DOCKER_HOST")
    name = env.get("DOCKER_CONTEXT") or _current_context(_folder(env) / "config.json")
    if name in ("", "default"):
        return Address(DEFAULT_HOST)
    return _context(name, _folder(env) / "contexts")


def unreachable(error: BaseException, address: Address) -> TwinError:
    """The error for an engine that did not answer, from what the connection said."""
    chain, text = _chain(error), str(error)
    where = f"{address.host} ({address.source})"
    for kind, what, hint in WORDS:
        if any(isinstance(link, kind) for link in chain):
            return NotReadyError(what, where, hint)
    if "bind address" in text.lower() or "protocol is only supported" in text:
        return ConfigError("The engine's address cannot be used", where, UNUSABLE)
    if any(isinstance(link, ssl.SSLError) for link in chain) or re.search("TLS|HTTPS", text):
        return ConfigError("The engine wants other certificates", where, CERTIFICATES)
    return RemoteError(
        f"Something that is no container engine answers ({_short(text)})",
        where,
        "Set DOCKER_HOST to the engine, or unset it",
    )


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _folder(env: Mapping[str, str]) -> Path:
    return Path(env.get("DOCKER_CONFIG") or Path(env.get("HOME") or Path.home()) / ".docker")


def _wants_tls(env: Mapping[str, str]) -> bool:
    return bool(env.get("DOCKER_TLS_VERIFY") or env.get("DOCKER_CERT_PATH"))


def _current_context(path: Path) -> str:
    return str(_json(path).get("currentContext", "")) if path.is_file() else ""


def _context(name: str, folder: Path) -> Address:
    digest = hashlib.sha256(name.encode()).hexdigest()
    meta = folder / "meta" / digest / "meta.json"
    if not meta.is_file():
        raise ConfigError(
            "There is no such docker context", name, "Type: docker context ls, docker context use"
        )
    endpoint = _json(meta).get("Endpoints", {}).get("docker", {})
    certificates = folder / "tls" / digest / "docker"
    return Address(
        str(endpoint.get("Host") or DEFAULT_HOST),
        certificates if certificates.is_dir() else None,
        not endpoint.get("SkipTLSVerify"),
        f"docker context {name}",
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"docker's settings cannot be read ({error})", path) from error
    return found if isinstance(found, dict) else {}


def _tls(address: Address) -> Any:
    from docker.tls import TLSConfig  # type: ignore[import-untyped]

    if address.certificates is None:
        return False
    ca, cert, key = (str(address.certificates / f"{name}.pem") for name in ("ca", "cert", "key"))
    return TLSConfig(
        client_cert=(cert, key),
        ca_cert=ca if address.verify else None,
        verify=address.verify,
    )


def _chain(error: BaseException) -> list[BaseException]:
    """The error, what caused it, and what the SDK's layers have put into its arguments."""
    seen: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        link = waiting.pop()
        if isinstance(link, BaseException) and link not in seen:
            seen.append(link)
            waiting += [link.__cause__, link.__context__, *link.args]
    return seen


def _short(text: str, limit: int = 120) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}…"
