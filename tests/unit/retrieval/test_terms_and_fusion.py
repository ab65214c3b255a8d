from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from llm_twin.corpus.document import Chunk
from llm_twin.retrieval.fusion import Evidence, distinct, fuse, rarity
from llm_twin.retrieval.ports import Hit
from llm_twin.retrieval.terms import MAX_TERMS, question_terms, stems


def evidence(**given: list[float]) -> Evidence:
    size = len(next(iter(given.values())))
    fields = ("bm25", "coverage", "cosine", "document_coverage", "document_cosine")
    return Evidence(**{name: np.array(given.get(name, [0.0] * size)) for name in fields})


def hit(text: str) -> Hit:
    return Hit(Chunk("d", "1", "T", (), text, "", 0), 1.0, 0.0, 0.0)


def test_stems_are_the_index_s_own() -> None:
    assert stems("The models were quantized") == ["the", "model", "were", "quantiz"]
    assert stems("Café ÜBER") == ["cafe", "uber"]
    assert stems("") == stems("😀 !?") == stems("\ud800") == []


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What does a stage's cache key cover?", ["stage", "cache", "key", "cover"]),
        ("models and a model", ["models"]),
        ("what is it?", ["what", "is", "it"]),
        ("snake_case names", ["snake", "case", "names"]),
        ("", []),
        ("?!", []),
    ],
)
def test_question_terms(question: str, words: list[str]) -> None:
    assert list(question_terms(question).values()) == words


def test_question_terms_are_bounded() -> None:
    assert len(question_terms(" ".join(f"word{n}" for n in range(5000)))) == MAX_TERMS


@pytest.mark.parametrize(
    "field", ["bm25", "coverage", "cosine", "document_coverage", "document_cosine"]
)
def test_more_of_anything_is_better(field: str) -> None:
    low, high = fuse(evidence(**{field: [0.2, 0.9]}))
    assert high > low


def test_the_passage_outweighs_its_document() -> None:
    own, document = fuse(evidence(cosine=[0.6, 0.0], document_cosine=[0.0, 0.6]))
    assert own > document


def test_bm25_counts_on_the_question_s_own_scale() -> None:
    small = fuse(evidence(bm25=[1.0, 2.0]))
    large = fuse(evidence(bm25=[10.0, 20.0]))
    assert small.tolist() == large.tolist()


def test_nothing_to_fuse() -> None:
    assert fuse(evidence(bm25=[])).shape == (0,)


def test_rarity_falls_with_holders() -> None:
    assert rarity(100, 0) > rarity(100, 1) > rarity(100, 50) > rarity(100, 100) > 0


def test_distinct_keeps_the_first_of_alike() -> None:
    one = "one two three four five six seven eight nine ten"
    hits = [hit(one), hit(one.upper()), hit(f"{one} eleven"), hit("something else"), hit("")]
    assert [kept.chunk.text for kept in distinct(hits, 9)] == [one, "something else", ""]
    assert [kept.chunk.text for kept in distinct(hits, 1)] == [one]


def test_the_package_is_light_to_import() -> None:
    code = (
        "import sys, llm_twin.retrieval; heavy = {'numpy', 'onnxruntime', 'onnx', 'tokenizers',"
        " 'qdrant_client', 'httpx', 'torch'} & set(sys.modules); print(sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_opening_an_index_loads_no_model_runtime() -> None:
    code = (
        "import sys; from llm_twin.retrieval import Retriever, open_embedder, open_index;"
        " import llm_twin.retrieval.sqlite; heavy = {'onnxruntime', 'onnx', 'tokenizers',"
        " 'qdrant_client', 'httpx', 'torch'} & set(sys.modules); print(sorted(heavy))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout == "[]\n"


def test_no_other_names() -> None:
    import llm_twin.retrieval

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        llm_twin.retrieval.nothing  # noqa: B018
