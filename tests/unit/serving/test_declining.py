"""When the twin says that it does not know, for corpora of several kinds."""

from __future__ import annotations

import json

import pytest
from small_corpora import MakeIndex, MakeTwin, chunks_of

from llm_twin.corpus.document import Chunk
from llm_twin.retrieval import Retriever
from llm_twin.retrieval.minilm import MiniLM
from llm_twin.serving import everyday
from llm_twin.serving.abstention import Calibration, evidence
from llm_twin.serving.answer import answer
from llm_twin.serving.calibration import calibrate, threshold
from llm_twin.serving.twin import Twin
from llm_twin.serving.words import Vocabulary

BAKING = [
    "How do I bake sourdough bread?",
    "How much water goes into the dough?",
    "Why does my rye dough stick to my hands?",
    "Should I store bread in the fridge?",
    "When is the loaf done?",
]
FOREIGN = [
    "Who won the last Olympic marathon?",
    "How do I claim my travel expenses?",
    "What is the capital of Mongolia?",
    "How do I reverse a linked list in C?",
    "Why did the Titanic sink?",
]


@pytest.mark.parametrize("question", BAKING)
def test_a_bakers_twin_answers_questions_on_baking(question: str, baker_twin: Twin) -> None:
    assert not answer(question, baker_twin).abstained


@pytest.mark.parametrize("question", FOREIGN)
def test_a_bakers_twin_declines_what_is_foreign_to_it(question: str, baker_twin: Twin) -> None:
    assert answer(question, baker_twin).abstained


@pytest.mark.parametrize("question", FOREIGN)
def test_by_words_alone_it_declines_too(question: str, words_twin: Twin) -> None:
    assert answer(question, words_twin).abstained


@pytest.mark.parametrize("question", ["How do I feed the starter?", "Why are rye loaves sticky?"])
def test_by_words_alone_it_answers_in_the_authors_words(question: str, words_twin: Twin) -> None:
    assert not answer(question, words_twin).abstained


@pytest.fixture(scope="module")
def hiker(make_twin: MakeTwin, notes: list[Chunk], minilm: MiniLM) -> Twin:
    return make_twin(notes, minilm)


@pytest.mark.parametrize(
    "question",
    ["How do I dry a wet rope?", "What do marmots whistle for?", "Do the new boots hurt?"],
)
def test_a_few_short_notes_are_enough_to_answer(question: str, hiker: Twin) -> None:
    assert not answer(question, hiker).abstained


@pytest.mark.parametrize("question", ["How do I bake sourdough bread?", *FOREIGN])
def test_a_few_short_notes_are_enough_to_decline(question: str, hiker: Twin) -> None:
    assert answer(question, hiker).abstained


def test_a_declining_twin_names_the_closest_titles(baker_twin: Twin) -> None:
    found = answer("Who won the last Olympic marathon?", baker_twin)

    assert found.text.startswith("I don't know: nothing in these texts answers that. (closest: ")
    assert "Rye and patience" in found.text or "A loaf without yeast" in found.text
    assert found.citations == []
    assert found.confidence < 0.5


def test_calibration_is_json_and_says_how_it_went(
    make_index: MakeIndex, baker: list[Chunk], minilm: MiniLM
) -> None:
    learned = calibrate(Retriever(make_index(baker, minilm), minilm), ["Keeping a loaf"], baker)

    again = Calibration.from_dict(json.loads(json.dumps(learned)))
    assert set(learned["thresholds"]) == {"vectors", "words"}
    assert learned["questions"] > 1
    assert learned["declined"]["vectors"] > 0.9
    assert again.vocabulary.familiarity(["rye"]) == 1


def test_calibration_of_an_empty_corpus_declines_everything(make_index: MakeIndex) -> None:
    index = make_index([], None)
    learned = calibrate(Retriever(index, None), [], [])
    twin = Twin("v1", index, None, Calibration.from_dict(learned))

    assert answer("What is rye?", twin).text == "I don't know: nothing in these texts answers that."


def test_the_line_keeps_the_corpus_own_questions() -> None:
    inside = [0.5 + number / 100 for number in range(40)]
    outside = [0.1 + number / 200 for number in range(40)]

    line = threshold(inside, outside, default=0.4)

    assert max(outside) < line < inside[2]


def test_everyday_questions_that_the_corpus_answers_do_not_move_the_line() -> None:
    inside = [0.6 + number / 100 for number in range(40)]
    outside = [0.2] * 60

    assert threshold(inside, [*outside, 0.9, 0.95], 0.4) == threshold(inside, outside, 0.4)


def test_overlapping_evidence_is_split_between() -> None:
    assert 0.3 < threshold([0.3] * 4 + [0.6] * 30, [0.5] * 60, 0.4) < 0.5


def test_without_hits_or_words_there_is_no_evidence() -> None:
    assert evidence("anything", [], Vocabulary(), vectors=True) == 0
    assert evidence("how is it", [], Vocabulary(), vectors=False) == 0


def test_the_everyday_questions_are_many_and_different() -> None:
    questions = everyday.QUESTIONS

    assert len(questions) >= 60
    assert len(set(questions)) == len(questions)
    assert all(question.endswith("?") for question in questions)


MANUAL = {
    "Asking the machine": """
Type a question in quotes, and the machine prints an answer with its sources.

```console
ask "Who sang Bohemian Rhapsody?"
ask "How is paper fed into the machine?"
```
""",
    "Paper": """
## How is paper fed into the machine?

Push the stack against the left wheel until it clicks, then close the lid. The machine pulls the
first sheet by itself.
""",
}


@pytest.mark.parametrize("embedded", [True, False])
def test_an_example_that_repeats_a_question_does_not_answer_it(
    embedded: bool, make_twin: MakeTwin, minilm: MiniLM
) -> None:
    twin = make_twin(chunks_of(MANUAL), minilm if embedded else None)

    foreign = answer("Who sang Bohemian Rhapsody?", twin)
    known = answer("How is paper fed into the machine?", twin)

    assert foreign.abstained
    assert known.citations[0].title == "Paper"
    assert "left wheel" in known.text
