"""What is known of a corpus and of an index without reading either: ``<home>/cache/features.db``.

Nothing in it is a text. Deleting it costs time and no result.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from llm_twin.errors import BusyError, SpaceError
from llm_twin.sqlite import named_errors, open_database, transaction

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from llm_twin.corpus.cleaning import Verdict

TITLE = "the features' ledger"
FILE = "features.db"
SCHEMA = """
CREATE TABLE files (
    source TEXT NOT NULL, uri TEXT NOT NULL, stamp TEXT NOT NULL, key TEXT NOT NULL,
    digest TEXT NOT NULL, link TEXT NOT NULL, reason TEXT NOT NULL,
    PRIMARY KEY (source, uri)
) WITHOUT ROWID;
CREATE TABLE surveys (source TEXT PRIMARY KEY, state TEXT NOT NULL, verdicts TEXT NOT NULL);
CREATE TABLE written (
    place TEXT NOT NULL, document TEXT NOT NULL, cut TEXT NOT NULL, chunks INTEGER NOT NULL,
    PRIMARY KEY (place, document)
) WITHOUT ROWID;
CREATE TABLE places (place TEXT PRIMARY KEY, complete INTEGER NOT NULL);
"""


class Seen(NamedTuple):
    """What a file was when it was read.

    Attributes:
        uri: its relative path.
        stamp: size, times and inode; see ``catalog.stamp``.
        key: of its document in the documents' cache.
        digest: Document.digest; empty if it holds none.
        link: Document.link.
        reason: why it was left out, if it was.

    """

    uri: str
    stamp: str
    key: str
    digest: str
    link: str
    reason: str


class Ledger:
    """One SQLite file.

    Raises:
        SpaceError: it cannot be opened or written.

    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = open_database(path, TITLE, [SCHEMA])

    def files(self, source: str) -> dict[str, Seen]:
        """What was seen of a source, by uri."""
        query = "SELECT uri, stamp, key, digest, link, reason FROM files WHERE source = ?"
        return {row[0]: Seen(*row) for row in self._db.execute(query, (source,))}

    def see(self, source: str, seen: Iterable[Seen]) -> None:
        """Remember files."""
        with self._writing():
            self._db.executemany(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(source, *one) for one in seen],
            )

    def miss(self, source: str, uris: Iterable[str]) -> None:
        """Forget files that are gone."""
        with self._writing():
            self._db.executemany(
                "DELETE FROM files WHERE source = ? AND uri = ?", [(source, uri) for uri in uris]
            )

    def survey(self, source: str, state: str) -> list[list[str]] | None:
        """Key, digest and reason of each verdict on a source in this state, if it is the last."""
        query = "SELECT verdicts FROM surveys WHERE source = ? AND state = ?"
        row = self._db.execute(query, (source, state)).fetchone()
        return json.loads(row[0]) if row else None

    def keep_survey(self, source: str, state: str, verdicts: Sequence[Verdict]) -> None:
        """Keep the verdicts on a source in this state, in place of the last ones."""
        said = json.dumps([[one.key, one.digest, one.reason] for one in verdicts])
        with self._writing():
            self._db.execute(
                "INSERT OR REPLACE INTO surveys VALUES (?, ?, ?)", (source, state, said)
            )

    def written(self, place: str) -> dict[str, tuple[str, int]]:
        """The cut and the number of chunks of each document that was wholly written there."""
        query = "SELECT document, cut, chunks FROM written WHERE place = ?"
        return {one: (cut, chunks) for one, cut, chunks in self._db.execute(query, (place,))}

    def complete(self, place: str) -> bool:
        """Whether the last work on an index came to its end."""
        row = self._db.execute("SELECT complete FROM places WHERE place = ?", (place,)).fetchone()
        return bool(row and row[0])

    def set_complete(self, place: str, complete: bool) -> None:
        """Say whether work on an index came to its end."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO places VALUES (?, ?)", (place, int(complete)))

    def write(self, place: str, rows: Iterable[tuple[str, str, int]]) -> None:
        """Remember documents (document, cut, chunks) that are wholly in an index."""
        with self._writing():
            self._db.executemany(
                "INSERT OR REPLACE INTO written VALUES (?, ?, ?, ?)",
                [(place, *row) for row in rows],
            )

    def unwrite(self, place: str, documents: Iterable[str]) -> None:
        """Forget that documents are in an index, before they are deleted from it."""
        with self._writing():
            self._db.executemany(
                "DELETE FROM written WHERE place = ? AND document = ?",
                [(place, one) for one in documents],
            )

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with named_errors(TITLE, self._path), transaction(self._db):
            yield


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock file for a block; the system lets it go when the process ends, however it ends.

    Raises:
        BusyError: another process holds it.
        SpaceError: it cannot be written.

    """
    import fcntl

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise SpaceError(
            f"a lock cannot be written ({error.strerror})", path, "Set TWIN_HOME"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError(
                "another process brings features up to date", path, "Wait until it has ended"
            ) from None
        yield
