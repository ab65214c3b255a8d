"""Chunks: every one fits, none loses a word, each carries its headings."""

import random
import re

import pytest

from llm_twin.corpus import Chunk, Document, chunk

WORDS = re.compile(r"\w+")


def count(text: str) -> int:
    """Count roughly as a WordPiece tokenizer does: pieces of six letters, and two specials."""
    pieces = re.findall(r"[\u3040-\u9fff]|\w{1,6}|[^\w\s]", text)
    return len(pieces) + 2


def cut(text: str, title: str = "Bread", window: int = 64) -> list[Chunk]:
    document = Document(uri="bread.md", title=title, text=text, link="https://a.b/bread")
    chunks = chunk(document, count, window)
    assert all(count(one.passage) <= window for one in chunks)
    assert [one.position for one in chunks] == list(range(len(chunks)))
    return chunks


def words(text: str) -> list[str]:
    return WORDS.findall(text.replace("_", " "))


def test_a_chunk_carries_title_headings_link_and_ids() -> None:
    (one,) = cut("# Bread\n\n## Dough\n\n### Water\n\nUse **cold** [water](https://x.y).")
    assert one.headings == ("Dough", "Water")
    assert one.passage == "Bread > Dough > Water\nUse cold water."
    assert one.link == "https://a.b/bread"
    assert one.document_id == Document(uri="bread.md", title="", text="").id


def test_text_before_the_first_heading_has_no_headings() -> None:
    first, second = cut("Flour " * 25 + "\n\n## Oven\n\n" + "heat " * 25)
    assert first.headings == ()
    assert second.headings == ("Oven",)


def test_the_title_is_not_repeated_as_a_heading() -> None:
    (one,) = cut("# BREAD!\n\nFlour and water.")
    assert one.headings == ()
    assert one.text == "Flour and water."


def test_a_sibling_heading_closes_the_deeper_ones() -> None:
    text = "\n\n".join(f"{'#' * level} H{level}\n\n{'word ' * 25}" for level in (2, 3, 4, 3, 2))
    assert [one.headings for one in cut(text)] == [
        ("H2",),
        ("H2", "H3"),
        ("H2", "H3", "H4"),
        ("H2", "H3"),
        ("H2",),
    ]


def test_hard_wraps_are_removed_and_hyphens_joined() -> None:
    (one,) = cut("A well-\nknown way to\nmake pre-\nand post-war bread.\nGood.")
    assert one.text == "A well-known way to make pre- and post-war bread. Good."


def test_chinese_lines_are_joined_without_a_space() -> None:
    (one,) = cut("面包是用面粉\n和水做的。")
    assert one.text == "面包是用面粉和水做的。"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("They are**not** the same", "They are not the same"),
        ("**Rank** , then _size_ .", "Rank, then size."),
        ("Call `a_b(*c)` and **kwargs", "Call a_b(*c) and **kwargs"),
        ("It **beats GatConv **and more", "It beats GatConv and more"),
        ("![a loaf](loaf.png) of rye", "a loaf of rye"),
        ("one<br>two <b>three</b>", "one\ntwo three"),
        ("line one  \nline two", "line one\nline two"),
        ("1\\. not a list", "1. not a list"),
        ("> quoted\n> words", "quoted words"),
        ("> # heading in a quote\n> words", "heading in a quote\n\nwords"),
        ("- # heading in an item", "- heading in an item"),
        ("<div><!-- no -->seen<script>hidden()</script></div>", "seen"),
        ("before\n\n---\n\nafter", "before\n\nafter"),
    ],
)
def test_inline_markup_becomes_plain_text(source: str, expected: str) -> None:
    (one,) = cut(source)
    assert one.text == expected


def test_korean_lines_are_joined_with_a_space() -> None:
    (one,) = cut("빵은 밀가루와\n물로 만든다.")
    assert one.text == "빵은 밀가루와 물로 만든다."


def test_code_stays_in_fences_that_it_cannot_close() -> None:
    (one,) = cut("````python\nprint('''\n```\n''')\n````")
    assert one.text == "````python\nprint('''\n```\n''')\n````"


def test_long_code_is_cut_at_lines_and_fenced_again() -> None:
    code = "\n".join(f"value_{number} = {number}" for number in range(60))
    chunks = cut(f"```python\n{code}\n```")
    assert len(chunks) > 2
    assert all(re.fullmatch(r"```python\n[^`]+\n```", one.text) for one in chunks)
    inside = "\n".join(one.text[10:-4] for one in chunks)
    assert inside == code


def test_lists_keep_their_marks_and_nesting() -> None:
    (one,) = cut("- one\n- two\n  - inner\n\n3. three\n4. four\n\n   more on four")
    assert one.text == "- one\n- two\n  - inner\n\n3. three\n4. four\n   more on four"


def test_code_inside_a_list_item_is_kept() -> None:
    (one,) = cut("- run:\n\n  ```sh\n  make\n  ```\n\n- done")
    assert one.text == "- run:\n\n```sh\nmake\n```\n\n- done"


def test_a_long_table_repeats_its_header() -> None:
    rows = "\n".join(f"| loaf {number} | {number} g |" for number in range(40))
    chunks = cut(f"| name | weight |\n|---|---|\n{rows}")
    assert len(chunks) > 2
    assert all(one.text.startswith("| name | weight |\n| --- | --- |\n") for one in chunks)


def test_a_table_with_a_huge_header_still_fits() -> None:
    header = " | ".join(f"column{number}" for number in range(80))
    rule = "|".join(["---"] * 80)
    source = f"| {header} |\n|{rule}|\n| {header} |"
    arrived = {word for one in cut(source) for word in words(one.text)}
    assert {f"column{number}" for number in range(80)} <= arrived


def test_a_table_without_rows_is_kept() -> None:
    (one,) = cut("| a | b |\n|---|---|")
    assert "| a | b |" in one.text


def test_a_long_paragraph_is_cut_after_sentences() -> None:
    sentences = [f"Sentence number {number} tells of bread and salt." for number in range(30)]
    chunks = cut(" ".join(sentences))
    assert len(chunks) > 3
    assert all(one.text.startswith("Sentence") and one.text.endswith("salt.") for one in chunks)


def test_a_line_that_announces_code_stays_with_it() -> None:
    filler = "Bread is good and old. " * 5
    *_, last = cut(f"{filler}\n\nRun it like this:\n\n```sh\n{'bake now please ' * 10}\n```")
    assert last.text.startswith("Run it like this:\n\n```sh\n")


@pytest.mark.parametrize("text", ["x" * 10_000, "面" * 10_000, "word " * 3000, "a\n" * 3000])
def test_text_without_a_place_to_cut_is_cut_anyway(text: str) -> None:
    chunks = cut(text)
    joined = "".join(one.text for one in chunks)
    assert re.sub(r"\s", "", joined) == re.sub(r"\s", "", text)


def test_one_unknown_token_of_any_length_does_not_fill_a_chunk() -> None:
    document = Document(uri="x", title="t", text="x" * 10_000)
    chunks = chunk(document, lambda text: len(text.split()) + 2, 64)
    assert max(len(one.text) for one in chunks) <= 640
    assert "".join(one.text for one in chunks) == "x" * 10_000


def test_long_titles_and_headings_are_shortened_but_no_word_is_lost() -> None:
    heading = " ".join(f"word{number}" for number in range(60))
    chunks = cut(f"## {heading}\n\n### {heading}\n\nThe text.", title="Title " * 400)
    assert all(one.title.endswith("…") for one in chunks)
    arrived = {word for one in chunks for word in words(one.text)}
    assert {f"word{number}" for number in range(60)} | {"The", "text"} <= arrived


def test_small_sections_join_their_neighbours_under_the_shared_heading() -> None:
    (one,) = cut("## Salt\n\nA pinch.\n\n### Sea\n\nCoarse.\n\n### Rock\n\nPink.")
    assert one.headings == ("Salt",)
    assert one.text == "A pinch.\n\nSea\n\nCoarse.\n\nRock\n\nPink."


def test_small_sections_of_different_parents_stay_apart() -> None:
    chunks = cut("## A\n\n### B\n\nOne.\n\n## C\n\n### D\n\nTwo.")
    assert [one.headings for one in chunks] == [("A", "B"), ("C", "D")]


def test_a_heading_that_nothing_follows_is_kept_as_text() -> None:
    (one,) = cut("Some text.\n\n## The end")
    assert one.text == "Some text.\n\nThe end"


@pytest.mark.parametrize("text", ["", "   \n\n", "---", "<!-- nothing -->", "```\n\n```", "![](x)"])
def test_nothing_gives_no_chunk(text: str) -> None:
    assert cut(text) == []


def test_a_window_that_holds_nothing_is_refused() -> None:
    document = Document(uri="x", title="", text="word")
    with pytest.raises(ValueError, match="window of 2 tokens"):
        chunk(document, count, 2)


def test_the_same_document_has_the_same_chunk_ids() -> None:
    text = "## A\n\n" + "word " * 200
    assert [one.id for one in cut(text)] == [one.id for one in cut(text)]


def random_document(seed: int) -> str:
    """Write a Markdown document whose words are all different."""
    choose = random.Random(seed)
    number = iter(range(100_000))

    def said(most: int) -> str:
        return " ".join(f"w{next(number)}" for _ in range(choose.randint(1, most)))

    def block() -> str:
        kind = choose.randrange(9)
        if kind == 0:
            return f"{'#' * choose.randint(1, 6)} {said(30)}"
        if kind == 1:
            return "\n".join(f"- {said(40)}\n  - {said(9)}" for _ in range(choose.randint(1, 9)))
        if kind == 2:
            return f"```py\n{chr(10).join(said(12) for _ in range(choose.randint(1, 30)))}\n```"
        if kind == 3:
            rows = "\n".join(f"| {said(6)} | {said(3)} |" for _ in range(choose.randint(1, 20)))
            return f"| {said(2)} | {said(2)} |\n|---|---|\n{rows}"
        if kind == 4:
            return f"> {said(50)}\n>\n> 1. {said(10)}"
        if kind == 5:
            return f"<div>{said(10)}</div>"
        return ". ".join(f"**{said(9)}** _{said(30)}_ `{said(3)}`" for _ in range(9)) + "."

    return "\n\n".join(block() for _ in range(choose.randint(1, 25)))


@pytest.mark.parametrize("seed", range(25))
def test_every_word_of_the_source_arrives(seed: int) -> None:
    text = random_document(seed)
    chunks = cut(text, window=48 + seed * 4)
    arrived = {word for one in chunks for word in words(one.passage)}
    assert {word for word in words(text) if re.fullmatch(r"w\d+", word)} <= arrived
