"""Whether a stage has to run, and why: the one judgement that runs, plans and ``why`` share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.flow.files import MISSING, digest_text
from llm_twin.flow.key import Keys, Parts, combine, reasons, unchanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llm_twin.flow.cache import Cache, Entry
    from llm_twin.flow.records import StageRun
    from llm_twin.flow.stage import Stage
    from llm_twin.flow.store import Store


# Where a cached stage run has, as its evidence, the run that did the work.
ORIGIN = "run"


@dataclass
class Verdict:
    """What is to be done about one stage.

    Attributes:
        parts: the parts of its key.
        key: the digest over them.
        why: the reasons to run it; empty when nothing has to run.
        run: id of the run whose work still holds, or "".
        result: what that run returned.
        outputs: what it left, by path.
        entry: its archived outputs, when they have to be written again.
        failed: whether it failed the last time with this very key, here.

    """

    parts: Parts
    key: str
    why: list[str] = field(default_factory=list)
    run: str = ""
    result: Any = None
    outputs: dict[str, str] = field(default_factory=dict)
    entry: Entry | None = None
    failed: bool = False

    @property
    def message(self) -> str:
        """Why nothing has to run."""
        return f"nothing changed since run {self.run}: {unchanged(self.parts)}"


class UpToDate:
    """Judges stages by the history and the cache."""

    def __init__(self, store: Store, cache: Callable[[], Cache], keys: Keys) -> None:
        self._store = store
        self._cache = cache
        self._keys = keys

    def verdict(
        self,
        stage: Stage,
        arguments: Mapping[str, Any],
        upstream: Mapping[str, str],
        force: bool = False,
    ) -> Verdict:
        """Judge a stage, given digests of what the stages it needs left."""
        parts = self._keys.parts(stage, arguments, upstream)
        found = Verdict(parts, combine(parts))
        if not stage.cached:
            found.why = ["it always runs"]
            return found
        at_key = self._store.last_with_key(stage.name, found.key)
        gone = self._gone(stage, found.key)
        if not force and not gone and at_key and at_key[1].state.good:
            gone = self._moved(at_key[1].outputs)
            if not gone:
                run, done = at_key
                found.run = done.evidence.get(ORIGIN, run)
                found.result, found.outputs = done.result, done.outputs
                return found
        found.failed = bool(at_key and not at_key[1].state.good)
        if not force and not found.failed and not stage.kept:
            found.entry = self._cache().find(found.key)
            if found.entry:
                found.run, found.result = found.entry.run, found.entry.result
                found.outputs = output_digests(found.entry)
                return found
        found.why = self._reasons(stage, parts, gone, found.failed, force)
        return found

    def _reasons(
        self, stage: Stage, parts: Parts, gone: list[str], failed: bool, force: bool
    ) -> list[str]:
        last = self._store.last_completed(stage.name)
        why = reasons(last[1].parts if last else None, parts) or gone
        if failed and last:
            why.append("it failed the last time with just this")
        if force and not why:
            why.append("it was asked to, although nothing changed")
        return why or ["what it left then is neither here nor in the cache"]

    def _gone(self, stage: Stage, key: str) -> list[str]:
        """Why what the stage looks after itself is not what it leaves at this key."""
        if not stage.kept:
            return []
        last = self._store.last_completed(stage.name)
        if last and last[1].key != key:
            return [f"run {last[0]} has replaced what it left then"]
        return [f"its output {path} is gone" for path in stage.kept() if not path.exists()]

    def _moved(self, outputs: Mapping[str, str]) -> list[str]:
        moved = []
        for path, digest in outputs.items():
            now = self._keys.files.output_digest(f"{self._keys.root}/{path}")
            if now != digest:
                moved.append(f"its output {path} {'is gone' if now == MISSING else 'was changed'}")
        return moved


def output_digests(entry: Entry) -> dict[str, str]:
    """The digests of an archived entry's files, as the history keeps them."""
    return {
        path: f"link:{item.target}" if item.target else item.digest[:32]
        for path, item in entry.files.items()
    }


def left_by(stage: Stage, key: str, outputs: Mapping[str, str]) -> str:
    """Digest of what a stage hands on: its outputs where it declares any, else its key."""
    return digest_text(json.dumps(outputs, sort_keys=True)) if stage.outputs else key


def left_by_run(stage: Stage, done: StageRun) -> str:
    """The same for a recorded stage run."""
    return left_by(stage, done.key, done.outputs)
