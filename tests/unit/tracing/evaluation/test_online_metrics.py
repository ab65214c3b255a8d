"""What the scores that need no model say of answers a person can judge at a glance."""

from typing import Any

import pytest

from llm_twin.tracing.evaluation import metrics
from llm_twin.tracing.evaluation.view import Passage

VECTORS = (
    "A vector database stores embeddings and finds the nearest ones by cosine similarity. "
    "Qdrant keeps its payload beside each vector."
)
TUNING = "LoRA freezes the weights of the base model and trains two small matrices instead."
PASSAGES = [Passage("a", 0.9, VECTORS), Passage("b", 0.5, TUNING)]


def value_of(score: metrics.Score | None) -> float | None:
    return score.value if score else None


def test_a_quotation_is_fully_grounded() -> None:
    found = metrics.groundedness(f"{VECTORS} [1]\n\n{TUNING} [2]", [VECTORS, TUNING])
    assert found
    assert found.value == 1
    assert found.reason == "every sentence is in what was retrieved"


def test_an_invention_is_hardly_grounded_and_named() -> None:
    invented = "Pinecone was founded in Lisbon in 1987 by three cooks."
    found = metrics.groundedness(f"{VECTORS} {invented}", [VECTORS])
    assert found
    assert 0.4 < found.value < 0.8
    assert invented in found.reason
    alone = metrics.groundedness(invented, [VECTORS, TUNING])
    assert alone
    assert alone.value < 0.1


def test_a_paraphrase_lies_between_a_quotation_and_an_invention() -> None:
    said = "Embeddings are stored in a vector database, which finds the nearest by similarity."
    mixed = metrics.groundedness(said, [VECTORS])
    assert mixed
    assert 0.5 < mixed.value < 1


def test_a_wrong_number_counts_against_an_answer() -> None:
    source = "The index holds 384 dimensions for each passage."
    right = metrics.groundedness(source, [source])
    wrong = metrics.groundedness(source.replace("384", "768"), [source])
    assert right
    assert wrong
    assert wrong.value < right.value


def test_texts_without_spaces_between_words_are_compared_too() -> None:
    source = "向量数据库存储嵌入并查找最近的嵌入。"
    assert value_of(metrics.groundedness("向量数据库存储嵌入。", [source])) == 1
    assert (value_of(metrics.groundedness("今天天气很好，我们去公园。", [source])) or 0) < 0.3


@pytest.mark.parametrize(("answer", "texts"), [("", [VECTORS]), ("Yes.", []), ("?!", [VECTORS])])
def test_nothing_to_compare_gives_no_groundedness(answer: str, texts: list[str]) -> None:
    assert metrics.groundedness(answer, texts) is None


def test_a_one_word_answer_is_grounded_when_the_word_was_retrieved() -> None:
    assert value_of(metrics.groundedness("Qdrant.", [VECTORS])) == 1
    assert value_of(metrics.groundedness("Milvus.", [VECTORS])) == 0


@pytest.mark.parametrize(
    ("answer", "citations", "value", "reason"),
    [
        ("x [1]", [{"quote": "finds the nearest ones"}], 1.0, "all 1 hold"),
        ("x [1]", [{"quote": "finds  the\nnearest *ones*"}], 1.0, "all 1 hold"),
        ("x [1]", [{"quote": "finds the farthest ones"}], 0.0, "[1] is no quotation"),
        ("x [1]", [{"id": "a", "quote": "stores embeddings"}], 1.0, "all 1 hold"),
        ("x [1]", [{"id": "b", "quote": "stores embeddings"}], 0.0, "[1] is no quotation"),
        ("x [1]", [{"id": "z", "quote": "stores embeddings"}], 0.0, "[1] was not retrieved"),
        ("x [1] y [2]", [{"quote": "stores embeddings"}], 0.5, "[2] has no citation"),
    ],
)
def test_citations_are_held_against_what_was_retrieved(
    answer: str, citations: list[dict[str, Any]], value: float, reason: str
) -> None:
    found = metrics.citation_validity(answer, citations, PASSAGES)
    assert found
    assert (found.value, found.reason) == (value, reason)


def test_what_cannot_be_checked_is_not_scored() -> None:
    silent = [Passage("a", 0.9)]
    assert metrics.citation_validity("no marks", [], PASSAGES) is None
    assert metrics.citation_validity("x [1]", [{"quote": "anything"}], []) is None
    assert metrics.citation_validity("x [1]", [{"quote": "anything"}], silent) is None
    assert value_of(metrics.citation_validity("x [1]", [{"id": "a"}], silent)) == 1


def test_brackets_of_the_author_are_no_marks() -> None:
    code = [Passage("a", 0.9, "Take the first: rows[0], as the paper says [12].")]
    cited = [{"quote": "Take the first: rows[0]"}]
    found = metrics.citation_validity("Take the first: rows[0], as … [12]. [1]", cited, code)
    assert value_of(found) == 1


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "  \n",
        "I don't know: nothing in these texts answers that.",
        "I don’t know.",
        "I'm sorry, but I cannot answer this question.",
        "Unfortunately, I do not have enough information to say.",
        "I can't help with that.",
        "Ich weiß es nicht.",
        "Je ne sais pas.",
    ],
)
def test_refusals_are_seen(answer: str) -> None:
    assert metrics.answered(answer).value == 0


@pytest.mark.parametrize(
    "answer",
    [
        "I know that vectors have a length.",
        "Retrieval fails when I don't know the domain.",
        "I do not recommend fine-tuning first.",
        "Sorry algorithms by their complexity before you choose one.",
    ],
)
def test_answers_that_sound_a_little_like_refusals_are_none(answer: str) -> None:
    assert metrics.answered(answer).value == 1


def test_the_answer_path_knows_best_whether_it_declined() -> None:
    assert metrics.answered("Nobody has said so yet.", declined=True).value == 0
    assert metrics.answered("I don't know a better way than this.", declined=False).value == 1


@pytest.mark.parametrize(("words", "value"), [(2, 0.4), (5, 1.0), (10, 1.0), (40, 0.25), (0, 0.0)])
def test_length_falls_off_on_both_sides(words: int, value: float) -> None:
    found = metrics.length("word " * words, least=5, most=10)
    assert (found.value, found.reason) == (value, f"{words} words")


def test_any_answer_is_long_enough_when_none_is_asked_for() -> None:
    assert metrics.length("", least=0, most=10).value == 1


@pytest.mark.parametrize(
    ("question", "answer", "value"),
    [
        ("How does the retriever find passages?", "It compares the question with them.", 1),
        ("Warum ist die Suche so langsam?", "Weil jede Anfrage alle Vektoren vergleicht.", 1),
        ("Warum ist die Suche so langsam?", "Because each query compares all vectors.", 0),
        ("Comment entraîner un modèle ?", "You train it on pairs of questions and answers.", 0),
    ],
)
def test_the_language_of_answers(question: str, answer: str, value: float) -> None:
    assert value_of(metrics.language(question, answer)) == value


def test_an_unclear_language_is_not_scored() -> None:
    assert metrics.language("DPO vs SFT?", "It compares the question with them.") is None
    assert metrics.language("How does the retriever find passages?", "42") is None


@pytest.mark.parametrize(("seconds", "value"), [(0.5, 1.0), (2.0, 1.0), (6.0, 0.5), (60.0, 0.0)])
def test_latency_falls_between_good_and_bad(seconds: float, value: float) -> None:
    found = metrics.latency(seconds, good=2, bad=10)
    assert (found.value, found.reason) == (value, f"{seconds:.2f} s")


def test_cost_is_scored_where_it_is_known() -> None:
    assert metrics.cost(None, good=0.01, bad=0.1) is None
    assert value_of(metrics.cost(0.001, good=0.01, bad=0.1)) == 1
    assert value_of(metrics.cost(0.5, good=0.01, bad=0.1)) == 0
