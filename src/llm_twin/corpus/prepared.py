"""What was made of single documents, by everything that could change it, so that it is made once.

A key holds the document's digest, the source text of the rules' modules, and whatever else the rule
was told; a changed document, rule or tokenizer is another key. Rows are checked when they are read:
one that something else has edited counts as missing.
"""

from __future__ import annotations

import sqlite3
import unicodedata
from collections import Counter
from functools import cache
from hashlib import blake2b
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from llm_twin.corpus.document import content_id
from llm_twin.errors import SpaceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    Row = tuple[str, bytes, bytes]
    """Text, and two more values that can be read without it."""

    Given = TypeVar("Given")
    Made = TypeVar("Made")

FILE = "prepared.db"
ROWS = 4_000_000
"""Rows kept; the oldest go first."""
AT_ONCE = 500
"""Documents looked up with one question, and rows written in one transaction."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS prepared (
    key TEXT UNIQUE NOT NULL, text TEXT NOT NULL, data BLOB NOT NULL, more BLOB NOT NULL,
    sum BLOB NOT NULL
)
"""


class Run(Protocol):
    """What ``map`` does: call a function for each item, and give the results in their order."""

    def __call__(
        self, function: Callable[[Given], Made], items: Iterable[Given], /
    ) -> Iterator[Made]:
        """Yield what the function makes of each item."""
        ...


@cache
def rules(*modules: str) -> str:
    """Digest of the source of these modules of this package, and of what they lean on."""
    folder = Path(__file__).parent
    sources = [(folder / f"{name}.py").read_bytes().decode() for name in modules]
    return content_id(
        *sources, unicodedata.unidata_version, metadata.version("markdown-it-py"), length=32
    )


class Prepared:
    """One SQLite file (WAL) that several processes may use; or memory alone.

    Args:
        path: of the file; None keeps rows for as long as this object lives.

    Attributes:
        made: how many rows were made, and not found, by kind.

    Raises:
        SpaceError: the file cannot be opened or written.

    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.made: Counter[str] = Counter()
        try:
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path or ":memory:", timeout=30, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            # A cache: what a power cut takes is made again.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA secure_delete = ON")
            self._db.execute(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error

    def rows(
        self,
        kind: str,
        keys: Iterable[str],
        function: Callable[[Given], Row],
        given: Callable[[int], Given],
        run: Run = map,
        text: bool = True,
    ) -> Iterator[Row]:
        """Yield the row of each key, in their order; make and keep those that are not there.

        Args:
            kind: what ``made`` counts them as.
            keys: of the rows.
            function: makes a row; must be known by its module's name to run elsewhere.
            given: what the function takes for the key at this position; called once, if needed.
            run: calls the function.
            text: whether rows carry their text, or "" in its place.

        """
        start, left = 0, iter(keys)
        while block := list(islice(left, AT_ONCE)):
            known = self.get(block, text)
            missing = {key: at for at, key in enumerate(block, start) if key not in known}
            made = run(function, (given(at) for at in missing.values()))
            fresh = dict(zip(missing, made, strict=True))
            self.put(fresh)
            self.made[kind] += len(fresh)
            yield from (fresh[key] if key in fresh else known[key] for key in block)
            start += len(block)

    def get(self, keys: Sequence[str], text: bool = True) -> dict[str, Row]:
        """The rows that are there; without their text, they are not checked."""
        marks = ",".join("?" * len(keys))
        columns = "text, data, more, sum" if text else "'', data, more, NULL"
        query = f"SELECT key, {columns} FROM prepared WHERE key IN ({marks})"  # noqa: S608
        return {
            key: (said, data, more)
            for key, said, data, more, checked in self._db.execute(query, keys)
            if not text or checked == _sum((said, data, more))
        }

    def drop_damaged(self, keys: Sequence[str]) -> int:
        """Forget rows whose text is not what was written; return how many are not there then."""
        gone = 0
        for start in range(0, len(keys), AT_ONCE):
            block = keys[start : start + AT_ONCE]
            sound = self.get(block)
            bad = [(key,) for key in block if key not in sound]
            if bad:
                self._db.executemany("DELETE FROM prepared WHERE key = ?", bad)
            gone += len(bad)
        return gone

    def put(self, rows: dict[str, Row]) -> None:
        """Keep rows; a kill after this returns does not lose them."""
        if not rows:
            return
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT OR REPLACE INTO prepared VALUES (?, ?, ?, ?, ?)",
                [(key, *row, _sum(row)) for key, row in rows.items()],
            )
            self._db.execute(
                "DELETE FROM prepared WHERE rowid <= (SELECT max(rowid) FROM prepared) - ?", (ROWS,)
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise self._unusable(error) from error

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    def __enter__(self) -> Prepared:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _unusable(self, error: Exception) -> SpaceError:
        return SpaceError(
            f"the cache of prepared documents cannot be written ({error})",
            self.path or "memory",
            "Free some space, delete the file, or set TWIN_HOME",
        )


def _sum(row: Row) -> bytes:
    text, data, more = row
    found = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8)
    found.update(b"%d %d " % (len(data), len(more)) + data + more)
    return found.digest()
