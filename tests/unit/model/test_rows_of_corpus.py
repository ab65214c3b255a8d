"""Pairs and preferences out of a corpus: the author's own words, in any script, bounded."""

from collections import Counter

import pytest

from llm_twin.corpus.document import Chunk, Document
from llm_twin.errors import CorpusError
from llm_twin.model import pairs as making_pairs
from llm_twin.model.dataset import Dataset, make_dataset
from llm_twin.model.pairs import pairs_of
from llm_twin.model.preferences import KINDS, longer_chosen, preferences_of
from llm_twin.model.profile import Data
from llm_twin.model.sentences import cut, is_question, sentences
from llm_twin.model.split import sections_of

BODY = (
    "Adapters are small matrices beside the frozen weights. Only they learn, which saves memory."
    "\n\n"
    "```python\nprint('Is this a question?')\n```\n\n"
    "So how large should the rank of an adapter be? Start with sixteen and look at the loss."
    " Twice the rank is twice the memory, and seldom twice as good:\n\n- rank 8 is for style\n"
    "- rank 64 is for facts\n\nA figure of ranks\n\nWhat now? Nothing."
)


def chunk(text, document="a", heading="Adapters", position=0, title="Tuning small models"):
    headings = (heading,) if heading else ()
    return Chunk(document, "digest", title, headings, text, "link", position)


def made_of(*chunks):
    return {pair.kind: pair for pair in pairs_of(sections_of(chunks))}


def test_a_question_is_answered_by_what_follows_it_in_the_same_section():
    (question,) = [one for one in pairs_of(sections_of([chunk(BODY)])) if one.kind == "question"]
    assert question.prompt == (
        "So how large should the rank of an adapter be? (“Adapters”, in “Tuning small models”)"
    )
    assert question.completion.startswith("Start with sixteen")
    assert "- rank 64 is for facts" in question.completion
    assert question.document_id == "a"


def test_a_question_at_the_end_of_a_section_is_not_answered_by_the_next_one():
    last = BODY.partition("So how")[0] + "So how large should the rank of an adapter be?"
    found = pairs_of(sections_of([chunk(last), chunk(BODY, heading="Ranks", position=1)]))
    assert [one.prompt.partition("?")[2] for one in found if one.kind == "question"] == [
        " (“Ranks”, in “Tuning small models”)"
    ]


def test_how_a_passage_goes_on_begins_where_the_prompt_ends():
    pair = made_of(chunk(BODY))["continuation"]
    opening = "Adapters are small matrices beside the frozen weights."
    assert pair.prompt.startswith(f"Go on from here: {opening}")
    said = pair.prompt.removeprefix("Go on from here: ")
    assert BODY.split(said)[1].strip().startswith(pair.completion)


def test_a_document_is_summed_up_by_its_first_sentences_but_not_by_all_of_it():
    pair = made_of(chunk(BODY))["summary"]
    assert pair.prompt == "What is “Tuning small models” about, in a few sentences?"
    assert BODY.startswith(pair.completion[:60])
    assert len(pair.completion) < len(BODY) / 2
    assert "summary" not in made_of(chunk(BODY, position=3))


def test_a_section_of_code_alone_is_an_answer_and_asks_nothing():
    code = "```python\n" + "print('why not this?')\n" * 9 + "```"
    assert set(made_of(chunk(code))) == {"heading"}


def test_continuations_are_at_most_half_as_many_as_the_others(write_author):
    _, chunks = write_author(documents=30)
    found = Counter(pair.kind for pair in pairs_of(sections_of(chunks)))
    others = sum(found.values()) - found["continuation"]
    assert 0 < found["continuation"] <= others / 2


def test_of_too_many_pairs_the_same_ones_are_drawn_every_time(write_author, monkeypatch):
    _, chunks = write_author(documents=30)
    whole = pairs_of(sections_of(chunks))
    monkeypatch.setattr(making_pairs, "MOST_HEADINGS", 20)
    drawn = [pair for pair in pairs_of(sections_of(chunks)) if pair.kind == "heading"]
    assert len(drawn) == 20
    assert drawn == [pair for pair in whole if pair in set(drawn)]
    assert drawn == [pair for pair in pairs_of(sections_of(chunks)) if pair.kind == "heading"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("One is here. Two is there.", ["One is here.", "Two is there."]),
        ("See e.g. the docs. They help.", ["See e.g. the docs.", "They help."]),
        ("- an item\n\nIt ends. Yes.", ["It ends.", "Yes."]),
        ("数据很重要。为什么呢？因为如此。", ["数据很重要。", "为什么呢？", "因为如此。"]),
        ("Τι είναι αυτό; Είναι μοντέλο.", ["Τι είναι αυτό;", "Είναι μοντέλο."]),
        ("It works; it is slow. Really.", ["It works; it is slow.", "Really."]),
        ("ما هذا؟ هذا نموذج. انتهى.", ["ما هذا؟", "هذا نموذج.", "انتهى."]),
        ("```\nnot. this.\n```\nBut this. Yes.", ["But this.", "Yes."]),
        ("", []),
    ],
)
def test_sentences_in_several_scripts(text, said):
    assert sentences(text) == said


def test_what_asks():
    asked = ["Why is it so?", "为什么呢？", "Τι είναι αυτό;", "ما هذا؟", "“Is it?”"]
    assert all(map(is_question, asked))
    assert not any(map(is_question, ["It is so.", "It works; it is slow;", "Why? Because."]))


def test_a_cut_ends_with_a_sentence_and_closes_a_code_block():
    assert cut("One is here. Two is there. Three", 30) == "One is here. Two is there."
    assert cut("short", 30) == "short"
    assert cut("word " * 20, 22) == "word word word word"
    assert cut("x" * 50, 20) == "x" * 20
    code = "Text first here.\n\n```python\n" + "line = 1\n" * 20 + "```"
    assert cut(code, 100).endswith("\n```")
    assert cut(code, 100).count("```") == 2


def test_each_section_is_preferred_once_and_each_kind_is_there(write_author):
    _, chunks = write_author(documents=40)
    chunks = [chunk for chunk in chunks if chunk.text]
    rows = preferences_of(sections_of(varied(chunks)))
    prompts = [row.prompt for row in rows]
    assert len(set(prompts)) == len(prompts) > 60
    counts = Counter(row.kind for row in rows)
    assert set(counts) == set(KINDS)
    assert max(counts.values()) < len(rows) / 2


def varied(chunks):
    """Give each section words of its own, so that sections do not say the same."""
    return [
        Chunk(
            one.document_id, one.document_digest, one.title, (*one.headings, str(place)),
            said_in(place), one.link, one.position,
        )
        for place, one in enumerate(chunks)
    ]  # fmt: skip


def said_in(place):
    own = [f"{name}{place}" for name in ("gate", "index", "trace", "stage", "blob", "run", "key")]
    near = [f"{name}{place // 2}" for name in ("cache", "model", "probe")]
    return " ".join(
        f"The {own[at]} is kept with the {near[at % 3]} for the {own[(at * 3 + 1) % 7]} of it"
        f" and a {own[(at + 4) % 7]} that you {word}."
        for at, word in enumerate(["see", "keep", "drop", "move", "read", "pass", "want"])
    )


def test_the_length_of_an_answer_says_nothing(write_author):
    _, chunks = write_author(documents=60)
    rows = preferences_of(sections_of(varied(chunks)))
    assert all(
        abs(len(row.chosen) - len(row.rejected)) <= 0.05 * max(len(row.chosen), len(row.rejected))
        for row in rows
    )
    assert 0.35 < longer_chosen(rows) < 0.65
    assert all(row.chosen[-1] == row.rejected[-1] == "." for row in rows)


def test_what_is_rejected_is_what_its_kind_says(write_author):
    _, chunks = write_author(documents=40)
    chunks = varied(chunks)
    texts = {text: one for one in chunks for text in [one.text]}
    for row in preferences_of(sections_of(chunks)):
        (own,) = [one for one in chunks if one.text.startswith(row.chosen)]
        assert own.document_id == row.document_id
        assert row.rejected != row.chosen
        others = [one for text, one in texts.items() if text.startswith(row.rejected)]
        if row.kind == "sibling":
            assert [one.document_id for one in others] == [row.document_id]
            assert others[0].headings != own.headings
        elif row.kind == "neighbour":
            assert others[0].document_id != row.document_id
        elif row.kind == "shuffled":
            assert sorted(sentences(row.rejected)) == sorted(sentences(row.chosen))
            assert sentences(row.rejected)[0] != sentences(row.chosen)[0]
        else:
            assert sentences(own.text)[1] in row.rejected
            assert sentences(own.text)[0] not in row.rejected


def test_preferences_of_the_corpus_can_be_left_out(write_author):
    documents, chunks = write_author(documents=20)
    with_them = make_dataset(documents, chunks)
    without = make_dataset(documents, chunks, 0, (), Data(preferences_from_corpus=False))
    assert with_them.preferences
    assert with_them.heldout_preferences
    assert without.preferences == without.heldout_preferences == []
    assert without.pairs == with_them.pairs
    assert without.digest != with_them.digest
    assert without.sources["notes"][0].startswith("there are no preferences")


@pytest.mark.parametrize(
    ("script", "full", "asking", "between"),
    [
        ("αβγδεζηθικλμνξοπρστυφχψω", ". ", "; ", " "),
        ("ابتثجحخدذرزسشصضطظعغفقكلمنهوي", ". ", "؟ ", " "),
        ("कखगघचछजझटठडढतथदधनपफबभमयरलव", "। ", "? ", " "),
        ("".join(map(chr, range(0x4E00, 0x5200))), "。", "？", ""),
    ],
    ids=["greek", "arabic", "hindi", "chinese"],
)
def test_other_scripts_make_pairs_of_each_kind_and_preferences(script, full, asking, between):
    import random

    draw = random.Random(1)
    chunks, documents = [], []
    for number in range(12):
        document = Document(f"{number}.md", f"{script[number]}{number}", "text")
        documents.append(document)
        for place in range(4):
            said = "".join(
                between.join("".join(draw.choices(script, k=4)) for _ in range(8))
                + (asking if at == 2 else full)
                for at in range(6)
            )
            heading = "".join(draw.choices(script, k=9))
            chunks.append(
                Chunk(document.id, "d", document.title, (heading,), said.strip(), "", place)
            )
    made = make_dataset(documents, chunks)
    assert set(made.sources["pairs"]) >= {"heading", "question", "continuation"}
    assert {"shuffled", "sibling"} <= set(made.sources["preferences"])
    assert made.leaks() == []
    assert made.split_by == "document"


def test_one_document_is_enough_and_one_text_many_times_is_not():
    document = Document("a.md", "Tuning small models", BODY)
    chunks = [chunk(f"{BODY} {n}" if n else BODY, document.id, f"Part {n}", n) for n in range(1)]
    sections = [chunk(said_in(n), document.id, f"Part {n}", n) for n in range(1, 9)]
    made = make_dataset([document], chunks + sections)
    assert made.split_by == "section"
    assert made.pairs
    assert made.heldout_pairs
    assert made.leaks() == []
    copies = [Document(f"{n}.md", "The same", BODY) for n in range(5)]
    same = [chunk(said_in(n), one.id, f"Part {n}", n) for one in copies for n in range(3)]
    with pytest.raises(CorpusError, match=r"repeats itself.*15 passages, 3 of them different"):
        make_dataset(copies, same)
    with pytest.raises(CorpusError, match="too small"):
        make_dataset([], [])


def test_rows_that_were_written_before_there_were_kinds_are_read(write_author):
    made = make_dataset(*write_author()).to_dict()
    for name in ("heldout_preferences", "sources"):
        del made[name]
    for row in (*made["pairs"], *made["heldout_pairs"], *made["preferences"]):
        del row["kind"], row["document_id"]
    for question in made["questions"]:
        del question["heldout"]
    old = Dataset.from_dict(made)
    assert {pair.kind for pair in old.pairs} == {"heading"}
    assert {row.kind for row in old.preferences} <= {"correction"}
    assert old.heldout_preferences == []
    assert old.leaks() == []
