"""Documents from the web: one page, a list of addresses, or an RSS or Atom feed.

A feed that carries whole articles is read as it is; otherwise the pages it points to are fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llm_twin.corpus.cache import EXTRACTOR
from llm_twin.corpus.decode import decode
from llm_twin.corpus.document import Document, content_id
from llm_twin.corpus.extract import Unreadable, decode_html, fragment, page
from llm_twin.corpus.files import collect, excluded, usable
from llm_twin.corpus.markdown import html_text
from llm_twin.corpus.ports import Collected, Skipped
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.ports import Progress

CONNECT_SECONDS = 10.0
TOTAL_SECONDS = 60.0
REDIRECTS = 5
_FEED = re.compile(rb"<(rss|feed|rdf:rdf)[\s>]", re.IGNORECASE)
WHOLE_ARTICLE = 1500
"""Characters of HTML from which a feed's entry is taken for the article itself."""


class Unanswered(Exception):
    """An address that gave no page, with the reason."""


@dataclass(frozen=True)
class Answer:
    """The bytes an address answered with, and what it says they are."""

    url: str
    data: bytes
    kind: str


def fetch(url: str, max_mb: int) -> Answer:
    """Get an http(s) address, following redirects, within limits of time and size.

    Raises:
        Unanswered: it does not answer, answers with an error, or with too much.

    """
    import time

    import httpx

    if urlsplit(url).scheme not in ("http", "https"):
        raise Unanswered("not an http or https address")
    until = time.monotonic() + TOTAL_SECONDS
    data = bytearray()
    try:
        with (
            httpx.Client(follow_redirects=True, max_redirects=REDIRECTS) as client,
            client.stream("GET", url, timeout=CONNECT_SECONDS) as response,
        ):
            if response.is_error:
                raise Unanswered(f"the server answered {response.status_code}")
            for part in response.iter_bytes():
                data += part
                if len(data) > max_mb * 2**20:
                    raise Unanswered(f"the answer is over the limit of {max_mb} MB")
                if time.monotonic() > until:
                    raise Unanswered(f"no whole answer within {TOTAL_SECONDS:.0f} seconds")
            return Answer(str(response.url), bytes(data), response.headers.get("content-type", ""))
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
        raise Unanswered(f"no answer ({type(error).__name__})") from error


@dataclass
class Web:
    """A source of one address, or of the addresses or the feed in a local file.

    Attributes:
        spec: the address or path.
        name: a short label.
        max_mb: the largest page read, in MiB.
        exclude: patterns of addresses to leave out.
        path: the local file with a list of addresses or a feed, or None.

    """

    spec: str
    name: str
    max_mb: int
    exclude: tuple[str, ...] = ()
    path: Path | None = None
    _answers: dict[str, Answer] = field(default_factory=dict, repr=False)

    def check(self) -> None:
        """Raise CorpusError when the address, or a page of the list, gives nothing to read."""
        if self._entries is None:
            for url in self.urls:
                self._page(url)

    def files(self) -> list[Path]:
        """None: everything is remote."""
        return []

    def revision(self) -> str:
        """Return a digest of the bytes fetched."""
        if self._entries is not None:
            return content_id(EXTRACTOR, self.spec, self._first.data.decode("latin-1"), length=32)
        pages = [self._page(url).data.decode("latin-1") for url in self.urls]
        return content_id(EXTRACTOR, self.spec, *self.urls, *pages, length=32)

    def read(self, cache: DocumentCache | None, progress: Progress) -> Collected:
        """Read the feed's entries, or the pages."""
        collected = Collected()
        entries = self._entries
        urls = self.urls if entries is None else [_link(entry) for entry in entries]
        for number, url in enumerate(urls):
            if excluded(url, self.exclude):
                continue
            progress(f"reading {number + 1}/{len(urls)} {url}")
            entry = entries[number] if entries is not None else None
            try:
                self._collect(collected, cache, url, entry)
            except Unanswered as reason:
                collected.skipped.append(Skipped(url, str(reason)))
        return usable(collected, self.spec)

    def _collect(
        self, collected: Collected, cache: DocumentCache | None, url: str, entry: Any
    ) -> None:
        html = _body(entry) if entry is not None else ""
        if len(html) >= WHOLE_ARTICLE or (html and not url.startswith("http")):
            data = html.encode()
            collect(collected, cache, url, data, lambda data, uri: _article(data, uri, entry))
            return
        answer = self._page(url) if entry is None else _html_only(fetch(url, self.max_mb))
        collect(collected, cache, url, answer.data, _page_document)

    @cached_property
    def urls(self) -> list[str]:
        """The addresses of pages: those listed in the file, or the one given."""
        if self.path is None:
            return [self.spec]
        return [url for url in listed(self.path) if not excluded(url, self.exclude)]

    @cached_property
    def _first(self) -> Answer:
        """The feed, or the one page."""
        if self.path is not None:
            return Answer(self.spec, _local_bytes(self.path), "")
        return self._fetched(self.spec)

    @cached_property
    def _entries(self) -> list[Any] | None:
        """The feed's entries, or None when this is not a feed."""
        if self.path is not None and self.path.suffix.lower() in (".urls", ".txt"):
            return None
        data = self._first.data
        if not _FEED.search(data[:4096]):
            return None
        import feedparser  # type: ignore[import-untyped]

        entries = [entry for entry in feedparser.parse(data).entries if _link(entry)]
        if not entries:
            raise CorpusError("the feed has no entries", self.spec, "Give another address")
        return entries

    def _page(self, url: str) -> Answer:
        """Return a page that was asked for by name; without it the corpus is not what was meant."""
        answer = self._first if url == self.spec else self._fetched(url)
        try:
            return _html_only(answer)
        except Unanswered as reason:
            raise _unusable(url, reason) from None

    def _fetched(self, url: str) -> Answer:
        try:
            if url not in self._answers:
                self._answers[url] = fetch(url, self.max_mb)
        except Unanswered as reason:
            raise _unusable(url, reason) from None
        return self._answers[url]


def listed(path: Path) -> list[str]:
    """Return the addresses in a file, one a line; blank lines and lines with # are left out."""
    text = decode(_local_bytes(path), path.name)
    lines = (line.strip() for line in text.splitlines())
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def _local_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"cannot be read ({error.strerror})", path) from None


def _unusable(url: str, reason: Unanswered) -> CorpusError:
    hint = f"Check the address in a browser, or leave it out with --exclude '{url}'"
    return CorpusError(str(reason), url, hint)


def _html_only(answer: Answer) -> Answer:
    kind = answer.kind.partition(";")[0].strip().lower()
    if kind and kind not in ("text/html", "application/xhtml+xml"):
        raise Unanswered(f"not a web page but {kind}")
    return answer


def _link(entry: Any) -> str:
    return str(entry.get("link") or entry.get("id") or "")


def _body(entry: Any) -> str:
    """Return the longest HTML text that a feed's entry carries."""
    texts = [str(part.get("value", "")) for part in entry.get("content", [])]
    return max([*texts, str(entry.get("summary", ""))], key=len)


def _article(data: bytes, uri: str, entry: Any) -> Document:
    day = entry.get("published_parsed") or entry.get("updated_parsed")
    text = fragment(data.decode())
    if not text:
        raise Unreadable("the entry holds no text")
    return Document(
        uri=uri,
        title=html_text(str(entry.get("title", ""))) or uri,
        text=text,
        link=uri,
        author=str(entry.get("author", "")),
        published="{:04}-{:02}-{:02}".format(*day[:3]) if day else "",
    )


def _page_document(data: bytes, uri: str) -> Document:
    found = page(decode_html(data, uri), uri)
    return Document(
        uri=uri,
        title=found.title or uri,
        text=found.text,
        link=uri,
        author=found.author,
        published=found.published,
    )
