"""Which source a path or an address is. Nothing heavy is imported to find out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

from llm_twin.corpus.decode import READ_TYPES
from llm_twin.corpus.document import content_id
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.corpus.ports import Source
    from llm_twin.settings import Settings

OTHER_TYPES = ".json (LLM Engineer's Handbook) .zip (Substack, Medium) .xml .rss .atom .urls"

_GIT = re.compile(
    r"[\w.-]+@[\w.-]+:.+|(ssh|git)://.+|(https?|file)://.+\.git/?"
    r"|https://(github|gitlab)\.com/[\w.-]+/[\w.-]+/?"
)


def open_source(spec: str, settings: Settings, exclude: Sequence[str] = ()) -> Source:
    """Return the source that a path or an address stands for.

    Args:
        spec: a folder, file, Git repository, web page, feed, list of addresses or export.
        settings: for the state folder and the limit of a document's size.
        exclude: patterns (as in a shell) of relative paths or addresses to leave out.

    Raises:
        CorpusError: there is no such path, or it is of a type that is not read.

    """
    patterns = tuple(exclude)
    if _GIT.fullmatch(spec):
        return _clone(spec, settings, patterns)
    scheme = urlsplit(spec).scheme
    if scheme in ("http", "https"):
        from llm_twin.corpus.web import Web

        name = urlsplit(spec).netloc
        return Web(spec=spec, name=name, max_mb=settings.max_document_mb, exclude=patterns)
    path = Path(url2pathname(urlsplit(spec).path) if scheme == "file" else spec).expanduser()
    return _local(spec, path, settings, patterns)


def _clone(spec: str, settings: Settings, exclude: tuple[str, ...]) -> Source:
    from llm_twin.corpus.clone import Clone

    name = spec.rstrip("/").removesuffix(".git").replace(":", "/").rpartition("/")[2]
    folder = settings.home / "cache" / "git" / f"{name}-{content_id(spec, length=8)}"
    return Clone(spec, name, folder, settings.max_document_mb, exclude)


def _local(spec: str, path: Path, settings: Settings, exclude: tuple[str, ...]) -> Source:
    try:
        path = path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise CorpusError(
            "no such file or folder",
            spec,
            "Give a folder, a file or a URL: invoke ct --corpus PATH",
        ) from None
    limit = settings.max_document_mb
    if path.is_dir():
        return _folder(spec, path, settings, exclude)
    suffix = path.suffix.lower()
    if suffix == ".json":
        from llm_twin.corpus.handbook import Handbook

        return Handbook(spec, path.name, path, limit, exclude)
    if suffix == ".zip":
        from llm_twin.corpus.exports import Export

        return Export(spec, path.name, path, limit, exclude)
    if suffix in (".urls", ".xml", ".rss", ".atom") or (suffix == ".txt" and _lists_urls(path)):
        from llm_twin.corpus.web import Web

        return Web(spec, path.name, limit, exclude, path)
    if suffix not in READ_TYPES.split():
        raise CorpusError(
            "not a type of file that is read", spec, f"Types: {READ_TYPES} {OTHER_TYPES}"
        )
    from llm_twin.corpus.files import Files

    return Files(spec, path.name, path.parent, limit, only=path.name, exclude=exclude)


def _folder(spec: str, path: Path, settings: Settings, exclude: tuple[str, ...]) -> Source:
    from llm_twin.corpus.exports import Export, is_export
    from llm_twin.corpus.files import Files

    limit = settings.max_document_mb
    if (path / "HEAD").is_file() and (path / "objects").is_dir():
        return _clone(str(path), settings, exclude)
    if is_export(path):
        return Export(spec, path.name, path, limit, exclude)
    repository = (path / ".git").exists() or (path / "pyproject.toml").is_file()
    return Files(spec, path.name, path, limit, exclude=exclude, repository=repository)


def _lists_urls(path: Path) -> bool:
    """Tell whether a text file holds nothing but addresses; larger ones are taken for texts."""
    try:
        if path.stat().st_size > 2**20:
            return False
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError):
        return False
    urls = [line for line in lines if line and not line.startswith("#")]
    return bool(urls) and all(re.fullmatch(r"https?://\S+", url) for url in urls)
