"""Pages, lists of addresses and feeds, over a real server on this machine."""

from pathlib import Path

import pytest

from llm_twin.corpus import Collected, DocumentCache, Source, open_source
from llm_twin.errors import CorpusError
from llm_twin.settings import Settings

Site = tuple[str, dict[str, tuple[int, str, bytes]]]
LONG = "<p>The wheel of the mill turns slowly in the evening, and nobody minds the sound.</p>"


def page(title: str, body: str = "") -> tuple[int, str, bytes]:
    text = (
        f"<html><head><title>{title}</title></head><body><nav><a href='/'>Home</a></nav><article>"
        f"<h1>{title}</h1>{LONG * 5}{body}</article><footer>Imprint</footer></body></html>"
    )
    return 200, "text/html; charset=utf-8", text.encode()


def feed(*items: str) -> bytes:
    head = '<?xml version="1.0"?><rss version="2.0"><channel><title>Mills</title>'
    return f"{head}{''.join(items)}</channel></rss>".encode()


def item(link: str, title: str, html: str) -> str:
    return (
        f"<item><title>{title}</title><link>{link}</link><description><![CDATA[{html}]]>"
        "</description><pubDate>Sat, 01 Jun 2024 10:00:00 GMT</pubDate></item>"
    )


def read(source: Source, cache: DocumentCache | None = None) -> Collected:
    return source.read(cache, lambda _: None)


def test_a_page_by_address(site: Site, settings: Settings) -> None:
    url, pages = site
    pages["/old"] = (302, "text/html", b"/mill")
    pages["/mill"] = page("Mills", "<h2>Sails</h2><p>They are made of cloth.</p>")
    source = open_source(f"{url}/old", settings)
    source.check()
    (document,) = read(source).documents
    assert (document.title, document.link) == ("Mills", f"{url}/old")
    assert "## Sails\n\nThey are made of cloth." in document.text
    assert "Imprint" not in document.text
    assert not settings.home.exists()


def test_the_revision_of_a_page_is_its_bytes(site: Site, settings: Settings) -> None:
    url, pages = site
    seen = []
    for title in ("One", "One", "Two"):
        pages["/a"] = page(title)
        seen.append(open_source(f"{url}/a", settings).revision())
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("name", ["mills.urls", "mills.txt"])
def test_a_list_of_addresses(site: Site, settings: Settings, tmp_path: Path, name: str) -> None:
    url, pages = site
    pages |= {"/a": page("A"), "/b": page("B"), "/c": page("C")}
    (tmp_path / name).write_text(f"# mine\n{url}/a\n\n{url}/b\n{url}/a\n{url}/c\n")
    source = open_source(str(tmp_path / name), settings, exclude=["*/c"])
    source.check()
    assert source.revision() == source.revision()
    with DocumentCache(tmp_path / "cache.db") as cache:
        first, second = read(source, cache), read(source, cache)
    assert [document.title for document in first.documents] == ["A", "B"]
    assert (first.reused, second.reused) == (0, 2)


def test_a_text_with_an_address_in_it_is_a_text(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.txt").write_text("https://example.org\nis an address.")
    (document,) = read(open_source(str(tmp_path / "a.txt"), settings)).documents
    assert document.text.endswith("is an address.")


def test_a_feed_with_whole_articles_is_not_fetched_further(site: Site, settings: Settings) -> None:
    url, pages = site
    html = LONG * 20 + "<h2>Stones</h2><pre><code>grind()<br>stop()</code></pre><script>x</script>"
    pages["/feed"] = (200, "application/rss+xml", feed(item(f"{url}/gone", "A &amp; B", html)))
    source = open_source(f"{url}/feed", settings)
    source.check()
    assert source.revision() == source.revision()
    (document,) = read(source).documents
    assert (document.title, document.published) == ("A & B", "2024-06-01")
    assert document.link == f"{url}/gone"
    assert "## Stones\n\n```\ngrind()\nstop()\n```" in document.text


def test_a_feed_of_teasers_is_followed(site: Site, settings: Settings) -> None:
    url, pages = site
    pages["/a"] = page("A")
    pages["/b.bin"] = (200, "application/octet-stream", b"x")
    entries = [item(f"{url}{path}", path, "Read on.") for path in ("/a", "/gone", "/b.bin", "/x")]
    pages["/feed"] = (200, "text/xml", feed(*entries))
    collected = read(open_source(f"{url}/feed", settings, exclude=["*/x"]))
    assert [document.title for document in collected.documents] == ["A"]
    assert [(one.uri, one.reason) for one in collected.skipped] == [
        (f"{url}/gone", "the server answered 404"),
        (f"{url}/b.bin", "not a web page but application/octet-stream"),
    ]


def test_an_atom_file_whose_entries_have_no_address(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "mills.atom").write_text(
        '<feed xmlns="http://www.w3.org/2005/Atom"><entry><id>tag:1</id><title>One</title>'
        '<author><name>Jane</name></author><content type="html">&lt;p&gt;Words.&lt;/p&gt;</content>'
        '</entry><entry><id>tag:2</id><content type="html">&lt;br&gt;</content></entry>'
        "<entry><id>tag:3</id></entry></feed>"
    )
    collected = read(open_source(str(tmp_path / "mills.atom"), settings))
    (document,) = collected.documents
    assert (document.uri, document.title, document.text) == ("tag:1", "One", "Words.")
    assert document.author == "Jane"
    assert [(one.uri, one.reason) for one in collected.skipped] == [
        ("tag:2", "the entry holds no text"),
        ("tag:3", "not an http or https address"),
    ]


def test_a_feed_without_entries(site: Site, settings: Settings) -> None:
    url, pages = site
    pages["/feed"] = (200, "text/xml", feed())
    with pytest.raises(CorpusError, match="the feed has no entries"):
        open_source(f"{url}/feed", settings).check()


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ((404, "text/html", b""), "the server answered 404"),
        ((200, "image/png", b"x"), "not a web page but image/png"),
        ((302, "text/html", b"/a"), r"no answer \(TooManyRedirects\)"),
        ((302, "text/html", b"ftp://127.0.0.1/a"), r"no answer \(UnsupportedProtocol\)"),
        ((200, "text/html", b"x" * (2**20 + 1)), "the answer is over the limit of 1 MB"),
    ],
)
def test_an_address_that_gives_no_page(
    site: Site, tmp_path: Path, answer: tuple[int, str, bytes], what: str
) -> None:
    url, pages = site
    pages["/a"] = answer
    small = Settings.load({"TWIN_HOME": str(tmp_path / "home"), "TWIN_MAX_DOCUMENT_MB": "1"})
    with pytest.raises(CorpusError, match=f"{what}: {url}/a. Check the address"):
        open_source(f"{url}/a", small).check()


def test_an_address_where_nobody_listens(settings: Settings) -> None:
    with pytest.raises(CorpusError, match=r"no answer \(ConnectError\): http://127.0.0.1:9/"):
        open_source("http://127.0.0.1:9/", settings).check()


def test_a_server_that_never_ends(
    site: Site, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llm_twin.corpus import web

    url, pages = site
    pages["/a"] = page("A")
    monkeypatch.setattr(web, "TOTAL_SECONDS", -1.0)
    with pytest.raises(CorpusError, match="no whole answer within"):
        open_source(f"{url}/a", settings).check()


def test_a_list_with_a_line_that_is_no_address(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.urls").write_text("ftp://a.b/c")
    with pytest.raises(CorpusError, match=r"not an http or https address: ftp://a.b/c"):
        open_source(str(tmp_path / "a.urls"), settings).check()


def test_a_list_that_is_not_text_or_goes_away(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.urls").write_bytes(b"\0")
    with pytest.raises(CorpusError, match=r"a binary file has the name of a text file .*: a\.urls"):
        open_source(str(tmp_path / "a.urls"), settings).check()
    (tmp_path / "a.rss").write_bytes(b"<rss>")
    source = open_source(str(tmp_path / "a.rss"), settings)
    (tmp_path / "a.rss").unlink()
    with pytest.raises(CorpusError, match=r"cannot be read \(No such file"):
        source.check()


def test_a_page_without_text(site: Site, settings: Settings) -> None:
    url, pages = site
    pages["/a"] = (200, "text/html", b"")
    with pytest.raises(CorpusError, match=r"no usable document .*no main text on the page"):
        read(open_source(f"{url}/a", settings))
