"""The one answer path: what a person gets, whatever is asked."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from llm_twin.errors import UserError
from llm_twin.serving.answer import answer, clean_question
from llm_twin.serving.citations import Citation, numbered, used
from llm_twin.serving.render import render
from llm_twin.serving.twin import Twin


def test_an_answer_quotes_and_cites(baker_twin: Twin) -> None:
    found = answer("How do I feed my starter?", baker_twin)

    assert "fifty grams of rye flour" in found.text.replace("\n", " ")
    assert found.text.endswith("[1]")
    assert found.citations[0].title == "A loaf without yeast"
    assert found.citations[0].heading == "Feeding the sourdough starter"
    assert found.citations[0].link == "https://blog.example/0"
    assert found.citations[0].quote in found.text
    assert found.confidence >= 0.5
    assert (found.mode, found.model, found.abstained) == ("extractive", "", False)


def test_an_answer_is_plain_json(baker_twin: Twin) -> None:
    data = json.loads(json.dumps(answer("How do I feed my starter?", baker_twin).to_dict()))

    assert set(data["timings"]) == {"retrieve", "judge", "generate", "total"}
    assert all(value >= 0 for value in data["timings"].values())
    assert set(data["citations"][0]) == {"title", "heading", "link", "quote"}


def test_an_answer_reads_well_in_a_terminal(baker_twin: Twin) -> None:
    lines = render(answer("How do I feed my starter?", baker_twin)).splitlines()

    assert "[1] A loaf without yeast > Feeding the sourdough starter" in lines
    assert "    https://blog.example/0" in lines
    assert lines[-1].startswith("(Quoted from the author's texts; confidence ")


def test_a_declined_question_shows_no_sources(baker_twin: Twin) -> None:
    shown = render(answer("Who sang Bohemian Rhapsody?", baker_twin))

    assert shown.startswith("I don't know")
    assert "[1]" not in shown
    assert "\n" not in shown


@pytest.mark.parametrize("question", ["", "   ", "\n\t\r", "\x00\x07", "???", "🤖🤖", "\u200b"])
def test_a_question_without_words_is_refused(question: str, words_twin: Twin) -> None:
    with pytest.raises(UserError, match="holds no word"):
        answer(question, words_twin)


def test_an_endless_question_is_refused(words_twin: Twin) -> None:
    with pytest.raises(UserError, match="too long: 100,000 characters"):
        answer("bread " * 16666 + "rye?", words_twin)


@pytest.mark.parametrize("k", [0, -1, 51])
def test_k_has_bounds(k: int, words_twin: Twin) -> None:
    with pytest.raises(UserError, match="1 to 50"):
        answer("Why rye?", words_twin, k=k)


@pytest.mark.parametrize(
    "question",
    [
        "Wie ist das Wetter morgen in Hamburg?",
        "東京タワーの高さは何メートルですか？",
        "ما هي عاصمة منغوليا؟",
        'NEAR("x" AND) OR * :: " -- ; DROP TABLE chunks',
        "\ud800 lone surrogate zebra",
        "zebra\x00\x1b[31m giraffe\x07",
        "zebra " * 600,
    ],
)
@pytest.mark.parametrize("kind", ["baker_twin", "words_twin"])
def test_strange_questions_get_a_sane_answer(
    question: str, kind: str, request: pytest.FixtureRequest
) -> None:
    found = answer(question, request.getfixturevalue(kind))

    assert found.abstained
    assert found.text.startswith("I don't know")
    render(found).encode("utf-8")


def test_control_characters_do_not_matter(baker_twin: Twin) -> None:
    plain = answer("How do I feed my starter?", baker_twin)
    noisy = answer("How do\x00 I\tfeed\n\nmy starter?\x1b", baker_twin)

    assert noisy.text == plain.text


def test_a_question_is_put_on_one_line() -> None:
    assert clean_question("  Why\n rye?\x00 ") == "Why rye?"


@pytest.mark.parametrize(
    ("quote", "ending"),
    [
        ("Rye is sticky.", "sticky. [1]"),
        ("Take:\n- rye\n- water", "- water\n[1]"),
        ("```\nx = 1\n```", "```\n[1]"),
        ("One.\n\nTwo.", "Two. [1]"),
    ],
)
def test_a_mark_follows_its_quote(quote: str, ending: str) -> None:
    assert numbered(Citation("t", "", "", quote), 1).endswith(ending)


def test_marks_that_do_not_exist_are_dropped() -> None:
    offered = [Citation(name, "", "", "") for name in "abc"]

    text, citations = used("One [3]. Two [0]. Three [4, 3; 1]. Array x[12345] stays.", offered)

    assert text == "One [1]. Two. Three [1][2]. Array x[12345] stays."
    assert [citation.title for citation in citations] == ["c", "a"]


def test_importing_the_answer_path_loads_nothing_heavy() -> None:
    code = (
        "import sys, llm_twin.serving, llm_twin.serving.answer, llm_twin.serving.llm, "
        "llm_twin.serving.openai, llm_twin.serving.render, llm_twin.serving.twin; "
        "print(sorted({'torch', 'transformers', 'httpx', 'onnxruntime', 'zenml', 'markdown_it', "
        "'sentencex', 'qdrant_client'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
