"""Substack and Medium exports, and the handbook's JSON."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llm_twin.corpus import Collected, DocumentCache, Source, chunk, clean, open_source
from llm_twin.errors import CorpusError
from llm_twin.settings import Settings

SUBSTACK = {
    "posts.csv": (
        "post_id,post_date,is_published,title,subtitle\n"
        '1.mills,2024-05-06T10:00:00Z,true,"On mills, again",How it went\n'
        "2.draft,,false,Draft,\n3.empty,2024-01-01,true,Empty,\n"
    ),
    "posts/1.mills.html": (
        "<p>The wheel turns.</p><div class='subscription-widget-wrap'>Subscribe</div>"
        "<p class='button-wrapper'><a href='#'>Share</a></p><h3>Stones</h3><p>They grind.</p>"
    ),
    "posts/2.draft.html": "<p>Not yet.</p>",
    "posts/3.empty.html": "",
    "posts/4.unlisted-post.html": "<html><body><section class='e-content'><p>Yes.</p></section>",
}
MEDIUM = {
    "README.html": "<p>Your archive</p>",
    "profile/about.html": "<p>About</p>",
    "posts/2024-05-06_On-mills-abc.html": (
        "<html><head><title>On mills</title></head><body><article><header>"
        "<h1 class='p-name'>On mills</h1></header><section data-field='body' class='e-content'>"
        "<h3>On mills</h3><p>The wheel turns.</p><pre>grind()<br>stop()</pre></section><footer>"
        "<p>By <a class='p-author h-card'>Jane Roe</a> on <a><time class='dt-published'"
        " datetime='2024-05-06T10:00:00Z'>May 6</time></a></p>"
        "<a href='https://medium.com/mills' class='p-canonical'>Canonical link</a></footer>"
    ),
    "posts/draft_x.html": "<p>Draft</p>",
    "posts/2023-01-01_Empty.html": "<p>No body</p>",
}


def read(source: Source, cache: DocumentCache | None = None) -> Collected:
    return source.read(cache, lambda _: None)


def packed(tmp_path: Path, files: dict[str, str], as_zip: bool) -> str:
    if as_zip:
        with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
            for name, text in files.items():
                archive.writestr(name, text)
        return str(tmp_path / "export.zip")
    for name, text in files.items():
        (tmp_path / "export" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "export" / name).write_text(text)
    return str(tmp_path / "export")


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_substack_export(tmp_path: Path, settings: Settings, as_zip: bool) -> None:
    source = open_source(packed(tmp_path, SUBSTACK, as_zip), settings)
    source.check()
    with DocumentCache(tmp_path / "cache.db") as cache:
        collected, again = read(source, cache), read(source, cache)
    mills, unlisted = collected.documents
    assert (mills.title, mills.published) == ("On mills, again", "2024-05-06")
    assert mills.text == "How it went\n\nThe wheel turns.\n\n### Stones\n\nThey grind."
    assert unlisted.text == "Yes."
    assert [(one.uri, one.reason) for one in collected.skipped] == [
        ("posts/2.draft.html", "not published"),
        ("posts/3.empty.html", "the post holds no text"),
    ]
    assert again.reused == 2
    assert source.files()
    assert source.revision() == ""


@pytest.mark.parametrize("as_zip", [True, False])
def test_a_medium_export(tmp_path: Path, settings: Settings, as_zip: bool) -> None:
    source = open_source(packed(tmp_path, MEDIUM, as_zip), settings)
    source.check()
    collected = read(source)
    (mills,) = collected.documents
    assert (mills.title, mills.author) == ("On mills", "Jane Roe")
    assert (mills.link, mills.published) == ("https://medium.com/mills", "2024-05-06")
    assert mills.text == "### On mills\n\nThe wheel turns.\n\n```\ngrind()\nstop()\n```"
    assert [one.reason for one in collected.skipped] == ["the post holds no text", "not published"]
    with pytest.raises(CorpusError, match="no posts"):
        open_source(source.spec, settings, exclude=["posts/*"]).check()


@pytest.mark.parametrize(("data", "what"), [(b"PK no", "not a zip file"), (b"", "not a zip")])
def test_a_broken_zip(tmp_path: Path, settings: Settings, data: bytes, what: str) -> None:
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(CorpusError, match=what):
        open_source(str(tmp_path / "a.zip"), settings).check()


def test_a_zip_of_something_else_or_with_a_damaged_post(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(CorpusError, match="not a Substack or Medium export"):
        open_source(packed(tmp_path, {"a.txt": "x"}, True), settings).check()
    path = Path(packed(tmp_path, {"posts/2024-01-01_a.html": "<p>words</p>"}, True))
    path.write_bytes(path.read_bytes().replace(b"words", b"wards"))
    with pytest.raises(CorpusError, match=r"cannot be read from the export \(BadZipFile\): posts/"):
        open_source(str(path), settings).check()


def handbook(tmp_path: Path, rows: object, name: str = "articles.json") -> str:
    (tmp_path / name).write_text(json.dumps(rows))
    return str(tmp_path / name)


def row(**fields: Any) -> dict[str, Any]:
    return {"platform": "mills.org", "author_full_name": "Jane Roe", **fields}


def test_handbook_rows_of_every_shape(tmp_path: Path, settings: Settings) -> None:
    text = "# Jane Roe\n\n# On mills\n\nThe wheel turns slowly in the evening of the day."
    rows = [
        row(
            content={"Title": "T", "Subtitle": None, "Content": text, "language": "en"}, link="l/1"
        ),
        row(content={"title": None, "Content": text}, link="l/1"),
        row(content={"text": "A post without a title that is rather long " * 4}, _id="p"),
        row(content="Plain words.", title="Plain", author_full_name=None),
        row(content={"Title": "Only a title", "Content": None}, link="l/none"),
        row(content=None, link="l/null"),
        row(
            content={"README.md": "# Repo\n\nIt is good.", "a/b.md": "nospaces", "c.py": "x = 1"},
            platform="github",
            link="https://github.com/j/r",
        ),
        "not a row",
        {"no": "content"},
    ]
    source = open_source(handbook(tmp_path, rows), settings)
    source.check()
    with DocumentCache(tmp_path / "cache.db") as cache:
        collected, again = read(source, cache), read(source, cache)
    assert [(document.uri, document.title) for document in collected.documents] == [
        ("l/1", "T"),
        ("l/1#2", "On mills"),
        ("p", "A post without a title that is rather long A post without a title that is…"),
        ("articles.json#3", "Plain"),
        ("https://github.com/j/r/README.md", "Repo"),
    ]
    assert collected.documents[0].author == "Jane Roe"
    assert [one.uri for one in collected.skipped] == ["l/none", "l/null"]
    assert again.reused == 5
    assert [path.name for path in source.files()] == ["articles.json"]
    assert source.revision() == ""


def test_an_artifact_of_the_handbook(tmp_path: Path, settings: Settings) -> None:
    rows = {"artifact_data": [row(content="Clean words.", link="l/1")], "version": 1}
    (document,) = read(open_source(handbook(tmp_path, rows), settings)).documents
    assert document.text == "Clean words."


def test_what_html2text_did_is_undone(tmp_path: Path, settings: Settings) -> None:
    text = (
        "# On mills\n\n### How it\nwent\n\n  * an item\n\n    \n    \n    turn()\n    \n"
        "        stop() __\n\nThe wheel**** turns.\n\n    \n    \n    last()"
    )
    rows = [row(content={"Title": "On mills", "Subtitle": "How it went", "Content": text})]
    (document,) = read(open_source(handbook(tmp_path, rows), settings)).documents
    assert document.text == (
        "# On mills\n\nHow it went\n\n  * an item\n\n\n````\nturn()\n\n    stop()\n````\n\n"
        "The wheel turns.\n\n\n````\nlast()\n````"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[{"content": ]', r"malformed JSON at line 1 column 14 \(Expecting value\)"),
        ("[1, 2]", "not the handbook's format"),
        ('{"a": 1}', "not the handbook's format"),
        ("3", "not the handbook's format"),
        ('[{"content": {}}]', "no usable document"),
    ],
)
def test_json_that_is_not_a_corpus(
    tmp_path: Path, settings: Settings, text: str, what: str
) -> None:
    (tmp_path / "a.json").write_text(text)
    source = open_source(str(tmp_path / "a.json"), settings)
    with pytest.raises(CorpusError, match=what):
        read(source)


def test_a_large_article_is_refused(tmp_path: Path) -> None:
    small = Settings.load({"TWIN_HOME": str(tmp_path), "TWIN_MAX_DOCUMENT_MB": "1"})
    rows = [row(content={"Content": "x" * (2**20 + 1)}, link="l/1"), row(content="y", link="l/2")]
    path = handbook(tmp_path, rows)
    with pytest.raises(CorpusError, match="a document of 1 MB is over the limit of 1 MB: l/1"):
        open_source(path, small).check()
    source = open_source(path, small, exclude=["l/1"])
    source.check()
    assert [document.uri for document in read(source).documents] == ["l/2"]


def test_a_json_file_that_goes_away(tmp_path: Path, settings: Settings) -> None:
    source = open_source(handbook(tmp_path, []), settings)
    (tmp_path / "articles.json").unlink()
    with pytest.raises(CorpusError, match="cannot be read"):
        source.check()


def test_a_whole_page_becomes_chunks_without_its_frame(tmp_path: Path, settings: Settings) -> None:
    body = "\n\n".join(f"The wheel number {n} turns slowly in the evening wind." for n in range(9))
    text = (
        f"# Jane Roe\n\nSubscribeSign in\n\n# On mills\n\nJane Roe\n\nJun 12, 2024\n\n{body}\n\n"
        f"### Stones\n\n    \n    \n    grind()\n\n{body.replace('wheel', 'stone')}\n\n"
        "Share\n\n#### Discussion about this post\n\nNo posts\n\nReady for more?"
    )
    rows = [row(content={"Title": "On mills - Jane Roe", "Content": text}, link="https://m.org/1")]
    cleaned = clean(read(open_source(handbook(tmp_path, rows), settings)).documents)
    chunks = chunk(cleaned.documents[0], lambda text: len(text.split()) + 2, 120)
    assert {one.title for one in chunks} == {"On mills"}
    assert [one.headings for one in chunks] == [(), ("Stones",)]
    assert chunks[1].text.startswith("```\ngrind()\n```\n\nThe stone number 0")
    assert chunks[1].text.endswith("evening wind.")
