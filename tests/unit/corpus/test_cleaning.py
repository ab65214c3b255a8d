"""Cleaning: what a reader of the cleaned corpus sees, and what is gone."""

import random

import pytest

from llm_twin.corpus import Document, clean
from llm_twin.corpus.duplicates import duplicates

PROSE = "The {0} of the mill turns slowly in the evening, and {0} is all that anyone speaks of."


def story(word: str, sentences: int = 12) -> str:
    return "\n\n".join(PROSE.format(f"{word}{number}") for number in range(sentences))


def substack(title: str, body: str, comments: str = "") -> str:
    """The page frame that html2text leaves around a Substack article."""
    share = "Share this post\n\n#### {}\n\njane.substack.com\n\nCopy link\n\nFacebook\n\nEmail\n\n"
    share = share.format(title) + "Note\n\nOther\n\n"
    return (
        f"# Jane Roe\n\nSubscribeSign in\n\n{share}# {title}\n\n### How it went\n\nJane Roe\n\n"
        f"Jun 12, 2024\n\n3\n\n{share}Share\n\n#### _How it went_\n\n{body}\n\n"
        f"3\n\n{share}Share\n\n#### Discussion about this post\n\nComments\n\nRestacks\n\n"
        f"{comments}Top\n\nLatest\n\nReady for more?\n\nSubscribe\n\n© 2024 Jane Roe\n\n"
        "This site requires JavaScript to run correctly. Please turn on JavaScript\n"
    )


def medium(title: str, body: str) -> str:
    """The page frame that html2text leaves around a Medium article."""
    return (
        f"Open in app\n\nSign up\n\nSign in\n\nWrite\n\n# {title}\n\n## A short look\n\n"
        "Jane Roe\n\n·\n\nFollow\n\nPublished in\n\nMills\n\n·\n\n"
        "16 min read\n\n·\n\nMar 16, 2024\n\n"
        f"\\--\n\n13\n\nListen\n\nShare\n\n## First steps\n\n{body}\n\n"
        "Machine Learning\n\nMills\n\n\\--\n\n13\n\nFollow\n\n## Written by Jane Roe\n\n"
        "27K Followers\n\nWrites about mills and"
        " the people who work in them every day.\n\nFollow\n\nHelp\n\nStatus\n\nAbout\n\nTerms\n"
    )


def web(title: str, text: str, link: str, author: str = "Jane Roe") -> Document:
    return Document(uri=link, title=title, text=text, link=link, author=author)


@pytest.mark.parametrize("many", [False, True])
def test_a_substack_frame_is_taken_off(many: bool) -> None:
    comments = (
        "| Bob Jun 23 Thanks, but how do you grind the corn when there is no wind at all?\n\n"
    )
    words = ("wheel", "stone", "sail", "river", "flour") if many else ("wheel",)
    pages = [
        web(
            f"On the {word} - Jane Roe",
            substack(f"On the {word}", story(word), comments),
            f"https://jane.substack.com/p/{word}",
        )
        for word in words
    ]
    for word, document in zip(words, clean(pages).documents, strict=True):
        assert document.title == f"On the {word}"
        assert document.text == f"How it went\n\n{story(word)}"


def test_a_medium_frame_is_taken_off_and_the_first_heading_stays() -> None:
    page = web(
        "On mills | by Jane Roe | Medium", medium("On mills", story("oat")), "https://m.com/a"
    )
    (document,) = clean([page]).documents
    assert document.title == "On mills"
    assert document.text.startswith("## A short look\n\n## First steps\n\nThe oat0")
    assert document.text.endswith("oat11 is all that anyone speaks of.")


def test_what_recurs_over_a_site_goes_and_headings_stay() -> None:
    notice = "Thanks for reading the Mill Letter! It is free and comes by post every Monday."
    pages = [
        web(
            word,
            f"Mill Letter\n\n{story(word)}\n\n{notice}\n\n## Conclusion\n\n{story(word + 'x')}\n\n"
            "Read the Mill Letter in your own language wherever you happen to be.",
            f"https://letters.org/{word}",
        )
        for word in ("oats", "rye", "wheat", "corn")
    ]
    for document in clean(pages).documents:
        assert "Mill Letter" not in document.text
        assert document.text.count("## Conclusion") == 1
        assert story(document.title) in document.text


def test_contents_and_link_cards_go() -> None:
    text = (
        "- Home\n- About me\n\n# Mills\n\n"
        f"{story('a')}\n\n- Wheels\n- Stones\n- Sails\n\n## Wheels\n\n{story('b')}\n\n"
        f"## Stones\n\n{story('c')}\n\n**All mills**  \n_A list of all mills_mills.org"
        f"\n\n## Sails\n\n{story('d')}\n\n## Related\n\n"
        "**More mills**  \n _A longer list of mills_mills.org"
    )
    (document,) = clean([web("Mills", text, "https://m.org/1")]).documents
    assert document.text.startswith(story("a") + "\n\n## Wheels")
    assert "mills.org" not in document.text
    assert document.text.endswith(story("d"))


def test_a_sidebar_after_the_title_is_no_text() -> None:
    sidebar = "  * **Grain** __\n\n" + "".join(f"    * How to sow grain {n}\n\n" for n in range(20))
    text = f"# Mills\n\nAuthor\n\nJane Roe\n\n{sidebar}\n\n## On this page\n\n{story('a')}"
    text += "\n\n__Copyright 2023, Jane Roe"
    (document,) = clean([web("Mills", text, "https://m.org/1")]).documents
    assert document.text == f"## On this page\n\n{story('a')}"


def test_a_title_in_the_middle_of_a_text_is_not_the_start() -> None:
    text = f"{story('one')}\n\n# Mills\n\n{story('two')}"
    (document,) = clean([web("Mills", text, "https://m.org/1")]).documents
    assert story("one") in document.text


def test_a_file_keeps_what_looks_like_a_frame() -> None:
    text = f"# Notes\n\nShare\n\n- Home\n- About\n\n{story('x')}\n\nSubscribe"
    document = Document(uri="notes.md", title="Notes", text=text, link="notes.md")
    assert clean([document]).documents == [document]


def test_fake_bold_becomes_letters_and_meaning_stays() -> None:
    text = "𝗕𝗼𝗹𝗱 𝘢𝘯𝘥 𝚖𝚘𝚗𝚘 ﬁne Ａ１: x² is ½ of it，naïve café, 山。 soft\u00adhyphen a\u00a0b"
    text += " 👩\u200d💻"
    (document,) = clean([Document(uri="a", title="𝐓itle", text=text)]).documents
    assert document.title == "Title"
    assert document.text == (
        "Bold and mono fine A1: x² is ½ of it，naïve café, 山。 softhyphen a b 👩\u200d💻"
    )


@pytest.mark.parametrize("text", ["", " \n", "# \n\n---", "one two three"])
def test_empty_documents_are_dropped_with_a_reason(text: str) -> None:
    cleaned = clean([Document(uri="empty.md", title="t", text=text)])
    assert cleaned.documents == []
    assert [(one.uri, one.reason) for one in cleaned.dropped] == [
        ("empty.md", "empty, or nothing but boilerplate")
    ]


def test_nothing_but_a_frame_is_dropped() -> None:
    page = web("Gone", "# Gone\n\nShare\n\nSubscribe\n\nNo posts", "https://m.org/gone")
    assert [one.uri for one in clean([page]).dropped] == ["https://m.org/gone"]


def test_a_cross_post_is_dropped_and_names_its_original() -> None:
    one = web("On oats", substack("On oats", story("oat", 30)), "https://jane.substack.com/p/oats")
    two = web("On oats", medium("On oats", story("oat", 29)), "https://medium.com/oats")
    three = web("On rye", medium("On rye", story("rye", 30)), "https://medium.com/rye")
    for order in ([one, two, three], [three, two, one]):
        cleaned = clean(order)
        assert {document.uri for document in cleaned.documents} == {one.uri, three.uri}
        assert cleaned.dropped[0].uri == two.uri
        assert cleaned.dropped[0].reason == f"says the same as {one.uri}"


def test_an_excerpt_is_a_duplicate_and_a_shared_quotation_is_not() -> None:
    whole, quote = story("barley", 60), story("quoted", 4)
    texts = [
        whole,
        story("barley", 20),
        f"{quote}\n\n{story('left', 9)}",
        f"{quote}\n\n{story('right', 9)}",
    ]
    assert duplicates(texts) == {1: 0}


def test_exact_copies_keep_one_whatever_the_order() -> None:
    documents = [Document(uri=f"{name}.md", title=name, text=story("same")) for name in "cabd"]
    kept = set()
    for seed in range(5):
        random.Random(seed).shuffle(documents)
        kept |= {document.uri for document in clean(documents).documents}
    assert len(kept) == 1


def test_chinese_and_short_copies_are_seen() -> None:
    chinese = "面包是用面粉和水做的，然后放进烤箱里烤熟，香味会飘满整个房间。" * 2
    texts = [chinese, chinese + "谢谢。", "完全不同的一段文字，说的是别的事情。", "a b c", "a b c"]
    assert duplicates(texts) == {0: 1, 4: 3}
    assert len(clean([Document(uri="z", title="z", text=chinese)]).documents) == 1


def test_a_shingle_of_everyone_says_nothing() -> None:
    shared = "all rights reserved by the mill company of the town"
    assert duplicates([f"{shared} {story(f'word{n}x', 2)}" for n in range(60)]) == {}
