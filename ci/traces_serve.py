"""Serve the trace store over HTTP: a command over the state folder, not a recorded stage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


@task(
    help={"host": "address to listen at", "port": "0: a free one; the first line names it"},
    auto_shortflags=False,
)
@tell_errors
def serve(c: Context, host: str = "127.0.0.1", port: int = 5173) -> None:
    """Answer Opik's SDK and command line over HTTP, to whoever has TWIN_TRACE_KEY."""
    from llm_twin.tracing.serve import serve as serve_store

    serve_store(Settings.load(root=ROOT), host, port)
