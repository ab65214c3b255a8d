"""What a registry or the engine that pushes to it says, in one sentence with what to do about it.

The engines word the same refusal differently from version to version, and a registry reaches us
both through the engine and over HTTP; one table serves both ways.
"""

from __future__ import annotations

import re

from llm_twin.delivery.ecr import is_ecr
from llm_twin.delivery.reference import is_loopback
from llm_twin.errors import ConfigError, NotReadyError, RemoteError, TwinError

EXPIRED = re.compile(r"token has expired", re.IGNORECASE)
LACKING = re.compile(r"not authorized to perform:? (\w+:\w+)")
LOGIN = "Type: docker login {host}"
CREATE = "Create it there, or correct its name"
START = "Start it, or check its address"
# What to do instead where the registry is ECR, or this machine's own.
ON_ECR = {
    LOGIN: "Look who you are with: aws sts get-caller-identity",
    CREATE: "Create it with: invoke build-push --create",
}
ON_LOOPBACK = {START: "Start it with: invoke registry.up"}

WORDS: tuple[tuple[str, type[TwinError], str, str], ...] = (
    (r"token has expired", ConfigError, "the registry's token has expired", LOGIN),
    (r"no basic auth|wants a login", ConfigError, "the registry wants a login", LOGIN),
    (r"does not exist locally", NotReadyError, "the image was not built",
     "Type: invoke build-push --force"),
    (r"name unknown|does not exist in the registry|repository .*not found", ConfigError,
     "the registry has no such repository", CREATE),
    (r"immutable", RemoteError, "the tag is taken by another image and cannot be moved",
     "Push under another tag, or let the repository's settings exempt this one"),
    (r"too ?many ?requests|\b429\b|rate exceeded", RemoteError, "the registry is throttling",
     "Try again in some minutes"),
    (r"unauthorized|\b401\b|authentication required", ConfigError,
     "the registry refuses the user name or password", LOGIN),
    (r"denied|forbidden|\b403\b", ConfigError, "this login may not do that in the registry",
     "Ask for the permission to push to the repository"),
    (r"connection refused", NotReadyError, "no registry answers", START),
    (r"no such host|failed to resolve|name or service not known", ConfigError,
     "the registry's host is unknown", "Check its name and the network"),
    (r"http response to https|wrong.version.number|record layer failure", ConfigError,
     "the registry does not speak TLS", "Check its port; only on this machine TLS is left out"),
    (r"http request to an https", ConfigError, "the registry wants TLS",
     "Put its CA certificate at /etc/docker/certs.d/{host}/ca.crt"),
    (r"x509|certificate", ConfigError, "the registry's certificate is not trusted",
     "Put its CA certificate at /etc/docker/certs.d/{host}/ca.crt"),
    (r"no space left|\b507\b|insufficient storage", RemoteError, "the registry's disk is full",
     "Make room on it, then type the same again"),
    (r"\b50[0-9]\b|internal server error|bad gateway|service unavailable|unknown error",
     RemoteError, "the registry failed (its disk may be full)",
     "Look at its disk and its log, then type the same again"),
    (r"timed? ?out|deadline exceeded", RemoteError, "the registry does not answer in time",
     "Look whether it is overloaded, then type the same again"),
    (r"closed network connection|broken pipe|reset by peer|\bEOF\b|aborted|incomplete|broken",
     RemoteError, "the connection to the registry was cut", "Type the same again"),
)  # fmt: skip


def explain(said: str, host: str, where: object = "") -> TwinError:
    """The error for what a registry, or the engine about it, said.

    Args:
        said: its own words, or those of the exception that asking raised.
        host: of the registry.
        where: the image or repository that it was about; default: the host.

    """
    where = where or host
    if lacking := LACKING.search(said):
        what = f"this login lacks the permission {lacking[1]}"
        return ConfigError(what, where, "Add it to the policy of its role")
    for pattern, kind, what, hint in WORDS:
        if re.search(pattern, said, re.IGNORECASE):
            special = ON_ECR if is_ecr(host) else ON_LOOPBACK if is_loopback(host) else {}
            return kind(what, where, special.get(hint, hint).format(host=host))
    return RemoteError(f"the registry refused, saying “{_short(said)}”", where)


def _short(text: str, limit: int = 160) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[:limit]}…"
