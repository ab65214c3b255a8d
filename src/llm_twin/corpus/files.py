"""Documents from files: one file, a folder, or the work tree of a repository.

A repository gives its documentation and the docstrings of its Python files. What Git ignores,
tests, licences and lists of requirements are not documents of it.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from llm_twin.corpus.cache import document_key
from llm_twin.corpus.decode import READ_TYPES, check_notebook, check_size, decode, exclude_hint
from llm_twin.corpus.ports import Collected, Skipped
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.document import Document
    from llm_twin.corpus.ports import Progress

SUFFIXES = frozenset(READ_TYPES.split())
SKIPPED_FOLDERS = frozenset(
    ("node_modules", "__pycache__", "site-packages", "venv", "build", "dist")
)

_NOT_DOCUMENTATION = re.compile(
    r"(.*/)?(tests?|testing/fixtures|requirements|vendor|third_party)/.*"
    r"|(.*/)?((un)?licen[cs]es?|copying|notice|authors|robots|cmakelists|.*lock)(\.\w+)?"
    r"|(.*/)?(.*requirements.*|constraints.*)\.txt|(.*/)?(test_.*|.*_test|conftest)\.py",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Files:
    """A source of files below one folder.

    Attributes:
        spec: the path it was opened with.
        name: a short label.
        root: the folder that uris are relative to.
        max_mb: the largest document read, in MiB.
        only: the one file to read, or "" for all.
        exclude: patterns of relative paths to leave out.
        repository: read a repository's documentation and docstrings.
        base: a web address that relative paths are appended to for links, or "".

    """

    spec: str
    name: str
    root: Path
    max_mb: int
    only: str = ""
    exclude: tuple[str, ...] = ()
    repository: bool = False
    base: str = ""

    def check(self) -> None:
        """Raise CorpusError for the first file that cannot be read as what its name says."""
        inputs = self._some()
        for uri in inputs:
            check_size(self._stat(uri).st_size, self.max_mb, uri)
        for uri in inputs:
            suffix = PurePosixPath(uri).suffix.lower()
            if suffix in (".py", ".pdf"):  # one that is broken is skipped, so nothing to say yet
                continue
            data = self._bytes(uri)
            if suffix in (".md", ".markdown", ".txt"):
                decode(data, uri)
            elif suffix in (".html", ".htm"):
                from llm_twin.corpus.extract import decode_html

                decode_html(data, uri)
            elif suffix == ".ipynb":
                check_notebook(decode(data, uri), uri)

    def files(self) -> list[Path]:
        """Return the files that are read."""
        return [self.root / uri for uri in self.inputs()]

    def revision(self) -> str:
        """Nothing beyond its files."""
        return ""

    def read(self, cache: DocumentCache | None, progress: Progress) -> Collected:
        """Extract every file that is new or changed."""
        collected = Collected()
        inputs = self._some()
        for number, uri in enumerate(inputs, start=1):
            progress(f"reading {number}/{len(inputs)} {uri}")
            check_size(self._stat(uri).st_size, self.max_mb, uri)
            link = f"{self.base}{uri}" if self.base else uri
            collect(collected, cache, uri, self._bytes(uri), _extractor(uri, link))
        return usable(collected, self.spec)

    def inputs(self) -> list[str]:
        """Return the relative paths read, sorted."""
        if self.only:
            return [self.only]
        listed = (self._tracked() if self.repository else None) or self._walked()
        return sorted(uri for uri in listed if self._is_input(uri))

    def _some(self) -> list[str]:
        inputs = self.inputs()
        if not inputs:
            raise CorpusError(
                "no document to read", self.spec, f"Types that are read: {READ_TYPES}"
            )
        return inputs

    def _is_input(self, uri: str) -> bool:
        path = PurePosixPath(uri)
        suffixes = SUFFIXES | {".py"} if self.repository else SUFFIXES
        if path.suffix.lower() not in suffixes or _is_hidden(path):
            return False
        if self.repository and _NOT_DOCUMENTATION.fullmatch(uri):
            return False
        return not excluded(uri, self.exclude) and self._is_file(uri)

    def _is_file(self, uri: str) -> bool:
        """Tell a file from a broken link; one that may not be looked at is reported when read."""
        try:
            return (self.root / uri).is_file()
        except OSError:
            return True

    def _tracked(self) -> list[str] | None:
        """Return what Git lists, ignored files left out, or None where Git cannot tell."""
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        try:
            listed = subprocess.run(
                command, cwd=self.root, capture_output=True, check=True, timeout=60
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return None
        return [os.fsdecode(path) for path in set(listed.split(b"\0")) if path]

    def _walked(self) -> Iterator[str]:
        for folder, below, files in os.walk(self.root, onerror=_raise_unreadable):
            below[:] = [name for name in below if not _is_skipped_folder(name)]
            for name in files:
                yield (Path(folder) / name).relative_to(self.root).as_posix()

    def _stat(self, uri: str) -> os.stat_result:
        try:
            return (self.root / uri).stat()
        except OSError as error:
            raise _unreadable(uri, error) from None

    def _bytes(self, uri: str) -> bytes:
        try:
            return (self.root / uri).read_bytes()
        except OSError as error:
            raise _unreadable(uri, error) from None


def excluded(uri: str, patterns: Sequence[str]) -> bool:
    """Tell whether a relative path, or a folder above it, matches one of the patterns."""
    above = [str(folder) for folder in PurePosixPath(uri).parents]
    return any(fnmatch(path, pattern.rstrip("/")) for pattern in patterns for path in (uri, *above))


def collect(
    collected: Collected,
    cache: DocumentCache | None,
    uri: str,
    data: bytes,
    extract: Callable[[bytes, str], Document | None],
) -> None:
    """Add one document, from the cache when its bytes have not changed, or the reason why not."""
    from llm_twin.corpus.extract import Unreadable

    key = document_key(uri, data)
    document = cache.get(key) if cache else None
    if document:
        collected.reused += 1
        collected.documents.append(document)
        return
    try:
        document = extract(data, uri)
    except Unreadable as reason:
        collected.skipped.append(Skipped(uri, str(reason)))
        return
    if document:
        collected.documents.append(document)
        if cache:
            cache.put(key, document)


def usable(collected: Collected, spec: str) -> Collected:
    """Return what was collected.

    Raises:
        CorpusError: nothing was; the message says why the first one was skipped.

    """
    if collected.documents:
        return collected
    first = next((f" ({one.uri}: {one.reason})" for one in collected.skipped), "")
    raise CorpusError(f"no usable document{first}", spec, f"Types that are read: {READ_TYPES}")


def _extractor(uri: str, link: str) -> Callable[[bytes, str], Document | None]:
    from llm_twin.corpus.docstrings import docstrings
    from llm_twin.corpus.extract import extract

    if uri.endswith(".py"):
        return lambda data, uri: docstrings(data, uri, link)
    return lambda data, uri: extract(data, uri, link)


def _is_hidden(path: PurePosixPath) -> bool:
    return path.name.startswith(".") or any(_is_skipped_folder(part) for part in path.parts[:-1])


def _is_skipped_folder(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED_FOLDERS


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(str(error.filename), error) from None


def _unreadable(uri: str, error: OSError) -> CorpusError:
    return CorpusError(f"cannot be read ({error.strerror})", uri, exclude_hint(uri))
