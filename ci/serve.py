"""Serve the twin over HTTP: a command over the promoted bundle, not a recorded stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invoke.exceptions import Exit
from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


@task(
    help={
        "host": "address to listen at",
        "port": "0: a free one; the first line names it",
        "workers": "processes that answer; one that dies is replaced",
    },
    auto_shortflags=False,
)
@tell_errors
def serve(c: Context, host: str = "127.0.0.1", port: int = 8000, workers: int = 1) -> None:
    """Answer over HTTP: /v1/ask, /v1/chat/completions, /v1/feedback. Ctrl-C ends it."""
    from llm_twin.serving import server

    code = server.serve(Settings.load(root=ROOT), host, [port], workers=workers)
    if code:
        raise Exit(code=code)
