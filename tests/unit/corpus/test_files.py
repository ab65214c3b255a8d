"""Folders, files and repositories, and every way a file can be bad."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_twin.corpus import Collected, DocumentCache, Source, open_source
from llm_twin.errors import CorpusError, SpaceError
from llm_twin.settings import Settings

NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {"kernelspec": {"name": "r", "display_name": "R", "language": "R"}},
    "cells": [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["# Yeast\n", "It grows."]},
        {
            "cell_type": "code",
            "id": "b",
            "metadata": {},
            "execution_count": 1,
            "outputs": [{"output_type": "stream", "name": "stdout", "text": ["printed"]}],
            "source": "grow(2)",
        },
        {"cell_type": "raw", "id": "c", "metadata": {}, "source": "raw"},
    ],
}
PAGE = """<!doctype html><html><head><title>Ovens</title><meta name="author" content="Jane Roe">
<meta charset="utf-8"></head><body><nav><a href="/">Home</a> <a href="/shop">Shop</a></nav>
<article><h1>Ovens</h1><p>An oven of brick holds its heat for a long time, and the bread likes it.
</p><h2>Steam</h2><p>A tray of water in the first minutes gives the crust time to open.</p>
<pre><code>bake --steam</code></pre></article><footer>Subscribe to us</footer></body></html>"""


def read(source: Source, cache: DocumentCache | None = None) -> Collected:
    return source.read(cache, lambda _: None)


def test_a_folder_gives_a_document_per_file(
    tmp_path: Path, settings: Settings, make_pdf: Callable[..., bytes]
) -> None:
    folder = tmp_path / "texts"
    (folder / "sub" / ".hidden").mkdir(parents=True)
    (folder / "node_modules").mkdir()
    (folder / "a.md").write_text(
        "---\ntitle: 'Rye'\nauthor: Jane\ndate: 2024-05-06 10:00\n---\nDark."
    )
    (folder / "sub" / "b.markdown").write_text("Intro.\n\n# Sour *dough*\n\nIt rises.")
    (folder / "my_plain-text.txt").write_text("Just text.")
    (folder / "page.html").write_text(PAGE)
    (folder / "book.pdf").write_bytes(make_pdf(["Bread is old."], title="The Book"))
    (folder / "lab.ipynb").write_text(json.dumps(NOTEBOOK))
    for name in ("sub/.hidden/c.md", "node_modules/d.md", ".e.md", "f.py", "g.json"):
        (folder / name).write_text("no")
    source = open_source(str(folder), settings)
    source.check()
    seen: list[str] = []
    collected = source.read(None, seen.append)
    by_uri = {document.uri: document for document in collected.documents}
    assert list(by_uri) == [
        "a.md", "book.pdf", "lab.ipynb", "my_plain-text.txt", "page.html", "sub/b.markdown",
    ]  # fmt: skip
    rye = by_uri["a.md"]
    assert (rye.title, rye.author, rye.published, rye.text) == (
        "Rye",
        "Jane",
        "2024-05-06",
        "Dark.",
    )
    assert by_uri["sub/b.markdown"].title == "Sour dough"
    assert by_uri["my_plain-text.txt"].title == "my plain text"
    assert by_uri["book.pdf"].title == "The Book"
    assert by_uri["book.pdf"].text == "Bread is old."
    assert by_uri["lab.ipynb"].text == "# Yeast\nIt grows.\n\n````R\ngrow(2)\n````"
    page = by_uri["page.html"]
    assert (page.title, page.author) == ("Ovens", "Jane Roe")
    assert "## Steam" in page.text
    assert "bake --steam" in page.text
    assert "Subscribe" not in page.text
    assert "Shop" not in page.text
    assert seen[1] == "reading 2/6 book.pdf"
    assert source.name == "texts"


def test_one_file_is_a_source(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "README.md").write_text("No heading here.")
    source = open_source(str(tmp_path / "README.md"), settings)
    (document,) = read(source).documents
    assert (document.uri, document.link) == ("README.md", "README.md")


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("a.md", b"\x89PNG\0\0\x01", "a binary file has the name of a text file (a NUL byte at 4)"),
        ("a.txt", "caf\u00e9 cr\u00e8me".encode("latin-1"), "the text is not UTF-8 from byte 3 on"),
        ("a.html", b"<p>caf\xe9</p>", "the text is not UTF-8 from byte 6 on"),
        ("a.md", b"\xff\xfea\0\x00\xd8", "the text is not UTF-16 from byte 4 on"),
        ("a.ipynb", b'{"cells": [}', "malformed JSON at line 1 column 12"),
        ("a.ipynb", b"[1, 2]", "the JSON is not a Jupyter notebook"),
        ("a.ipynb", b"[" * 200_000, "JSON is nested too deeply"),
    ],
)
def test_a_bad_file_is_one_line_that_says_how_to_go_on(
    tmp_path: Path, settings: Settings, name: str, data: bytes, what: str
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "good.md").write_text("Good words.")
    (tmp_path / "in" / name).write_bytes(data)
    source = open_source(str(tmp_path / "in"), settings)
    with pytest.raises(CorpusError) as caught:
        source.check()
    message = str(caught.value)
    assert message.startswith(what)
    assert f": {name}. " in message
    assert message.endswith(f"--exclude '{name}'")
    assert "\n" not in message
    assert not settings.home.exists()
    with pytest.raises(CorpusError):
        read(source)
    source = open_source(str(tmp_path / "in"), settings, exclude=[name])
    source.check()
    assert [document.uri for document in read(source).documents] == ["good.md"]


def test_the_encoding_is_guessed(tmp_path: Path, settings: Settings) -> None:
    text = "Хлеб пекут из муки и воды, а потом едят его с маслом и солью. " * 5
    (tmp_path / "a.md").write_bytes(text.encode("cp1251"))
    with pytest.raises(CorpusError, match=r"iconv -f cp1251 -t utf-8 'a\.md'"):
        open_source(str(tmp_path / "a.md"), settings).check()


def test_a_notebook_that_only_looks_like_one(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.ipynb").write_text('{"cells": 3, "nbformat": 4, "nbformat_minor": 2}')
    with pytest.raises(CorpusError, match=r"the notebook cannot be read .*: a.ipynb"):
        read(open_source(str(tmp_path / "a.ipynb"), settings))


def test_byte_order_marks_and_declared_encodings_are_read(
    tmp_path: Path, settings: Settings
) -> None:
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        (tmp_path / f"{encoding}.md").write_text("Crème brûlée.", encoding=encoding)
    declared = PAGE.replace("utf-8", "latin-1").replace("brick", "brique française")
    (tmp_path / "page.html").write_text(declared, encoding="latin-1")
    source = open_source(str(tmp_path), settings)
    source.check()
    *texts, page = [document.text for document in read(source).documents]
    assert "brique française" in " ".join([*texts, page])
    assert sum("Crème brûlée." in text for text in [*texts, page]) == 3


def test_a_page_with_a_made_up_encoding_is_read_as_utf8(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "page.html").write_text(PAGE.replace("utf-8", "klingon"))
    assert "brick" in read(open_source(str(tmp_path), settings)).documents[0].text


def test_a_large_document_is_refused_before_it_is_read(tmp_path: Path, settings: Settings) -> None:
    with (tmp_path / "big.md").open("wb") as file:
        file.truncate(200 * 2**20)
    source = open_source(str(tmp_path), settings)
    with pytest.raises(CorpusError) as caught:
        source.check()
    assert str(caught.value) == (
        "a document of 200 MB is over the limit of 20 MB: big.md."
        " Leave it out with --exclude 'big.md', or raise TWIN_MAX_DOCUMENT_MB"
    )


def test_a_path_that_is_not_there(tmp_path: Path, settings: Settings) -> None:
    with pytest.raises(CorpusError) as caught:
        open_source(f"{tmp_path}/nowhere", settings)
    assert str(caught.value).startswith(f"no such file or folder: {tmp_path}/nowhere. Give a")
    assert caught.value.exit_code == 2


def test_a_type_that_is_not_read(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(CorpusError, match=r"not a type of file that is read: .*\.md .*\.zip"):
        open_source(str(tmp_path / "a.docx"), settings)


def test_an_empty_folder_says_what_is_read(tmp_path: Path, settings: Settings) -> None:
    source = open_source(str(tmp_path), settings)
    for call in (source.check, lambda: read(source)):
        with pytest.raises(CorpusError, match=r"no document to read: .*\.md \.markdown \.txt"):
            call()


def test_bad_pdfs_are_skipped_with_a_reason(
    tmp_path: Path, settings: Settings, make_pdf: Callable[..., bytes]
) -> None:
    from pypdf import PdfReader, PdfWriter

    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4\n" + b"garbage \0" * 50)
    (tmp_path / "scan.pdf").write_bytes(make_pdf([]))
    (tmp_path / "good.pdf").write_bytes(make_pdf(["Bread."]))
    writer = PdfWriter(clone_from=PdfReader(tmp_path / "good.pdf"))
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "locked.pdf")
    source = open_source(str(tmp_path), settings)
    source.check()
    collected = read(source)
    reasons = {one.uri: one.reason for one in collected.skipped}
    assert [document.uri for document in collected.documents] == ["good.pdf"]
    assert reasons["broken.pdf"].startswith("the PDF does not parse (")
    assert reasons["locked.pdf"] == "the PDF is encrypted"
    assert reasons["scan.pdf"] == "the PDF holds no text (scanned pages?)"
    (tmp_path / "good.pdf").unlink()
    with pytest.raises(CorpusError, match=r"no usable document \(broken.pdf: the PDF does not"):
        read(source)


def test_pdf_lines_become_paragraphs(
    tmp_path: Path, settings: Settings, make_pdf: Callable[..., bytes]
) -> None:
    pages = [
        ["The Art of Bread", f"Chapter {n} speaks of dough that rises in the night, mois-",
         "tened by hand and then left alone for as long as it will", "take.",
         "# no heading of a new paragraph that is long enough here", "The end.", f"Page {n} of 4"]
        for n in range(1, 5)
    ]  # fmt: skip
    (tmp_path / "a.pdf").write_bytes(make_pdf(*pages, title="draft.doc"))
    (document,) = read(open_source(str(tmp_path), settings)).documents
    assert document.title == "a"
    assert "Art of Bread" not in document.text
    assert "Page" not in document.text
    paragraphs = document.text.split("\n\n")
    assert paragraphs[0] == (
        "Chapter 1 speaks of dough that rises in the night, moistened by hand and then left"
        " alone for as long as it will take."
    )
    assert paragraphs[1].startswith("\\# no heading")


def test_links_that_lead_nowhere_are_passed_by(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "good.md").write_text("Good.")
    (tmp_path / "loop.md").symlink_to(tmp_path / "loop.md")
    (tmp_path / "gone.md").symlink_to(tmp_path / "nowhere.md")
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    source = open_source(str(tmp_path), settings)
    source.check()
    assert [document.uri for document in read(source).documents] == ["good.md"]


def test_a_file_that_cannot_be_read(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.md").write_text("Words.")
    source = open_source(str(tmp_path / "a.md"), settings)
    (tmp_path / "a.md").unlink()
    (tmp_path / "a.md").mkdir()
    with pytest.raises(CorpusError, match=r"cannot be read \(.*\): a.md. .*--exclude 'a.md'"):
        source.check()


def test_a_file_that_goes_away_meanwhile(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.md").write_text("Words.")
    source = open_source(str(tmp_path / "a.md"), settings)
    (tmp_path / "a.md").unlink()
    with pytest.raises(CorpusError, match=r"cannot be read \(No such file or directory\): a.md"):
        source.check()


def test_exclude_matches_files_and_folders(tmp_path: Path, settings: Settings) -> None:
    for name in ("a.md", "drafts/b.md", "drafts/deep/c.md", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_text("Words.")
    source = open_source(str(tmp_path), settings, exclude=["drafts/", "*.txt"])
    assert [document.uri for document in read(source).documents] == ["a.md"]


def test_the_files_of_a_folder_are_what_it_reads(tmp_path: Path, settings: Settings) -> None:
    for name in ("a.md", "deep/b.txt", "picture.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("One.")
    source = open_source(str(tmp_path), settings)
    assert source.files() == [tmp_path / "a.md", tmp_path / "deep" / "b.txt"]
    assert source.revision() == ""


def test_only_changed_documents_are_read_again(tmp_path: Path, settings: Settings) -> None:
    for name in "abc":
        (tmp_path / f"{name}.md").write_text(f"# {name}")
    source = open_source(str(tmp_path), settings)
    with DocumentCache(settings.home / "cache" / "documents.db") as cache:
        first = read(source, cache)
        (tmp_path / "b.md").write_text("# changed")
        second = read(source, cache)
    with DocumentCache(settings.home / "cache" / "documents.db") as cache:
        third = read(source, cache)
    assert [first.reused, second.reused, third.reused] == [0, 2, 3]
    assert [document.title for document in second.documents] == ["a", "changed", "c"]
    assert third.documents == second.documents


def test_a_cache_that_cannot_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpaceError, match=r"the document cache cannot be written .*TWIN_HOME"):
        DocumentCache(tmp_path / "file" / "documents.db")


def test_a_full_cache_says_so(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "a.md").write_text("# a")
    source = open_source(str(tmp_path / "a.md"), settings)
    with DocumentCache(tmp_path / "cache.db") as cache:
        cache._db.execute("PRAGMA max_page_count = 1")
        cache._db.execute("PRAGMA query_only = 1")
        with pytest.raises(SpaceError, match="the document cache cannot be written"):
            read(source, cache)


def git(folder: Path, *arguments: str) -> None:
    name = ["-c", "user.name=T", "-c", "user.email=t@t.invalid", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *name, *arguments], cwd=folder, check=True, capture_output=True)


MODULE = '''"""Bake bread.

Why: it must be done.
"""

def bake(minutes: int) -> str:
    """Bake it.

    Args:
        minutes: how long,
            about forty.

    Raises:
        ValueError: too long.

    Example::

        bake(40)

    >>> bake(1)
    'dough'
    """

class Oven:
    """Holds heat."""

    def open(self):
        """Lose heat."""

    def quiet(self): ...
'''


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    files = {
        "README.md": "# Bakery\n\nIt bakes.",
        "docs/why.md": "# Why\n\nBecause.",
        "src/bakery/oven.py": MODULE,
        "src/bakery/__init__.py": '"""A bakery in code, with a first line that is much too long'
        + " to be of any use as a title of it"
        + '"""',
        "src/bakery/silent.py": "x = 1",
        "src/bakery/broken.py": "def (",
        "src/bakery/nul.py": "\0",
        "tests/test_oven.py": '"""Tests."""',
        "tests/data/bad.md": "bad",
        "LICENSE": "Free.",
        "LICENSE.md": "Free.",
        "requirements/dev.txt": "invoke",
        "requirements-dev.txt": "invoke",
        "ignored/a.md": "Ignored.",
        ".gitignore": "ignored/",
        "pyproject.toml": "",
    }
    for name, text in files.items():
        (tmp_path / "repo" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "repo" / name).write_text(text)
    return tmp_path / "repo"


EXPECTED = [
    "README.md",
    "docs/why.md",
    "src/bakery/__init__.py",
    "src/bakery/oven.py",
]


def test_a_repository_gives_documentation_and_docstrings(
    repository: Path, settings: Settings
) -> None:
    git(repository, "init")
    git(repository, "add", "README.md")
    source = open_source(str(repository), settings)
    source.check()
    collected = read(source)
    assert [document.uri for document in collected.documents] == EXPECTED
    assert [(one.uri, one.reason) for one in collected.skipped] == [
        ("src/bakery/broken.py", "not parsed by this Python"),
        ("src/bakery/nul.py", "not parsed by this Python"),
    ]
    package, module = collected.documents[2:]
    assert package.title == "bakery"
    assert module.title == "bakery.oven: Bake bread"
    assert module.text == (
        "Bake bread.\n\nWhy: it must be done.\n\n## `bake()`\n\nBake it.\n\n\nArgs:\n\n"
        "- minutes: how long,\n  about forty.\n\n\nRaises:\n\n- ValueError: too long.\n\n"
        "Example::\n\n    bake(40)\n\n\n```python\n>>> bake(1)\n'dough'\n```\n\n"
        "## `class Oven`\n\nHolds heat.\n\n"
        "### `Oven.open()`\n\nLose heat."
    )


def test_a_repository_without_git_is_walked(repository: Path, settings: Settings) -> None:
    source = open_source(str(repository), settings, exclude=["ignored", "*/broken.py"])
    assert [document.uri for document in read(source).documents] == EXPECTED


def test_a_repository_that_git_refuses_is_walked(repository: Path, settings: Settings) -> None:
    (repository / ".git").write_text("gitdir: nowhere")
    source = open_source(str(repository), settings, exclude=["ignored"])
    assert [document.uri for document in read(source).documents] == EXPECTED


def test_a_repository_by_address_is_cloned_and_refreshed(
    repository: Path, settings: Settings, tmp_path: Path
) -> None:
    git(repository, "init")
    git(repository, "add", ".")
    git(repository, "commit", "-m", "first")
    git(tmp_path, "clone", "--bare", "repo", "bakery.git")
    source = open_source(f"file://{tmp_path}/bakery.git", settings)
    source.check()
    before = source.revision()
    assert not settings.home.exists()
    assert [document.uri for document in read(source).documents] == EXPECTED
    (repository / "docs" / "why.md").write_text("# Why\n\nFor the smell.")
    git(repository, "commit", "-am", "second")
    git(repository, "push", str(tmp_path / "bakery.git"), "HEAD:main")
    assert source.revision() != before
    assert read(source).documents[1].text == "# Why\n\nFor the smell."
    assert source.name == "bakery"
    assert open_source(str(tmp_path / "bakery.git"), settings).revision()


def test_a_repository_that_does_not_answer(tmp_path: Path, settings: Settings) -> None:
    (tmp_path / "empty").mkdir()
    git(tmp_path, "init", "--bare", "empty.git")
    with pytest.raises(CorpusError, match=r"the repository has no commit: file://"):
        open_source(f"file://{tmp_path}/empty.git", settings).check()
    with pytest.raises(CorpusError, match=r"cannot be fetched \(.*git ls-remote file:///no.git"):
        open_source("file:///no.git", settings).check()


def test_hosted_repositories_are_known_by_their_address(settings: Settings) -> None:
    from llm_twin.corpus.clone import Clone, _web_address

    for spec in ("git@github.com:a/b.git", "https://github.com/a/b", "https://x.org/b.git"):
        source = open_source(spec, settings)
        assert isinstance(source, Clone)
        assert source.name == "b"
    assert _web_address("https://github.com/a/b.git") == "https://github.com/a/b/blob/HEAD/"
    assert _web_address("https://x.org/b.git") == ""


def test_nothing_heavy_is_imported_to_check(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# A\n\nWords.")
    (tmp_path / "b.pdf").write_bytes(b"%PDF")
    program = (
        "import sys, llm_twin.corpus as c; from llm_twin.settings import Settings;"
        f"s = c.open_source({str(tmp_path)!r}, Settings()); s.check(); s.files(); s.revision();"
        "heavy = 'numpy trafilatura pypdf nbformat bs4 lxml httpx feedparser markdown_it torch';"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
