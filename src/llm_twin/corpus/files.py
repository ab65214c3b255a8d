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
    from llm_twin.corpus.prepared import Run

SUFFIXES = frozenset(READ_TYPES.split())
FILES_AT_ONCE = 200
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
class Extraction:
    """What a file holds.

    Attributes:
        uri: its relative path.
        key: of the document in the cache.
        content: the document, why it was left out, or None if there is nothing to say.
        reused: whether it came from the cache.

    """

    uri: str
    key: str
    content: Document | Skipped | None
    reused: bool


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
            check_size(self.stat(uri).st_size, self.max_mb, uri)
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

    def read(self, cache: DocumentCache | None, progress: Progress, run: Run = map) -> Collected:
        """Extract every file that is new or changed."""
        collected = Collected()
        inputs = self._some()
        for number, found in enumerate(self.extracted(inputs, cache, run), start=1):
            progress(f"reading {number}/{len(inputs)} {found.uri}")
            collected.reused += found.reused
            if isinstance(found.content, Skipped):
                collected.skipped.append(found.content)
            elif found.content:
                collected.documents.append(found.content)
        return usable(collected, self.spec)

    def extracted(
        self, uris: Sequence[str], cache: DocumentCache | None, run: Run = map
    ) -> Iterator[Extraction]:
        """Yield what each of these files holds, in their order.

        Args:
            uris: relative paths.
            cache: of documents.
            run: extracts the new ones; the bytes are read here, so it may be another machine.

        """
        for start in range(0, len(uris), FILES_AT_ONCE):
            block = uris[start : start + FILES_AT_ONCE]
            for uri in block:
                check_size(self.stat(uri).st_size, self.max_mb, uri)
            given = {uri: (self._bytes(uri), uri, f"{self.base}{uri}") for uri in block}
            keys = {uri: document_key(uri, data) for uri, (data, _, _) in given.items()}
            known = {uri: cache.get(key) for uri, key in keys.items()} if cache else {}
            new = [uri for uri in block if not known.get(uri)]
            made = dict(zip(new, run(_extract, (given[uri] for uri in new)), strict=True))
            for uri in block:
                content = known.get(uri) or made[uri]
                if cache and uri in made and content and not isinstance(content, Skipped):
                    cache.put(keys[uri], content)
                yield Extraction(uri, keys[uri], content, reused=uri not in made)

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

    def stat(self, uri: str) -> os.stat_result:
        """What the file system says of a file.

        Raises:
            CorpusError: it may not be looked at.

        """
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


def _extract(given: tuple[bytes, str, str]) -> Document | Skipped | None:
    """The document in a file's bytes, or why there is none."""
    from llm_twin.corpus.docstrings import docstrings
    from llm_twin.corpus.extract import Unreadable, extract

    data, uri, link = given
    try:
        return docstrings(data, uri, link) if uri.endswith(".py") else extract(data, uri, link)
    except Unreadable as reason:
        return Skipped(uri, str(reason))


def _is_hidden(path: PurePosixPath) -> bool:
    return path.name.startswith(".") or any(_is_skipped_folder(part) for part in path.parts[:-1])


def _is_skipped_folder(name: str) -> bool:
    return name.startswith(".") or name in SKIPPED_FOLDERS


def _raise_unreadable(error: OSError) -> None:
    raise _unreadable(str(error.filename), error) from None


def _unreadable(uri: str, error: OSError) -> CorpusError:
    return CorpusError(f"cannot be read ({error.strerror})", uri, exclude_hint(uri))
