"""Forgetting a document or an author: out of the corpus, the index, datasets, traces and caches.

The wish is written down first, with digests of all that has to be found. From then on nothing
collects the text, the models that saw it are tainted, and a run that is killed is finished by the
next one, which needs no text to know what is left.
"""

from __future__ import annotations

import dataclasses
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.corpus.forgotten import SHINGLE, Request, requests, shingles
from llm_twin.errors import NotReadyError, TwinError
from llm_twin.loop import purge, taint
from llm_twin.loop.content import Needles, needles_of
from llm_twin.loop.texts import Texts
from llm_twin.model.bundles import Bundles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llm_twin.settings import Settings

    Tell = Callable[[str], None]

SKETCH = 128


class StillThere(TwinError):
    """Something of a forgotten text is left; the request stays open."""


@dataclass(frozen=True)
class Plan:
    """What a request would do.

    Attributes:
        wish: the request, not yet written down.
        titles: of the documents, for a person to recognise.
        passages: how many chunks of them are known.

    """

    wish: Request
    titles: tuple[str, ...]
    passages: int


def plan(settings: Settings, what: str, seconds: float) -> Plan:
    """Find out what forgetting would touch; writes nothing.

    Args:
        settings: the state folder.
        what: a document's path, address or id, or an author's name.
        seconds: until models that saw it are refused.

    Raises:
        NotReadyError: nothing that is known has this name.

    """
    texts = Texts.known(settings.home)
    ids, author = texts.meant(what)
    if not ids:
        raise NotReadyError(
            "no known document or author has this name",
            what,
            "Give a path below the corpus, a link, an id or an author; see: invoke search",
        )
    sketches = [_sketch(texts, key) for key in sorted(ids)]
    draft = Request("", what, 0.0, 0.0, tuple(sorted(ids)), "", tuple(filter(None, sketches)))
    for own in texts.documents.values():
        ids |= {one.id for one in own if draft.means(one)}
    documents = [one for key in sorted(ids) for one in texts.documents.get(key, ())]
    chunks = [one for key in sorted(ids) for one in texts.chunks.get(key, {}).values()]
    needles = needles_of(documents, chunks, texts.others(ids))
    now = time.time()
    wish = Request(
        id=f"forget-{time.strftime('%y%m%d-%H%M%S', time.localtime(now))}-{secrets.token_hex(2)}",
        what="an author" if author else what,
        asked=now,
        deadline=now + seconds,
        documents=tuple(sorted(ids)),
        author=author,
        sketches=draft.sketches,
        models=tuple(_models(settings.home, ids)),
        needles={str(size): sorted(own) for size, own in needles.digests.items()},
        names=tuple(sorted(needles.ids | ids)),
    )
    titles = {one.title for one in documents} | {one.title for one in chunks}
    return Plan(wish, tuple(sorted(titles)), len(chunks))


def _sketch(texts: Texts, document: str) -> tuple[str, ...]:
    """The smallest digests of a document's shingles, as it was collected last."""
    collected = texts.documents.get(document)
    passages = texts.chunks.get(document, {}).values()
    text = collected[-1].text if collected else "\n".join(chunk.text for chunk in passages)
    return tuple(sorted(set(shingles(text, SHINGLE)))[:SKETCH])


def _models(home: Path, documents: set[str]) -> list[str]:
    saw = taint.models_that_saw(home, documents)
    production = home / "models" / "production"
    served = production.readlink().name if production.is_symlink() else ""
    # The version that takes production's place holds the same model.
    return [*saw, purge.successor(served)] if served in saw else saw


def carry_out(settings: Settings, wish: Request, tell: Tell) -> None:
    """Do what a request asks for; the same again finishes one that was cut short.

    Raises:
        BusyError: training runs, or somebody forgets already.
        StillThere: files hold some of it yet; the message names them.
        TwinError: as the parts raise them; the request stays open.

    """
    home = settings.home
    with taint.alone(home):
        taint.write(home, wish)
        needles = Needles(
            {int(size): frozenset(own) for size, own in wish.needles.items()}, frozenset(wish.names)
        )
        tell(f"tainted: {', '.join(wish.models) or 'no model'}")
        changed = purge.bundles(settings, set(wish.documents))
        tell(f"index: {', '.join(changed) or 'held nothing'}")
        if curated := purge.curated(home, needles):
            tell(f"curated feedback: {curated} versions of it held it")
        gone = purge.traces(settings, needles)
        tell(f"traces: {', '.join(f'{n} {kind}' for kind, n in gone.items()) or 'held nothing'}")
        purge.features(settings, set(wish.documents))
        purge.caches(home, set(wish.documents))
        tell(f"caches and artifacts: {len(purge.files(settings, needles))} files held it")
        if left := purge.left(settings, needles):
            raise StillThere(
                f"{len(left)} files hold some of it yet",
                ", ".join(map(str, left[:5])),
                "End what writes them and type: invoke forget",
            )
        taint.write(home, dataclasses.replace(wish, needles={}, names=(), done=True))


def unfinished(home: Path) -> list[Request]:
    """Requests that were cut short, or left something."""
    return [wish for wish in requests(home) if not wish.done]


def serves_still(settings: Settings, wish: Request) -> str:
    """The promoted version if it is tainted by a request; empty if not."""
    try:
        served = Bundles(settings.home / "models").production()
    except NotReadyError:
        return ""
    if served is None:
        return ""
    saw = served.manifest["details"].get("documents") or ()
    return served.version if wish.taints(served.version, saw) else ""
