"""What the child of one stage does: restore what is archived, or run the stage and archive that."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from llm_twin.errors import TwinError
from llm_twin.flow.context import Context, using
from llm_twin.flow.evidence import Evidence, source
from llm_twin.flow.key import reasons

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from llm_twin.flow.cache import Cache
    from llm_twin.flow.key import Keys
    from llm_twin.flow.records import StageRun
    from llm_twin.flow.stage import Stage
    from llm_twin.flow.uptodate import Verdict


@dataclass
class Job:
    """One attempt at one stage; called in the child, answers with plain JSON types."""

    root: Path
    cache: Callable[[], Cache]
    keys: Keys
    run_id: str
    stage: Stage
    arguments: dict[str, Any]
    verdict: Verdict
    run: StageRun
    force: bool
    mask: Callable[[Any], Any]

    def __call__(self) -> dict[str, Any]:
        self.keys.files.detach()
        return self._restored() or self._ran()

    def _restored(self) -> dict[str, Any] | None:
        if not self.stage.cached or self.stage.kept or self.force or self.verdict.failed:
            return None
        from llm_twin.flow.cache import CacheDamaged

        entry = self.verdict.entry or self.cache().fetch(self.verdict.key)
        if entry is None:
            return None
        foreign = [path for path in entry.files if not declared(path, self.stage.outputs)]
        if foreign:
            print(f"the cache entry names {foreign[0]}, which is no output; running it instead")
            return None
        try:
            written = self.cache().restore(entry, self.root)
        except CacheDamaged as error:
            print(f"{error}; running it instead")
            return None
        self.verdict.run = entry.run
        count = f"{len(written)} file{'' if len(written) == 1 else 's'}"
        message = f"restored from run {entry.run} ({entry.source}), {count} written"
        return self._answer(entry.result, restored=message)

    def _ran(self) -> dict[str, Any]:
        os.environ["TWIN_RUN_ID"] = self.run_id
        with using(Context(self.run_id, self.stage.name, self.run.attempts)):
            result = _called(self.stage.function, self.arguments)
        self.keys.files.look_again()
        missing = self.keys.unmatched(self.stage)
        if missing:
            raise TwinError(
                f"{self.stage.name} ended without writing its declared output",
                ", ".join(missing),
                "Write it, or mend outputs= of the stage",
            )
        moved = self._moved()
        if self.stage.cached and not moved:
            try:
                self._archive(result)
            except TwinError as error:
                print(f"what it left is not archived: {error}")
        return self._answer(result, moved=moved)

    def _moved(self) -> list[str]:
        """What of the key changed while the stage ran."""
        if not self.stage.cached:
            return []
        needs = {
            name.removeprefix("needs:"): value
            for name, value in self.verdict.parts.items()
            if name.startswith("needs:")
        }
        return reasons(self.verdict.parts, self.keys.parts(self.stage, self.arguments, needs))

    def _archive(self, result: Any) -> None:
        if (not self.stage.outputs and not self.cache().shared) or self.stage.kept:
            return
        entry = self.cache().archive(
            key=self.verdict.key,
            stage=self.stage.name,
            source=source(),
            run=self.run_id,
            root=self.root,
            paths=self.keys.output_files(self.stage),
            result=self.mask(result),
            evidence=Evidence(self.root).facts(),
        )
        self.cache().push(entry)

    def _answer(self, result: Any, restored: str = "", moved: Sequence[str] = ()) -> dict[str, Any]:
        return {
            "result": result,
            "outputs": self.keys.outputs(self.stage),
            "restored": restored,
            "origin": self.verdict.run,
            "moved": list(moved),
            "trouble": self.cache().trouble if self.stage.cached else "",
        }


def _called(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Call a stage's function; what it returns, as plain JSON types."""
    try:
        result = function(**arguments)
    except SystemExit as left:
        if left.code not in (None, 0):
            raise
        return None
    try:
        return json.loads(json.dumps(result, default=str))
    except (TypeError, ValueError, RecursionError) as error:
        raise TwinError(
            "what the stage returned is no plain JSON", error, "Return plain types, or nothing"
        ) from None


def declared(path: str, outputs: Sequence[str]) -> bool:
    """Whether a path may be an output that globs declare, or lie in a folder that is one."""
    patterns = [pattern.rstrip("/").replace("**/", "*") for pattern in outputs]
    return any(fnmatchcase(path, p) or fnmatchcase(path, f"{p}/*") for p in patterns)
