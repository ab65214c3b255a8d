"""Who learns from what: sides that stay, pairs and questions that make sense."""

import dataclasses
import json

import pytest

from llm_twin.corpus.document import Chunk
from llm_twin.errors import CorpusError
from llm_twin.model.dataset import Dataset, make_dataset
from llm_twin.model.questions import MOST_QUESTIONS, make_questions, withhold_headings
from llm_twin.model.split import split


def held_documents(chunks, dataset):
    return {chunk.document_id for chunk in chunks if chunk.text in dataset.heldout_texts}


def test_about_a_tenth_is_held_out_by_whole_documents(write_author):
    documents, chunks = write_author(documents=60)
    made = make_dataset(documents, chunks)
    held = held_documents(chunks, made)
    share = sum(map(len, made.heldout_texts)) / sum(len(chunk.text) for chunk in chunks)
    assert made.split_by == "document"
    assert 0.05 <= share <= 0.20
    for chunk in chunks:
        assert (chunk.text in made.heldout_texts) == (chunk.document_id in held)
        assert (chunk.text in made.train_texts) == (chunk.document_id not in held)


@pytest.mark.parametrize("seed", range(8))
def test_even_a_few_documents_have_a_held_out_one(write_author, seed):
    made = make_dataset(*write_author(documents=4), seed=seed)
    assert made.split_by == "document"
    assert made.heldout_texts


def test_a_document_stays_on_its_side_when_others_come_and_go(write_author):
    documents, chunks = write_author(documents=80)
    whole = held_documents(chunks, make_dataset(documents, chunks))
    fewer = documents[:70]
    kept = [chunk for chunk in chunks if chunk.document_id in {one.id for one in fewer}]
    part = held_documents(kept, make_dataset(fewer, kept))
    assert part == whole & {document.id for document in fewer}


def test_the_order_of_chunks_does_not_matter_and_another_seed_draws_others(write_author):
    documents, chunks = write_author(documents=40)
    made = make_dataset(documents, chunks)
    assert make_dataset(documents, chunks[::-1]).digest == made.digest
    assert make_dataset(documents, chunks, seed=1).heldout_texts != made.heldout_texts
    assert make_dataset(documents, chunks, seed=1).digest != made.digest


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_documents_are_split_by_section(write_author, count):
    made = make_dataset(*write_author(documents=count, sections=8))
    assert made.split_by == "section"
    assert made.heldout_texts
    assert not set(made.heldout_texts) & set(made.train_texts)


def test_one_long_section_is_split_by_chunk(write_author):
    documents, chunks = write_author(documents=1, sections=2)
    chunks = [dataclasses.replace(chunk, headings=()) for chunk in chunks]
    made = make_dataset(documents, chunks)
    assert made.split_by == "chunk"
    assert len(made.train_texts) == len(made.heldout_texts) == 1


@pytest.mark.parametrize("sections", [0, 1])
def test_too_little_text_is_refused_in_words(write_author, sections):
    documents, chunks = write_author(documents=1, sections=sections)
    with pytest.raises(CorpusError, match=rf"too small to train on: {sections} .*Give it more"):
        make_dataset(documents, chunks)


def test_a_huge_document_is_learned_from_and_a_small_one_held_out(write_author):
    _, chunks = write_author(documents=6)
    huge = dataclasses.replace(chunks[0], text="\n".join(f"word{n} again" for n in range(9000)))
    for seed in range(5):
        sides = split([huge, *chunks[1:]], seed)
        assert huge in sides.train
        assert sides.by in ("document", "section")


def test_a_passage_that_training_says_too_is_not_held_out(write_author):
    documents, chunks = write_author(documents=40)
    held = held_documents(chunks, make_dataset(documents, chunks))
    copied = next(chunk for chunk in chunks if chunk.document_id in held)
    place = next(at for at, chunk in enumerate(chunks) if chunk.document_id not in held)
    chunks[place] = dataclasses.replace(chunks[place], text=copied.text + " And no more.")
    made = make_dataset(documents, chunks)
    assert copied.text not in made.heldout_texts
    assert made.dropped == 1


def test_chunks_of_documents_that_are_gone_are_ignored(write_author):
    documents, chunks = write_author(documents=20)
    made = make_dataset(documents[:10], chunks)
    assert made.digest == make_dataset(documents[:10], chunks[:30]).digest


def test_pairs_ask_for_a_section_and_answer_with_its_text(dataset, write_author):
    _, chunks = write_author()
    texts = {chunk.text: chunk for chunk in chunks}
    assert dataset.pairs
    assert dataset.heldout_pairs
    for pair in (one for one in dataset.pairs if one.kind == "heading"):
        chunk = texts[pair.completion]
        assert f"“{chunk.headings[-1]}”" in pair.prompt
        assert pair.completion in dataset.train_texts
        assert pair.document_id == chunk.document_id
    held = "\n".join(dataset.heldout_texts)
    assert all(pair.completion in held for pair in dataset.heldout_pairs)


def test_pairs_without_headings_or_titles(write_author):
    documents, chunks = write_author(documents=12)
    plain = [dataclasses.replace(chunk, headings=()) for chunk in chunks]
    assert make_dataset(documents, plain).pairs[0].prompt.startswith("Write the opening of “Notes")
    untitled = [dataclasses.replace(chunk, title="") for chunk in chunks]
    assert make_dataset(documents, untitled).pairs[0].prompt.startswith("Explain “")
    bare = [dataclasses.replace(chunk, title="") for chunk in plain]
    assert {pair.kind for pair in make_dataset(documents, bare).pairs} == {"continuation"}


def test_it_survives_json(dataset):
    data = json.loads(json.dumps(dataset.to_dict()))
    again = Dataset.from_dict(data)
    assert again == dataset
    assert again.digest == data["digest"]


def section(document_id, headings, title="Handbook", text="A sentence of this section. " * 20):
    return Chunk(document_id, "d", title, tuple(headings), text, "link", 0)


def asked(*chunks):
    return [question.text for question in make_questions(chunks)]


@pytest.mark.parametrize(
    ("heading", "question"),
    [
        ("3. 🔧 Supervised fine-tuning", "Supervised fine-tuning"),
        ("Why do caches go stale?", "Why do caches go stale?"),
        ("**Gradient descent**:", "Gradient descent"),
    ],
)
def test_a_heading_becomes_a_question_without_its_ornaments(heading, question):
    assert asked(section("a", [heading])) == [question]


@pytest.mark.parametrize(
    "heading", ["Introduction", "Conclusion", "Next steps", "2.1", "Usage", "The Handbook's", "🙂"]
)
def test_a_heading_that_says_too_little_is_not_asked(heading):
    assert asked(section("a", [heading])) == []


def test_a_heading_in_two_documents_or_over_a_line_of_text_is_not_asked():
    twice = section("a", ["Gradient descent"]), section("b", ["Gradient Descent"])
    assert asked(*twice) == []
    assert asked(section("a", ["Gradient descent"], text="Short.")) == []
    assert asked(section("a", ["Gradient descent"], title="Gradient descent explained")) == []


def test_no_more_than_the_limit_and_always_the_same(write_author):
    _, chunks = write_author(documents=150, sections=5)
    questions = make_questions(chunks)
    assert len(questions) == MOST_QUESTIONS
    assert make_questions(chunks[::-1]) == questions
    assert len({question.id for question in questions}) == MOST_QUESTIONS


def test_the_asked_heading_is_withheld_from_its_section_and_those_below():
    chunks = [
        section("a", ["Training", "Gradient descent"]),
        section("a", ["Training", "Gradient descent", "Step"], text="One more text."),
        section("a", ["Training", "Other"], text="Too short."),
        section("b", ["Training", "Gradient descent", "x"], text="Elsewhere."),
    ]
    (question,) = make_questions(chunks)
    assert question.text == "Gradient descent"
    assert question.chunk_ids == (chunks[0].id,)
    withheld = withhold_headings(chunks, [question])
    assert [chunk.headings for chunk in withheld] == [
        ("Training",), ("Training", "Step"), ("Training", "Other"),
        ("Training", "Gradient descent", "x"),
    ]  # fmt: skip
    assert [chunk.text for chunk in withheld] == [chunk.text for chunk in chunks]
