"""Quotations from a baker's blog."""

from __future__ import annotations

import pytest
from small_corpora import MakeIndex

from llm_twin.corpus.document import Chunk
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.retrieval.ports import Hit
from llm_twin.serving.citations import Citation
from llm_twin.serving.extractive import extract, opening
from llm_twin.serving.twin import Twin
from llm_twin.serving.words import Vocabulary


def quoted(question: str, twin: Twin) -> list[Citation]:
    return extract(question, twin.search(question, 5), twin.embedder, twin.calibration.vocabulary)


@pytest.fixture(params=["baker_twin", "words_twin"])
def twin(request: pytest.FixtureRequest) -> Twin:
    found: Twin = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    ("question", "heading", "words"),
    [
        ("How do I feed a sourdough starter?", "Feeding the sourdough starter", "rye flour"),
        ("Why is rye dough sticky?", "Why rye loaves are sticky", "pentosans"),
        ("How hot should the pot be for baking?", "Baking in a cast-iron pot", "250 degrees"),
        ("How long does rye bread keep fresh?", "Keeping a loaf fresh", "for a week"),
    ],
)
def test_the_right_stretch_is_quoted(question: str, heading: str, words: str, twin: Twin) -> None:
    best = quoted(question, twin)[0]

    assert best.heading == heading
    assert words in best.quote


def test_quotes_are_verbatim(twin: Twin, baker: list[Chunk]) -> None:
    texts = {chunk.title: "\n\n".join(c.text for c in baker if c.title == chunk.title)
             for chunk in baker}  # fmt: skip

    for citation in quoted("What makes rye loaves sticky and how do I keep bread fresh?", twin):
        assert citation.quote in texts[citation.title]


def test_a_list_that_is_the_answer_is_quoted_whole(twin: Twin) -> None:
    quote = quoted("Which ingredients do I weigh for mixing the dough?", twin)[0].quote

    assert quote.startswith("Weigh everything before you begin:")
    assert "- 500 g strong wheat flour" in quote
    assert "- 10 g salt" in quote


def test_code_that_is_the_answer_is_quoted_whole(twin: Twin) -> None:
    quote = quoted("What is the code of the script that reminds of the folds?", twin)[0].quote

    assert "```python" in quote
    assert 'print("fold", fold + 1)\n```' in quote


def test_a_second_quotation_adds_what_the_first_lacks(
    make_index: MakeIndex, minilm: MiniLM
) -> None:
    lamp = Chunk("a", "x", "Lamps", (), "A brass lamp needs polish. Rub it in. Wipe it off.", "", 0)
    door = Chunk("b", "x", "Doors", (), "An oak door needs wax. Brush it on. Let it dry.", "", 0)
    vocabulary = Vocabulary.of([lamp.passage, door.passage])
    hits = [Hit(lamp, 0.6, 0.5, 0.5), Hit(door, 0.6, 0.5, 0.5)]

    both = extract("How do I care for a brass lamp and an oak door?", hits, minilm, vocabulary)
    one = extract("How do I polish a brass lamp?", hits, minilm, vocabulary)

    assert {citation.title for citation in both} == {"Lamps", "Doors"}
    assert [citation.title for citation in one] == ["Lamps"]


def test_a_question_in_the_text_is_not_an_answer(minilm: MiniLM) -> None:
    text = "Why is rye sticky? Why does rye stick? Is rye sticky? Rye binds water. It is full of \
pentosans. They swell."
    chunk = Chunk("a", "x", "Rye", (), text, "", 0)

    quote = extract("Why is rye sticky?", [Hit(chunk, 1, 1, 1)], minilm, Vocabulary())[0].quote

    assert "Rye binds water." in quote


def test_closing_sections_come_last(minilm: MiniLM) -> None:
    text = "Rye binds water. Pentosans swell in it. The dough turns sticky."
    body = Chunk("a", "x", "Rye", ("Stickiness",), text, "", 0)
    close = Chunk("a", "x", "Rye", ("Conclusion",), f"{text} Thanks.", "", 1)
    hits = [Hit(close, 0.7, 0.7, 0.7), Hit(body, 0.7, 0.7, 0.7)]

    assert extract("Why is rye sticky?", hits, minilm, Vocabulary())[0].heading == "Stickiness"


def test_nothing_is_quoted_from_nothing(minilm: MiniLM) -> None:
    blank = Hit(Chunk("a", "x", "Rye", (), "  ", "", 0), 1, 1, 1)

    assert extract("Why?", [], minilm, Vocabulary()) == []
    assert extract("Why rye?", [blank], minilm, Vocabulary()) == []
    assert opening(blank.chunk) == "  "


def test_the_opening_of_a_passage_ends_with_a_sentence() -> None:
    chunk = Chunk("a", "x", "Rye", (), "One sentence here. " * 30, "", 0)

    assert opening(chunk, 50) == "One sentence here. One sentence here."
    assert opening(chunk, 5) == "One sentence here."
