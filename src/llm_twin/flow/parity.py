"""Whether a laptop and CI make the same of the same: compared by evidence, not by promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.flow.uptodate import output_digests

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from llm_twin.flow.cache import Cache
    from llm_twin.flow.records import StageRun
    from llm_twin.flow.store import Store

EXACT, DIFFERS, NEVER = "exact", "differs", "never seen"


@dataclass(frozen=True)
class Seen:
    """One run of a stage somewhere: its key and the digests of what it left."""

    run: str
    source: str
    key: str
    outputs: dict[str, str]
    commit: str
    ended: float


@dataclass(frozen=True)
class Parity:
    """One stage: the verdict, the two runs compared, and the files that differ."""

    stage: str
    verdict: str
    local: Seen | None = None
    ci: Seen | None = None
    files: tuple[str, ...] = ()


def parity(stage: str, stores: Sequence[Store], cache: Cache) -> Parity:
    """Compare the last local and the last CI run of the newest key that both have seen.

    Args:
        stage: its name.
        stores: histories to look at; CI's can be another file.
        cache: where runs from elsewhere may be known from.

    """
    seen = [
        _seen(run, done)
        for store in stores
        for run, done in store.completed_by_key(stage)
        if done.key
    ]
    keys = dict.fromkeys(item.key for item in sorted(seen, key=lambda s: -s.ended))
    for key in keys:
        both = [item for item in seen if item.key == key] + list(_archived(cache, key))
        local, ci = _newest(both, "local"), _newest(both, "ci")
        if local and ci:
            files = tuple(
                path
                for path in sorted(local.outputs.keys() | ci.outputs.keys())
                if local.outputs.get(path) != ci.outputs.get(path)
            )
            return Parity(stage, DIFFERS if files else EXACT, local, ci, files)
    return Parity(stage, NEVER, _newest(seen, "local"), _newest(seen, "ci"))


def _seen(run: str, done: StageRun) -> Seen:
    where = done.evidence
    return Seen(
        run,
        where.get("source", "local"),
        done.key,
        done.outputs,
        where.get("commit", ""),
        done.ended or 0.0,
    )


def _archived(cache: Cache, key: str) -> Iterable[Seen]:
    for source, entry in cache.evidence(key).items():
        commit = entry.evidence.get("commit", "")
        yield Seen(entry.run, source, key, output_digests(entry), commit, entry.created)


def _newest(seen: Iterable[Seen], source: str) -> Seen | None:
    return max((s for s in seen if s.source == source), key=lambda s: s.ended, default=None)


def parity_table(found: Sequence[Parity]) -> str:
    """One line a stage, and the files that differ."""
    from llm_twin.flow.views import table

    rows = [("STAGE", "PARITY", "LOCAL RUN", "CI RUN", "WHAT")]
    rows += [
        (
            item.stage,
            item.verdict,
            item.local.run if item.local else "never",
            item.ci.run if item.ci else "never",
            _what(item),
        )
        for item in found
    ]
    return table(rows) if found else "no stage here keeps a key: declare one with cached=True"


def _what(item: Parity) -> str:
    if item.verdict == EXACT and item.local:
        count = len(item.local.outputs)
        return f"{count} output file{'s' if count != 1 else ''}, the same digests"
    if item.verdict == DIFFERS:
        return ", ".join(item.files)
    return "no key was seen on both sides" if item.local and item.ci else ""
