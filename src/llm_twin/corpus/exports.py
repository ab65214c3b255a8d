"""What Substack and Medium hand an author who exports a publication: a zip, or its folder.

Substack: ``posts.csv`` with a line per post, and ``posts/<id>.html`` with the bare bodies.
Medium: ``posts/<date>_<title>.html``, each a page with the title, author and address in it.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from llm_twin.corpus.decode import check_size, decode, exclude_hint
from llm_twin.corpus.document import Document
from llm_twin.corpus.extract import Unreadable, fragment, name_title
from llm_twin.corpus.files import collect, excluded, usable
from llm_twin.corpus.ports import Collected, Skipped
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.ports import Progress


def is_export(path: Path) -> bool:
    """Tell whether a folder or a zip holds a Substack or Medium export."""
    names = Shelf(path).sizes()
    return bool(_table(names) or _medium_posts(names))


@dataclass(frozen=True)
class Shelf:
    """The files of a folder or of a zip, by name."""

    path: Path

    def sizes(self) -> dict[str, int]:
        """Return the name and size in bytes of the tables and pages.

        Raises:
            CorpusError: it is not a readable zip.

        """
        if self.path.is_dir():
            found = [*self.path.glob("*.csv"), *self.path.glob("posts/*.html")]
            sizes = {at.relative_to(self.path).as_posix(): at.stat().st_size for at in found}
        else:
            with self._zip() as archive:
                sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        return dict(sorted(sizes.items()))

    def contents(self, names: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Yield names with their bytes; a zip is opened once."""
        archive = None if self.path.is_dir() else self._zip()
        with archive or nullcontext():
            for name in names:
                try:
                    yield name, archive.read(name) if archive else (self.path / name).read_bytes()
                except (OSError, zipfile.BadZipFile, RuntimeError) as error:
                    what = f"cannot be read from the export ({type(error).__name__})"
                    raise CorpusError(what, name, exclude_hint(name)) from None

    def _zip(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (OSError, zipfile.BadZipFile):
            raise CorpusError(
                "not a zip file that opens", self.path, "Export it again, or unpack it"
            ) from None


@dataclass(frozen=True)
class Export:
    """A source in an export.

    Attributes:
        spec: the path it was opened with.
        name: a short label.
        path: the zip or folder.
        max_mb: the largest post read, in MiB.
        exclude: patterns of names to leave out.

    """

    spec: str
    name: str
    path: Path
    max_mb: int
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise CorpusError when a post is too large or not text."""
        posts = self._posts()
        for name, size in posts.items():
            check_size(size, self.max_mb, name)
        for name, data in Shelf(self.path).contents(posts):
            decode(data, name)

    def files(self) -> list[Path]:
        """Return the zip, or the tables and pages in the folder."""
        if not self.path.is_dir():
            return [self.path]
        return [self.path / name for name in Shelf(self.path).sizes()]

    def revision(self) -> str:
        """Nothing beyond its files."""
        return ""

    def read(self, cache: DocumentCache | None, progress: Progress) -> Collected:
        """Extract every published post."""
        collected = Collected()
        shelf = Shelf(self.path)
        posts = self._posts()
        rows = self._rows(shelf)
        for name, size in posts.items():
            check_size(size, self.max_mb, name)
        for number, (name, html) in enumerate(shelf.contents(posts), start=1):
            progress(f"reading {number}/{len(posts)} {name}")
            row = rows.get(PurePosixPath(name).stem)
            if (row and row.get("is_published", "").lower() == "false") or "/draft_" in name:
                collected.skipped.append(Skipped(name, "not published"))
                continue
            # The table's line is part of what a post is made of, so it is part of its cache key.
            data = html + b"\n" + repr(row).encode() * bool(row)
            collect(collected, cache, name, data, _reader(row))
        return usable(collected, self.spec)

    def _posts(self) -> dict[str, int]:
        names = Shelf(self.path).sizes()
        posts = {name: size for name, size in names.items() if _is_post(name)}
        kept = {name: size for name, size in posts.items() if not excluded(name, self.exclude)}
        if not kept:
            raise CorpusError(
                "not a Substack or Medium export (no posts/*.html)",
                self.spec,
                "Give the zip as it was downloaded, or its folder",
            )
        return kept

    def _rows(self, shelf: Shelf) -> dict[str, dict[str, str]]:
        """Return Substack's table by post id, or nothing for Medium."""
        name = _table(shelf.sizes())
        if not name:
            return {}
        (data,) = (data for _, data in shelf.contents([name]))
        table = csv.DictReader(io.StringIO(decode(data, name)))
        return {row.get("post_id") or "": row for row in table}


def _is_post(name: str) -> bool:
    path = PurePosixPath(name)
    return path.suffix == ".html" and path.parent.name == "posts"


def _table(names: dict[str, int]) -> str:
    return next((name for name in names if PurePosixPath(name).name == "posts.csv"), "")


def _medium_posts(names: dict[str, int]) -> list[str]:
    """Return posts named as Medium names them: by date, or as drafts."""
    posts = [PurePosixPath(name).name for name in names if _is_post(name)]
    return [name for name in posts if re.match(r"\d{4}-\d\d-\d\d_|draft_", name)]


def _reader(row: dict[str, str] | None) -> Callable[[bytes, str], Document]:
    if row is None:
        return _medium
    return lambda data, uri: _substack(data, uri, row)


def _substack(data: bytes, uri: str, row: dict[str, str]) -> Document:
    html = decode(data, uri).rpartition("\n")[0]
    text = fragment(html)
    if not text:
        raise Unreadable("the post holds no text")
    subtitle = (row.get("subtitle") or "").strip()
    title = (row.get("title") or "").strip() or name_title(uri.partition(".")[2] or uri)
    body = f"{subtitle}\n\n{text}" if subtitle else text
    day = (row.get("post_date") or "")[:10]
    return Document(uri=uri, title=title, text=body, link=uri, published=day)


def _medium(data: bytes, uri: str) -> Document:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(decode(data, uri), "lxml")

    def said(selector: str, attribute: str = "") -> str:
        found = soup.select_one(selector)
        if found is None:
            return ""
        return str(found.get(attribute) or "") if attribute else found.get_text(" ", strip=True)

    title = said("h1.p-name") or said("title")
    body = soup.select_one("section[data-field=body], .e-content")
    text = fragment(str(body)) if body else ""
    if not text:
        raise Unreadable("the post holds no text")
    return Document(
        uri=uri,
        title=title or name_title(uri),
        text=text,
        link=said("a.p-canonical", "href") or uri,
        author=said(".p-author"),
        published=said("time.dt-published", "datetime")[:10],
    )
