"""What readers made of answers, as rows to learn from: a folder for each version of them.

::

    feedback/
      3f9c…/rows.jsonl, manifest.json     named after the digest of its rows; never changed
      current -> 3f9c…                    what `invoke ct` takes

`invoke curate` writes a version. It is whole or absent after a kill, and so is the switch to it.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.errors import NotReadyError
from llm_twin.model import durable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

FOLDER, CURRENT, ROWS, MANIFEST = "feedback", "current", "rows.jsonl", "manifest.json"
BUILDING = ".building-"


@dataclass(frozen=True)
class Correction:
    """A question with the answer that it should have had.

    Attributes:
        trace_id: of the answer that was given.
        question: as it was asked.
        wanted: what the answer should have been.
        answer: what was said instead; "" when nothing was that could be learned from.
        cites: documents that ``wanted`` names: links, paths.
        why: what it was chosen for.

    """

    trace_id: str
    question: str
    wanted: str
    answer: str = ""
    cites: tuple[str, ...] = ()
    why: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Correction:
        """Reverse of dataclasses.asdict."""
        return cls(**{**data, "cites": tuple(data["cites"])})


def digest_of(rows: Sequence[Correction]) -> str:
    """Changes with anything in the rows, not with their order; 32 hex digits."""
    return content_id(_lines(rows), length=32)


def _lines(rows: Sequence[Correction]) -> str:
    ordered = sorted(rows, key=lambda row: row.trace_id)
    return "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in ordered)


def current(home: Path) -> Path | None:
    """The folder of the current version below a state folder; None when there is none."""
    link = home / FOLDER / CURRENT
    return link.parent / link.readlink() if link.is_symlink() else None


def files(home: Path) -> list[Path]:
    """What a training run reads of the current version, under a name that stays."""
    rows = home / FOLDER / CURRENT / ROWS
    return [rows] if rows.exists() else []


def read(folder: Path) -> list[Correction]:
    """The rows of a version.

    Raises:
        NotReadyError: they are gone, or not what was written.

    """
    try:
        rows = _rows(folder)
    except (OSError, ValueError, TypeError, KeyError):
        rows = []
    if digest_of(rows) != folder.name:
        raise NotReadyError(
            "the feedback is not what was curated", folder, "Make it anew: invoke curate"
        )
    return rows


def _rows(folder: Path) -> list[Correction]:
    text = (folder / ROWS).read_text(encoding="utf-8")
    return [Correction.from_dict(json.loads(line)) for line in text.split("\n") if line]


def keep(home: Path, rows: Sequence[Correction], manifest: Mapping[str, object]) -> str:
    """Write a version, if it is not there yet, and make it the current one; return its digest.

    Without rows there is no current version afterwards, and the digest is "".
    """
    place = home / FOLDER
    durable.sweep_buildings(place, BUILDING) if place.exists() else None
    if not rows:
        _switch(place, "")
        return ""
    digest = digest_of(rows)
    if not _is_whole(place / digest):
        durable.remove(place / digest)
        building = durable.new_building(place, BUILDING)
        (building / ROWS).write_text(_lines(rows), encoding="utf-8")
        durable.write_json(building / MANIFEST, {"digest": digest, "rows": len(rows), **manifest})
        durable.sync_tree(building)
        building.rename(place / digest)
    _switch(place, digest)
    return digest


def _is_whole(folder: Path) -> bool:
    try:
        return bool(read(folder))
    except NotReadyError:
        return False


def _switch(place: Path, digest: str) -> None:
    link = place / CURRENT
    if link.is_symlink() and str(link.readlink()) == digest:
        return
    if digest:
        fresh = place / f"{BUILDING}{os.getpid()}-link"
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(digest)
        fresh.replace(link)
    else:
        link.unlink(missing_ok=True)
    durable.sync(place) if place.exists() else None


def versions(home: Path) -> dict[Path, list[Correction]]:
    """Every version's folder and rows."""
    folders = (path.parent for path in sorted((home / FOLDER).glob(f"*/{ROWS}")))
    return {folder: _rows(folder) for folder in folders if folder.name != CURRENT}


def forget(home: Path, unwanted: Callable[[Correction], bool]) -> int:
    """Remove every version that holds unwanted rows; what is left of the current one stays current.

    Returns:
        How many versions were removed.

    """
    now, removed = current(home), 0
    for folder, rows in versions(home).items():
        left = [row for row in rows if not unwanted(row)]
        if len(left) == len(rows):
            continue
        if folder == now:
            keep(home, left, {"forgotten": len(rows) - len(left)})
        durable.remove(folder)
        removed += 1
    return removed
