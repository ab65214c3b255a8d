"""Ask the twin: commands over the promoted bundle, not recorded stages."""

from __future__ import annotations

import json as jsonlib
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


@task(
    help={
        "question": "in plain words, quoted",
        "llm": "local: the trained model; openai: the endpoint of TWIN_LLM_URL; default: quotes",
        "k": "passages to look at",
        "json": "print JSON",
        "trace": "keep a trace of it, for: invoke traces",
    },
    auto_shortflags=False,
)
@tell_errors
def ask(
    c: Context, question: str, llm: str = "", k: int = 5, json: bool = False, trace: bool = False
) -> None:
    """Answer a question from the author's texts, with citations."""
    from llm_twin.serving.answer import answer
    from llm_twin.serving.llm import open_llm
    from llm_twin.serving.render import render
    from llm_twin.serving.twin import open_production

    settings = Settings.load(root=ROOT)
    twin = open_production(settings)
    model = open_llm(llm or settings.llm, settings, twin)
    with _tracing(settings, on=trace):
        found = answer(question, twin, model, k)
    print(jsonlib.dumps(found.to_dict(), indent=2, ensure_ascii=False) if json else render(found))


@task(
    help={"question": "in plain words, quoted", "k": "how many", "json": "print JSON"},
    auto_shortflags=False,
)
@tell_errors
def search(c: Context, question: str, k: int = 5, json: bool = False) -> None:
    """List the passages that a question finds, best first."""
    from llm_twin.serving.render import found_passages, render_passages
    from llm_twin.serving.twin import open_production

    hits = open_production(Settings.load(root=ROOT)).search(question, k)
    if json:
        print(jsonlib.dumps(found_passages(hits), indent=2, ensure_ascii=False))
    else:
        print(render_passages(hits))


@contextmanager
def _tracing(settings: Settings, *, on: bool) -> Iterator[None]:
    """Trace what a block answers, if on, and say how to look at it."""
    if not on:
        yield
        return
    from llm_twin.tracing import client, track

    tracing = client.start(settings)
    try:
        yield
    finally:
        identity = track.trace_id()
        tracing.stop()
        print(f"traced: invoke traces.show {identity}", file=sys.stderr)
