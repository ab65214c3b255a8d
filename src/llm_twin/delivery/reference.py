"""Image names, read as docker reads them, so that a wrong one is refused before work begins."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from llm_twin.errors import ConfigError

HUB = "docker.io"
HUB_API = "registry-1.docker.io"  # docker.io itself is a web site
EXAMPLE = "Write it like localhost:5000/llm-twin:latest"
NAME_EXAMPLE = "Write it like llm-twin or team/llm-twin"
LONGEST_NAME = 255

HOST = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::\d{1,5})?")
PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, order=True)
class Reference:
    """Where an image is.

    Attributes:
        host: of the registry, with its port if it has one.
        name: of the repository in it, like ``team/llm-twin``.
        tag: a name that may move; empty where only the digest counts.
        digest: ``sha256:`` and 64 digits, or empty; names one content for ever.

    """

    host: str
    name: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``host:port/name:tag@sha256:…`` with docker's defaults.

        Without a host it is Docker Hub's (``library/`` where the name has one part only); without
        tag and digest the tag is ``latest``.

        Raises:
            ConfigError: it is no image name; the message says what is wrong with it.

        """
        if "://" in text:
            raise ConfigError("an image name has no scheme", repr(text), EXAMPLE)
        if re.fullmatch(r"[0-9a-f]{64}", text):
            raise ConfigError("an image name is wanted, not the id of an image", text, EXAMPLE)
        rest, at, digest = text.partition("@")
        if at and not DIGEST.fullmatch(digest):
            raise ConfigError("a digest is sha256: and 64 digits", repr(digest), EXAMPLE)
        host, path = _split(rest)
        name, _, tag = path.partition(":")
        if ":" in path and not TAG.fullmatch(tag):
            raise ConfigError(
                "a tag is up to 128 letters, digits, '.', '_' and '-'", repr(text), EXAMPLE
            )
        name = check_name(name, text)
        return cls(host, name, tag or ("" if digest else "latest"), digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{self.repository}{tag}" + (f"@{self.digest}" if self.digest else "")

    @property
    def repository(self) -> str:
        """Host and name, as the engine wants it beside a tag."""
        return f"{self.host}/{self.name}"

    @property
    def version(self) -> str:
        """What the registry is asked for: the digest where there is one, else the tag."""
        return self.digest or self.tag

    def tagged(self, tag: str) -> Reference:
        """The same repository, another tag and no digest.

        Raises:
            ConfigError: that is no tag.

        """
        if not TAG.fullmatch(tag):
            raise ConfigError("that is no tag of an image", repr(tag), EXAMPLE)
        return replace(self, tag=tag, digest="")

    def pinned(self, digest: str) -> Reference:
        """The same repository by digest, without a tag."""
        return replace(self, tag="", digest=digest)


def check_name(name: str, where: str | None = None) -> str:
    """Return the name of a repository if it can be one.

    Args:
        name: without host, tag and digest.
        where: what it was a part of, for the message; None if it was given alone.

    Raises:
        ConfigError: it cannot; the message says what is wrong with it.

    """
    example = NAME_EXAMPLE if where is None else EXAMPLE
    shown = repr(name if where is None else where)
    first, slash, rest = name.rpartition("://")[2].partition("/")
    if slash and _is_host(first):
        bare = rest.partition("@")[0].partition(":")[0]
        raise ConfigError(
            "the name of a repository is wanted, not its address",
            shown,
            f"Leave the registry out: {bare}",
        )
    if name != name.lower():
        raise ConfigError("the name of a repository has no capital letters", shown, example)
    if not all(map(PART.fullmatch, name.split("/"))) or len(name) > LONGEST_NAME:
        raise ConfigError("that is no name of a repository", shown, example)
    return name


def is_loopback(host: str) -> bool:
    """Whether a registry's host, with or without a port, is this machine."""
    bare = host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]
    try:
        return ipaddress.ip_address(bare).is_loopback
    except ValueError:
        return bare == "localhost"


def _split(text: str) -> tuple[str, str]:
    """Host and path; the host as docker tells it from the first part of a name."""
    first, slash, rest = text.partition("/")
    if not slash or not _is_host(first):
        return HUB, text if "/" in text else f"library/{text}"
    if not HOST.fullmatch(first):
        raise ConfigError("that is no address of a registry", repr(first), EXAMPLE)
    if first in ("index.docker.io", HUB):
        return HUB, rest if "/" in rest else f"library/{rest}"
    return first, rest


def _is_host(first: str) -> bool:
    return first == "localhost" or bool(re.search(r"[.:]", first)) or first != first.lower()
