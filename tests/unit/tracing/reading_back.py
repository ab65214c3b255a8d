"""Reads traces back as a client of the store does, and runs programs that trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

EMAIL = "jane.roe@example.org"
CARD = "4111 1111 1111 1111"
KEY = "sk-proj-abcdefghijklmnop1234567890"  # pragma: allowlist secret
PLANTED = (EMAIL, CARD, CARD.replace(" ", ""), KEY)


def rows(store: Store, kind: str, **query: str) -> list[dict[str, Any]]:
    """Traces or spans of the default project, oldest first."""
    asked = {"project_name": "llm-twin", "size": "1000", **query}
    answer = store.handle(Request("GET", f"v1/private/{kind}", asked))
    assert answer.status == 200, answer.body
    assert isinstance(answer.body, bytes)
    return list(reversed(json.loads(answer.body)["content"]))


def run(program: str, home: Path, timeout: float = 60, **env: str) -> subprocess.CompletedProcess:
    """Run a program in which ``home`` is the state folder."""
    preamble = f"from pathlib import Path\nhome = Path({str(home)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", preamble + program],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "TMPDIR": str(home / "tmp"), **env},
    )


def leaks(folder: Path, texts: tuple[str, ...] = PLANTED) -> list[str]:
    """Where a text is in a file of a folder or in a file's name."""
    return [
        f"{path.name}: {text}"
        for path in folder.rglob("*")
        for text in texts
        if text in path.name or (path.is_file() and text.encode() in path.read_bytes())
    ]
