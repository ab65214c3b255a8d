"""Takes a conversation, or all that mentions a text, out of everything that tracing wrote.

What mentions it goes with the whole that it belongs to: a trace with its spans, scores, comments
and attachments. Afterwards the database is rewritten, so that the bytes are gone from its file too.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Protocol

from llm_twin.errors import BusyError, ConfigError
from llm_twin.model import feedback
from llm_twin.tracing.client import recover
from llm_twin.tracing.delivery import REFUSED
from llm_twin.tracing.redaction import Redactor
from llm_twin.tracing.store import records
from llm_twin.tracing.store.records import chunks, marks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from llm_twin.model.feedback import Correction
    from llm_twin.settings import Settings
    from llm_twin.tracing.store.store import Store

BUSY_SECONDS = 20.0
MENTIONS = (
    "SELECT 'trace', id FROM trace WHERE holds(body)",
    "SELECT CASE WHEN trace_id IS NULL THEN 'span' ELSE 'trace' END, coalesce(trace_id, id)"
    " FROM span WHERE holds(body)",
    "SELECT 'trace', trace_id FROM guardrail WHERE holds(body)",
    "SELECT 'thread', id FROM thread WHERE holds(name || tags)",
    "SELECT kind, entity FROM score"
    " WHERE holds(name || ' ' || coalesce(reason, '') || ' ' || coalesce(category, ''))",
    "SELECT kind, entity FROM comment WHERE holds(body)",
    "SELECT kind, entity FROM assertion_result WHERE holds(body)",
    "SELECT kind, entity FROM attachment WHERE holds(name) OR holds_file(blob)",
)
"""Where a text may be: the kind and the id of what mentions it."""
STAYS = {
    "experiment": "name || body", "prompt": "name || body", "prompt_version": "body",
    "dataset": "name || body", "project": "name || body",
}  # fmt: skip
"""What is told and not deleted: its texts are not of conversations."""


@dataclass
class Found:
    """What is to be forgotten.

    Attributes:
        ids: ids by kind: ``trace``, ``thread``, and ``span`` for those without a trace.
        items: pairs of a dataset and an item.
        refused: records that the store had refused, by their offset and length in bytes.
        corrections: rows of curated feedback that came from the traces or mention the text.
        stays: how many of other kinds mention the text and are not deleted.

    """

    ids: dict[str, set[str]] = field(
        default_factory=lambda: {"trace": set(), "thread": set(), "span": set()}
    )
    items: set[tuple[str, str]] = field(default_factory=set)
    refused: list[tuple[int, int]] = field(default_factory=list)
    corrections: set[Correction] = field(default_factory=set)
    stays: dict[str, int] = field(default_factory=dict)

    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        found = {kind: len(ids) for kind, ids in self.ids.items()}
        return found | {
            "dataset item": len(self.items),
            "refused record": len(self.refused),
            "correction": len(self.corrections),
        }


class Needle(Protocol):
    """What is looked for."""

    def within(self, text: str | None) -> bool:
        """Whether a text holds it."""
        ...


class _Text:
    """A text, however it is written in JSON and whatever its case."""

    def __init__(self, *texts: str) -> None:
        plain = {text.casefold() for text in texts}
        self._texts = plain | {json.dumps(text)[1:-1] for text in plain}
        self._texts |= {json.dumps(text, ensure_ascii=False)[1:-1] for text in plain}

    def within(self, text: str | None) -> bool:
        folded = (text or "").casefold()
        return any(one in folded for one in self._texts)


def find(
    store: Store,
    settings: Settings,
    thread: str = "",
    contains: str = "",
    needle: Needle | None = None,
) -> Found:
    """Look for a conversation by its thread id, or for a text in everything that is stored.

    What killed processes left in their journals is put into the store first. Where a text is more
    than its words, ``needle`` tells whether something holds it.

    Raises:
        ConfigError: none of the three is given, or several.

    """
    if sum(map(bool, (thread, contains, needle))) != 1:
        raise ConfigError(
            "say what to forget", "traces.forget", "Give --thread ID or --contains TEXT"
        )
    recover(settings, store)
    found, journal = Found(), settings.traces / "journal"
    if thread:
        # A thread that was named after a person is stored under a pseudonym.
        names = {thread, Redactor.of(settings).identifier(thread)}
        _by_thread(store, found, names)
        found.refused = _refused(journal, _Text(*(f'"{name}"' for name in names)))
    else:
        needle = needle or _Text(contains)
        _by_text(store, found, needle)
        found.refused = _refused(journal, needle)
    _with_theirs(store, found)
    found.corrections = {
        row
        for rows in feedback.versions(settings.home).values()
        for row in rows
        if row.trace_id in found.ids["trace"] or (needle and needle.within(_json(row)))
    }
    return found


def _json(row: Correction) -> str:
    return json.dumps(asdict(row), ensure_ascii=False)


def _by_thread(store: Store, found: Found, names: set[str]) -> None:
    with store.database.read() as db:
        for name in names:
            for kind, column in (("trace", "thread_id"), ("thread", "name")):
                rows = db.execute(f"SELECT id FROM {kind} WHERE {column} = ?", (name,))  # noqa: S608
                found.ids[kind].update(row[0] for row in rows)


def _by_text(store: Store, found: Found, needle: Needle) -> None:
    def within_file(blob: str) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return needle.within((store.blobs / blob).read_bytes().decode("utf-8", "replace"))
        return False

    with store.database.read() as db:
        db.create_function("holds", 1, needle.within)
        db.create_function("holds_file", 1, within_file)
        for query in MENTIONS:
            for kind, identity in db.execute(query):
                _add(db, found, kind, identity)
        query = "SELECT DISTINCT dataset, id FROM dataset_item WHERE holds(body)"
        found.items.update(db.execute(query).fetchall())
        for table, texts in STAYS.items():
            query = f"SELECT count(*) FROM {table} WHERE holds({texts})"  # noqa: S608
            if number := db.execute(query).fetchone()[0]:
                found.stays[table.replace("_", " ")] = number


def _add(db: sqlite3.Connection, found: Found, kind: str, identity: str) -> None:
    """Add what an entity belongs to as a whole."""
    if kind == "span":
        row = db.execute("SELECT trace_id FROM span WHERE id = ?", (identity,)).fetchone()
        kind, identity = ("trace", row[0]) if row and row[0] else (kind, identity)
    found.ids[kind].add(identity)


def _with_theirs(store: Store, found: Found) -> None:
    """Add the traces of the threads, and the dataset items that were made of the traces."""
    with store.database.read() as db:
        for thread in found.ids["thread"]:
            rows = db.execute(
                "SELECT trace.id FROM trace JOIN thread"
                " ON thread.project_id = trace.project_id AND thread.name = trace.thread_id"
                " WHERE thread.id = ?",
                (thread,),
            )
            found.ids["trace"].update(row[0] for row in rows)
        rows = db.execute("SELECT dataset, id, json_extract(body, '$.trace_id') FROM dataset_item")
        found.items.update((row[0], row[1]) for row in rows if row[2] in found.ids["trace"])


def _refused(journal: Path, needle: Needle) -> list[tuple[int, int]]:
    found, at = [], 0
    with contextlib.suppress(FileNotFoundError), (journal / REFUSED).open("rb") as file:
        for line in file:
            if needle.within(line.decode("utf-8", "replace")):
                found.append((at, len(line) - 1))
            at += len(line)
    return found


def forget(store: Store, settings: Settings, found: Found) -> None:
    """Delete what was found, here and, by the next forwarding, in the remote.

    Raises:
        BusyError: it is deleted, but the file cannot be rewritten while others use it.

    """
    with store.database.write() as db:
        _delete(store, db, found)
    _blot(settings.traces / "journal" / REFUSED, found.refused)
    feedback.forget(settings.home, found.corrections.__contains__)
    scrub(store)


def _delete(store: Store, db: sqlite3.Connection, found: Found) -> None:
    traces = sorted(found.ids["trace"])
    spans = set(found.ids["span"])
    for part in chunks(traces):
        rows = db.execute(f"SELECT id FROM span WHERE trace_id IN ({marks(part)})", part)  # noqa: S608
        spans.update(row[0] for row in rows)
    for kind in ("trace", "span", "thread"):
        records.delete(store, db, kind, sorted(found.ids[kind]))
    db.executemany("DELETE FROM dataset_item WHERE dataset = ? AND id = ?", sorted(found.items))
    _delete_by(db, "experiment_item", "trace_id", traces)
    _delete_by(db, "evaluation", "trace", traces)
    _delete_by(db, "evaluation_error", "trace", traces)
    # What is queued of a score or an attachment has its name in it; of others only ids.
    for table in ("outbox", "parked"):
        everything = [*traces, *spans, *found.ids["thread"]]
        parts = "CASE WHEN json_valid(entity) THEN json_extract(entity, '$[1]') END"
        _delete_by(db, table, parts, everything)
    _delete_by(db, "parked", "entity", [*traces, *spans])
    db.execute("UPDATE remote SET error = '' WHERE error != ''")


def _delete_by(db: sqlite3.Connection, table: str, what: str, ids: list[str]) -> None:
    for part in chunks(ids):
        db.execute(f"DELETE FROM {table} WHERE {what} IN ({marks(part)})", part)  # noqa: S608


def _blot(path: Path, places: Iterable[tuple[int, int]]) -> None:
    """Write blanks over parts of a file that others may be appending to."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        for at, length in places:
            file.seek(at)
            file.write(b" " * length)
        file.flush()
        os.fsync(file.fileno())


def scrub(store: Store) -> None:
    """Rewrite the database, so that nothing of what was deleted is left in its files.

    Raises:
        BusyError: others read it for too long.

    """
    path = store.database.path
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    with contextlib.closing(db), _while_busy(path):
        db.execute("VACUUM")
        if db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            raise sqlite3.OperationalError("another process reads it")


@contextlib.contextmanager
def _while_busy(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise BusyError(
            f"it is deleted, but its bytes are in the file yet ({error})", path, "Type it again"
        ) from None
