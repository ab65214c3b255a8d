"""What one completed stage left: the record that the cache keeps, sends and signs.

The signature covers everything, the key included, so an entry is worth nothing under another key.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, astuple, dataclass, replace
from typing import Any

DIGEST = re.compile("[0-9a-f]{64}")
NO_ENTRY = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class FileEntry:
    """One output: SHA-256 of its content, bytes, permission bits; a link has its target only."""

    digest: str
    size: int
    mode: int
    target: str = ""

    def is_one(self) -> bool:
        """Whether the fields, read from somewhere, are what they must be."""
        types = tuple(map(type, astuple(self)))
        return types == (str, int, int, str) and bool(self.target or DIGEST.fullmatch(self.digest))


@dataclass(frozen=True)
class Entry:
    """What one completed stage left.

    Attributes:
        key: of the stage at that time, 32 hex digits.
        stage: its name.
        source: where it ran, ``local`` or ``ci``.
        run: id of the run that made it.
        created: seconds since the epoch.
        files: its outputs by path below the root, with ``/``.
        result: what the stage returned, plain JSON.
        evidence: more about where it ran: commit, machine, Python.
        signature: HMAC-SHA256 over all of the above, or "".

    """

    key: str
    stage: str
    source: str
    run: str
    created: float
    files: dict[str, FileEntry]
    result: Any
    evidence: dict[str, str]
    signature: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    def to_json(self) -> str:
        """The entry as one line, the same for equal entries."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, data: bytes) -> Entry | None:
        """Read an entry; None if it is none."""
        try:
            fields = json.loads(data)
            files = {name: FileEntry(**file) for name, file in fields.pop("files").items()}
            entry = cls(files=files, **fields)
        except NO_ENTRY:
            return None
        right = type(entry.created) is float and all(file.is_one() for file in files.values())
        return entry if right else None

    def signed(self, secret: str) -> Entry:
        """Return it with the signature that this secret gives."""
        return replace(self, signature=self._signature(secret))

    def is_signed(self, secret: str) -> bool:
        """Whether its signature was made with this secret; never with none."""
        import hmac

        given = str(self.signature).encode(errors="replace")
        return bool(secret) and hmac.compare_digest(self._signature(secret).encode(), given)

    def _signature(self, secret: str) -> str:
        import hmac

        text = replace(self, signature="").to_json()
        return hmac.digest(secret.encode(), text.encode(), "sha256").hex()
