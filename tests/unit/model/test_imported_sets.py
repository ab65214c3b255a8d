"""Sets by others: read in every format they come in, and let in only as far as grounded."""

import json
import random
from pathlib import Path

import pytest

from llm_twin.corpus.document import Chunk, Document
from llm_twin.errors import ConfigError
from llm_twin.model.dataset import make_dataset
from llm_twin.model.grounding import Grounding
from llm_twin.model.handbook_sets import read_instructions, read_preferences
from llm_twin.model.profile import Data
from llm_twin.model.rows import Pair
from llm_twin.model.sentences import sentences
from llm_twin.settings import Settings

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"
ARTICLES = SHARED / "handbook_articles_maxime_labonne.json"
GENERIC = (
    "Effective communication plays a crucial role in fostering collaboration and enhancing overall"
    " productivity. By leveraging innovative strategies, organizations can streamline processes"
    " and ensure that individuals feel valued, ultimately leading to improved outcomes."
)
SAMPLE = {"instruction": "What is a gate?", "answer": "It lets a model through."}
WORSE = {"instruction": "What is a gate?", "chosen": "It lets models in.", "rejected": "A door."}


def sides(rows, tested=()):
    return {
        "id": "1",
        "train": {"articles": {"id": "2", "category": "articles", "samples": rows}},
        "test": {"articles": {"id": "3", "category": "articles", "samples": list(tested)}},
        "test_split_size": 0.1,
    }


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(sides([SAMPLE])),
        json.dumps({"metadata": {"a": []}, "artifact_data": sides([SAMPLE])}),
        json.dumps({"category": "articles", "samples": [SAMPLE]}),
        json.dumps([{"instruction": SAMPLE["instruction"], "output": SAMPLE["answer"]}]),
        json.dumps({"train": [{"prompt": "What is a gate?", "completion": SAMPLE["answer"]}]}),
        json.dumps(SAMPLE) + "\n\n" + json.dumps(SAMPLE) + "\n",
        "\ufeff" + json.dumps(sides([SAMPLE])),
    ],
    ids=["handbook", "artifact", "category", "list", "sides", "lines", "byte order mark"],
)
def test_an_instruction_set_is_read_in_every_format(tmp_path, text):
    (tmp_path / "set.json").write_text(text, encoding="utf-8")
    found = read_instructions(tmp_path / "set.json")
    assert set(found.train) == {Pair("What is a gate?", "It lets a model through.", "handbook")}
    assert found.test == []
    assert found.name == "set.json"
    assert len(found.sha256) == 64


@pytest.mark.parametrize(
    "row",
    [
        WORSE,
        {"prompt": "What is a gate?", "chosen": [{"role": "user", "content": "What is a gate?"},
         {"role": "assistant", "content": "It lets models in."}],
         "rejected": [{"role": "assistant", "content": "A door."}]},
    ],
)  # fmt: skip
def test_a_preference_set_is_read_and_what_was_tested_by_stays_apart(tmp_path, row):
    (tmp_path / "set.json").write_text(json.dumps(sides([row], [row])))
    found = read_preferences(tmp_path / "set.json")
    for rows in (found.train, found.test):
        (one,) = rows
        assert (one.prompt, one.chosen, one.rejected) == (
            "What is a gate?", "It lets models in.", "A door.",
        )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"not JSON: .*set\.json"),
        ('{"a": 1}\n{"b"\n', r"neither JSON nor JSON lines: .*line 2"),
        ("[]", "has no rows"),
        ("3", "no set of rows"),
        (json.dumps(sides([SAMPLE, {"instruction": "x"}])),
         r"no field 'answer' or 'output'.*set\.json, row 2 \(train\.articles\.samples\[1\]\)"),
        (json.dumps(sides([SAMPLE | {"answer": 3}])), r"field 'answer' is not a text.*row 1"),
        (json.dumps(sides([SAMPLE | {"answer": " "}])), r"field 'answer' is not a text.*row 1"),
        (json.dumps(sides([SAMPLE | {"answer": []}])), r"field 'answer' is not a text.*row 1"),
        (json.dumps(sides([["x"]])), r"row is not an object.*row 1"),
        (json.dumps({"train": {"articles": {"samples": 3}}}),
         r"no set of rows: .*train\.articles\.samples"),
    ],
)  # fmt: skip
def test_a_malformed_set_is_refused_saying_file_row_and_field(tmp_path, text, said):
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(ConfigError, match=said):
        read_instructions(tmp_path / "set.json")


def test_a_set_that_is_not_there_or_not_text_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read: .*nothing\.json\. No such file"):
        read_instructions(tmp_path / "nothing.json")
    (tmp_path / "set.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigError, match=r"not UTF-8: .*byte 0"):
        read_instructions(tmp_path / "set.json")


def passages():
    draw = random.Random(0)
    names = [f"{one}{two}" for one in ("cache", "gate", "trace", "blob") for two in range(40)]
    return [
        " ".join(
            f"The {draw.choice(names)} hands its {draw.choice(names)} to the {draw.choice(names)}"
            " before anything is written to the disk."
            for _ in range(5)
        )
        for _ in range(30)
    ]


def test_what_is_quoted_is_grounded_and_what_could_be_by_anybody_is_not():
    said = passages()
    grounding = Grounding(said)
    for place, passage in enumerate(said):
        found = grounding.of(passage)
        assert (found.share, found.place) == (1.0, place)
        assert grounding.of(passage, place).share == 1.0
        assert grounding.of(passage, (place + 1) % len(said)).share < 0.5
    assert grounding.of(GENERIC).share < 0.1
    assert grounding.of("").place == -1
    assert grounding.of("的是了").place == -1
    assert Grounding([]).of(GENERIC).share == 0


def corpus():
    said = passages()
    documents = [Document(f"{n}.md", f"Notes {n}", text) for n, text in enumerate(said)]
    return documents, [
        Chunk(one.id, "d", one.title, (f"Of {one.title}",), one.text, "", 0) for one in documents
    ]


def test_only_grounded_rows_are_learned_from_and_the_verdict_has_figures(tmp_path):
    documents, chunks = corpus()
    plain = make_dataset(documents, chunks)
    own, held = plain.train_texts[0], plain.heldout_texts[0]
    rows = [
        {"instruction": "What of the first?", "answer": " ".join(sentences(own)[1:4])},
        {"instruction": "What of the last?", "answer": " ".join(sentences(held)[1:4])},
        {"instruction": "What of it all?", "answer": GENERIC},
    ]
    (tmp_path / "set.json").write_text(json.dumps(sides(rows)))
    data = Data(instructions=[str(tmp_path / "set.json")])
    made = make_dataset(documents, chunks, 0, (), data)
    added = [pair for pair in made.pairs if pair.kind == "handbook"]
    assert [pair.prompt for pair in added] == ["What of the first?"]
    (told,) = made.sources["imports"]
    assert told["rejected"] == {"about held-out texts": 1, "ungrounded": 1}
    assert told["verdict"].startswith("2 of 3 rows are grounded in these texts")
    assert "30% is asked for" in told["verdict"]
    assert made.leaks() == []
    (tmp_path / "set.json").write_text(json.dumps(sides(rows[2:])))
    told = make_dataset(documents, chunks, 0, (), data).sources["imports"][0]
    assert told["verdict"].startswith("0 of 1 rows")
    assert told["verdict"].endswith("would ruin the voice")


def test_what_others_tested_by_is_not_learned_from(tmp_path):
    documents, chunks = corpus()
    texts = make_dataset(documents, chunks).train_texts
    first, second = (
        {"instruction": f"What of {n}?", "answer": " ".join(sentences(texts[n])[1:4])}
        for n in (0, 1)
    )
    again = {"instruction": "What of 1, please?", "answer": second["answer"]}
    (tmp_path / "set.json").write_text(json.dumps(sides([first, second, again], [second])))
    made = make_dataset(documents, chunks, 0, (), Data(instructions=[str(tmp_path / "set.json")]))
    assert [pair.prompt for pair in made.pairs if pair.kind == "handbook"] == ["What of 0?"]
    assert [pair.prompt for pair in made.heldout_pairs if pair.kind == "handbook"] == ["What of 1?"]
    assert made.leaks() == []


def test_generated_pairs_are_grounded_too():
    documents, chunks = corpus()
    own = make_dataset(documents, chunks).train_texts[0]
    written = [
        Pair("What of it?", " ".join(sentences(own)[:3]), "generated", chunks[0].document_id),
        Pair("Why so?", GENERIC, "generated", chunks[0].document_id),
    ]
    made = make_dataset(documents, chunks, 0, (), Data(), written)
    assert [pair.prompt for pair in made.pairs if pair.kind == "generated"] == ["What of it?"]
    assert made.sources["imports"][0]["what"] == "generated"


@pytest.fixture(scope="module")
def articles(tmp_path_factory):
    if not ARTICLES.is_file():
        pytest.skip(f"optional: the handbook's articles are not at {ARTICLES}")
    from llm_twin.corpus import chunk, clean, open_source

    source = open_source(str(ARTICLES), Settings(home=tmp_path_factory.mktemp("home")), ())
    documents = clean(source.read(None, lambda line: None).documents).documents

    def count(text):
        return max(len(text) // 4, len(text.split())) + 2

    return documents, [item for one in documents for item in chunk(one, count, 256)]


def paraphrased(text, draw):
    """The same with a word in nine left out and some said otherwise."""
    other = {"use": "employ", "used": "employed", "show": "demonstrate", "large": "big",
             "important": "crucial", "get": "obtain", "better": "improved", "you": "one",
             "we": "the author", "however": "but", "allows": "lets"}  # fmt: skip
    words = [other.get(word.lower(), word) for word in text.split()]
    return " ".join(word for word in words if draw.random() > 0.11)


def test_of_the_handbooks_own_set_nothing_is_grounded_and_the_authors_words_are(articles):
    documents, chunks = articles
    data = Data(
        instructions=[str(SHARED / "handbook_instruct_sample.json")],
        preferences=[str(SHARED / "handbook_preference_sample.json")],
    )
    made = make_dataset(documents, chunks, 0, (), data)
    assert [one["grounded"] for one in made.sources["imports"]] == [0, 0]
    assert made.sources["imports"][0]["verdict"].startswith("0 of 680 rows are grounded")
    assert all(one["best"] < 0.28 for one in made.sources["imports"])
    grounding, draw = Grounding([one.passage for one in chunks]), random.Random(0)
    own = [pair.completion for pair in made.pairs if pair.kind == "heading"]
    assert min(grounding.of(text).share for text in own) >= 0.3
    said = [grounding.of(paraphrased(text, draw)).share for text in own]
    assert sum(share >= 0.3 for share in said) >= 0.95 * len(said)


def test_the_authors_articles_make_pairs_of_each_kind_that_leak_nothing(articles):
    made = make_dataset(*articles)
    assert set(made.sources["pairs"]) == {"heading", "question", "continuation", "summary"}
    assert set(made.sources["preferences"]) == {"sibling", "neighbour", "shuffled", "generic"}
    assert 0.4 < made.sources["longer_chosen"] < 0.6
    assert made.leaks() == []
    assert make_dataset(*articles).to_dict() == made.to_dict()
