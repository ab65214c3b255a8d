"""Who may ask: API keys, as ``Authorization: Bearer KEY``; probes are open to everyone."""

from __future__ import annotations

import hmac

from llm_twin.errors import ConfigError

OPEN = frozenset({"/healthz", "/readyz", "/ping"})
"""Paths that a platform asks, which has no key."""

REFUSAL = "an API key is needed, sent as: Authorization: Bearer KEY"


class Keys:
    """The keys that are accepted; without any, everyone is.

    Args:
        listed: keys, apart by commas.

    Raises:
        ConfigError: a key holds what no header can carry.

    """

    def __init__(self, listed: str) -> None:
        keys = [key.strip() for key in listed.split(",") if key.strip()]
        if not all(key.isascii() and key.isprintable() and " " not in key for key in keys):
            raise ConfigError(
                "an API key holds characters that no header can carry",
                "TWIN_API_KEYS",
                "Use letters, digits and signs, and commas between keys",
            )
        self._keys = [key.encode() for key in keys]

    def accept(self, path: str, authorization: str) -> bool:
        """Whether a request with this header may ask this path."""
        scheme, _, given = authorization.partition(" ")
        sent = given.strip().encode() if scheme.lower() == "bearer" else b""
        # Every key is compared, so that the time taken tells nothing of them.
        found = [hmac.compare_digest(key, sent) for key in self._keys]
        return path in OPEN or not self._keys or any(found)
