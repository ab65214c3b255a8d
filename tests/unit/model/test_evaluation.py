"""Retrieval figures, by hand."""

import pytest

from llm_twin.model.evaluation import evaluate_retrieval
from llm_twin.model.questions import Question


def ask(*documents):
    return [Question(f"about {name} {at}", name, (), (name,)) for at, name in enumerate(documents)]


def test_hits_and_ranks_are_by_document():
    answers = {
        "about a 0": ["a", "b"],
        "about b 1": ["a", "a", "b"],
        "about c 2": ["a", "b", "d", "e", "f", "c"],
        "about d 3": ["a"],
    }
    asked = []

    def search(text, k):
        asked.append(k)
        return answers[text]

    found = evaluate_retrieval(ask("a", "b", "c", "d"), search)
    assert (found["hit@1"], found["hit@5"], found["n"]) == (0.25, 0.5, 4)
    assert found["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 6 + 0) / 4)
    assert [item["value"] for item in found["items"]] == [1, 1 / 2, 1 / 6, 0]
    assert found["items"][0]["question"] == "about a 0"
    assert min(asked) >= 5


def test_no_questions_is_no_figure():
    found = evaluate_retrieval([], lambda text, k: [])
    assert (found["hit@1"], found["hit@5"], found["mrr"], found["n"]) == (0, 0, 0, 0)
