"""Which models saw a text, and the list of what is to be forgotten, as it is written.

A model cannot be made to unlearn, so it is marked: ``corpus.forgotten`` is asked before a model is
promoted or deployed, and a model whose time is over is not compared with either.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING

from llm_twin.corpus.forgotten import FILE, Request, requests
from llm_twin.errors import BusyError, SpaceError
from llm_twin.flow.locks import claim, hold
from llm_twin.loop.lineage import manifests
from llm_twin.loop.texts import bundle_folders, chunks_in
from llm_twin.model import durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Forget while nobody else does and no training runs, which would write it down again.

    Raises:
        BusyError: somebody does.

    """
    with contextlib.ExitStack() as stack:
        own = hold(home / "locks" / "forget")
        if own is None:
            raise BusyError("invoke forget is running already", home, "Wait for it")
        stack.enter_context(own)
        stack.enter_context(claim(home / "locks", "ct", "invoke forget"))
        yield


def write(home: Path, wish: Request) -> None:
    """Put a request on the list, or its new state; durable when this returns.

    Raises:
        SpaceError: the list cannot be written; nothing was forgotten.

    """
    others = [one for one in requests(home) if one.id != wish.id]
    rows = [dataclasses.asdict(one) for one in (*others, wish)]
    try:
        home.mkdir(parents=True, exist_ok=True)
        durable.write_json(home / FILE, {"requests": rows})
    except OSError as error:
        raise SpaceError(
            f"what is to be forgotten cannot be written down ({error.strerror})",
            home / FILE,
            "Free space or make it writable",
        ) from None


def models_that_saw(home: Path, documents: set[str]) -> list[str]:
    """Versions that learned from one of these documents, those included that were swept away."""
    saw = {
        version
        for version, manifest in manifests(home).items()
        if not documents.isdisjoint(manifest["details"].get("documents") or ())
    }
    for folder in bundle_folders(home):
        if any(chunk.document_id in documents for chunk in chunks_in(folder)):
            saw.add(folder.name)
    return sorted(saw)
