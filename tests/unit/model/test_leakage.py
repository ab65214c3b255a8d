"""No training row says what the model is judged by, and no two rows say the same."""

import dataclasses

import pytest

from llm_twin.corpus.document import content_id
from llm_twin.model.dataset import make_dataset, train_chunks
from llm_twin.model.feedback import Correction
from llm_twin.model.leakage import Judged, verdict
from llm_twin.model.profile import Data
from llm_twin.model.questions import Question
from llm_twin.model.row_duplicates import first_alike
from llm_twin.model.rows import Pair, Preference
from llm_twin.model.sentences import sentences

HELD = (
    "The bridge was painted in the year of the flood by three brothers who never told anybody"
    " where they had learned to mix that green."
)
KNOWN = "Follow me on the network to read more of these articles every week of the whole year."
QUESTIONS = [
    Question("How to paint a bridge?", "h", ("c",), ("x",), heldout=True),
    Question("Green paint", "h", ("d",), ("x",), heldout=True),
    Question("How to read a gate?", "t", ("e",), ("x",)),
]
JUDGED = Judged([f"{HELD} {KNOWN}"], ["Explain “Bridges”."], QUESTIONS, [KNOWN])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (("What?", f"They say: {HELD.upper()} So it is."), "held-out text"),
        (("What?", " ".join(HELD.split()[4:18])), "held-out text"),
        (("What?", " ".join(HELD.split()[4:15])), ""),
        ((f"Go on: {HELD}", "Yes."), "held-out text"),
        (("What?", "Fine.", HELD), "held-out text"),
        (("What?", KNOWN), ""),
        (("explain bridges", "Fine."), "held-out prompt"),
        (("Tell me how to paint a bridge, please", "Fine."), "evaluation question"),
        (("Green paint!", "Fine."), "evaluation question"),
        (("Where is green paint sold?", "Fine."), ""),
        (("How to read a gate", "Fine."), "evaluation question"),
        (("Tell me how to read a gate", "Fine."), ""),
    ],
)
def test_a_row_may_not_say_what_is_judged(row, reason):
    assert JUDGED.reason(*row) == reason


def test_a_reader_may_ask_what_retrieval_is_asked_about_a_text_that_is_learned_from():
    assert JUDGED.reason("How to read a gate?", "So.", reader=True) == ""
    assert JUDGED.reason("How to paint a bridge?", "So.", reader=True) == "evaluation question"


def test_what_leaks_is_told_with_figures(write_author):
    made = make_dataset(*write_author(documents=40))
    assert made.leaks() == []
    assert made.sources["leakage"].startswith("none of ")
    held = made.heldout_texts[0]
    leaky = dataclasses.replace(
        made,
        pairs=[*made.pairs, Pair("What?", held)],
        preferences=[Preference(made.heldout_pairs[0].prompt, "Yes.", "No.")],
    )
    assert [(one.part, one.reason) for one in leaky.leaks()] == [
        ("pairs", "held-out text"),
        ("preferences", "held-out prompt"),
    ]
    assert verdict(leaky.leaks(), 9, 0) == (
        "2 of 9 training rows leak: 1 held-out prompt, 1 held-out text"
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("documents", [1, 2, 5, 40])
def test_no_corpus_leaks_whatever_it_is_split_by(write_author, documents, seed):
    made = make_dataset(*write_author(documents=documents, sections=8), seed=seed)
    assert made.leaks() == []
    assert made.pairs
    prompts = {pair.prompt for pair in made.pairs}
    assert prompts.isdisjoint(pair.prompt for pair in made.heldout_pairs)


def test_a_generated_pair_that_quotes_held_out_texts_is_dropped_and_counted(write_author):
    documents, chunks = write_author(documents=40)
    plain = make_dataset(documents, chunks)
    own = " ".join(sentences(plain.train_texts[0])[:6])
    quoted = " ".join(sentences(plain.heldout_texts[0])[:2])
    written = [
        Pair("What is kept?", f"{own} {quoted}", "generated"),
        Pair(plain.heldout_pairs[0].prompt, own, "generated"),
    ]
    made = make_dataset(documents, chunks, 0, (), Data(duplicates=0, grounding=0.1), written)
    assert [pair for pair in made.pairs if pair.kind == "generated"] == []
    assert made.sources["left_out"] == {"held-out prompt": 1, "held-out text": 1}
    assert made.sources["leakage"].endswith("; 2 that did were left out")


def test_questions_about_held_out_sections_are_marked(write_author):
    documents, chunks = write_author(documents=60)
    made = make_dataset(documents, chunks)
    learned = {chunk.id for chunk in train_chunks(documents, chunks)}
    assert [chunk.text for chunk in train_chunks(documents, chunks)] == made.train_texts
    held = [question for question in made.questions if question.heldout]
    assert held
    assert all(learned.isdisjoint(question.chunk_ids) for question in held)
    others = [question for question in made.questions if not question.heldout]
    assert all(not learned.isdisjoint(question.chunk_ids) for question in others)


def test_a_correction_that_asks_a_held_out_question_is_left_out(write_author):
    documents, chunks = write_author(documents=60)
    held = next(one for one in make_dataset(documents, chunks).questions if one.heldout)
    row = Correction("t", f"Please: {held.text}?", "It keeps the runs apart, as ever.")
    made = make_dataset(documents, chunks, 0, [row])
    assert (made.feedback["taken"], made.feedback["heldout"]) == (0, 1)
    assert made.leaks() == []


def reworded(text, every):
    return " ".join(
        content_id(word) if at % every == every - 1 else word
        for at, word in enumerate(text.split())
    )


def test_rows_that_say_nearly_the_same_are_found_and_others_are_not():
    text = " ".join(f"word{n % 37} of{n} it{n % 11}" for n in range(60))
    texts = [text, "Something else.", text.upper() + "!", reworded(text, 40), reworded(text, 4), ""]
    assert first_alike(texts, 0.8) == [0, 1, 0, 0, 4, 5]
    assert first_alike(texts, 1.0) == [0, 1, 0, 3, 4, 5]
    assert first_alike(["一" * 9 + "二三", "一" * 9 + "二三"], 0.8) == [0, 0]


def test_many_rows_of_one_pattern_are_compared_with_a_few_only(write_author):
    _, chunks = write_author(documents=900, sections=2)
    texts = [chunk.text for chunk in chunks]
    assert first_alike([*texts, texts[5], texts[1700]], 0.8)[-2:] == [5, 1700]


def test_duplicates_are_left_out_as_far_as_asked(write_author):
    documents, chunks = write_author(documents=20)
    some = make_dataset(documents, chunks, 0, (), Data(duplicates=0.8))
    every = make_dataset(documents, chunks, 0, (), Data(duplicates=0))
    count = some.sources["left_out"]["near duplicate"]
    assert count > 0
    assert len(some.pairs) + len(some.preferences) + count == len(every.pairs) + len(
        every.preferences
    )
