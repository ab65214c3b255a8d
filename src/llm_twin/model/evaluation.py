"""How good a model and a search are, as plain numbers with one row for every item.

Items carry ids, so that two models are compared on the same items even when their tokenizers
differ: bits per character does not depend on the tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_twin.corpus.document import content_id
from llm_twin.model.tokenizer import encode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llm_twin.model.dataset import Dataset
    from llm_twin.model.language_model import LocalModel
    from llm_twin.model.questions import Question

SEARCHED = 20
SMALL = 50_000_000
"""Weights up to which the untrained network is a yardstick worth its cost."""


def evaluate_language(model: LocalModel, dataset: Dataset) -> dict[str, Any]:
    """Score the held-out passages.

    Returns:
        ``bits_per_character`` and ``perplexity`` (per token) of the model; bits per character of
        the baselines ``untrained`` (the same network before training), ``unigram`` and ``trigram``
        (Kneser-Ney), all over the model's own tokens; ``characters``, ``tokens``, ``n``; and
        ``items``, each with ``id``, ``value`` (bits per character), ``bits`` and ``characters``.

    """
    texts = [text for text in dataset.heldout_texts if text]
    tokens = encode(model.tokenizer, texts)
    bits = [sum(own) for own in model.token_bits(tokens)]
    characters, count = sum(map(len, texts)), sum(map(len, tokens))
    return {
        "bits_per_character": sum(bits) / characters,
        "perplexity": 2 ** (sum(bits) / count),
        **baselines(model, dataset.train_texts, texts),
        "characters": characters,
        "tokens": count,
        "n": len(texts),
        "items": [
            {"id": content_id(text), "value": own / len(text), "bits": own, "characters": len(text)}
            for text, own in zip(texts, bits, strict=True)
        ],
    }


def baselines(model: LocalModel, train: Sequence[str], heldout: Sequence[str]) -> dict[str, float]:
    """Bits per character of the untrained network, the unigram and the trigram on these texts."""
    from llm_twin.model.ngram import Trigram, Unigram

    learned = encode(model.tokenizer, train)
    judged = encode(model.tokenizer, heldout)
    characters = sum(map(len, heldout))
    vocabulary = len(model.tokenizer)
    unigram, trigram = Unigram(learned, vocabulary), Trigram(learned, vocabulary)
    return {
        **_untrained(model, judged, characters),
        "unigram": sum(map(unigram.bits, judged)) / characters,
        "trigram": sum(map(trigram.bits, judged)) / characters,
    }


def _untrained(model: LocalModel, judged: Sequence[list[int]], characters: int) -> dict[str, float]:
    """What the same network said before it learned anything; not of one as large as a base."""
    from llm_twin.model import runtime
    from llm_twin.model.language_model import LocalModel

    if model.network.num_parameters() > SMALL:
        return {}
    with runtime.seeded(0):
        network = type(model.network)(model.network.config)
    bits = LocalModel(network, model.tokenizer).token_bits(judged)
    return {"untrained": sum(map(sum, bits)) / characters}


def evaluate_retrieval(
    questions: Sequence[Question], search: Callable[[str, int], list[str]]
) -> dict[str, Any]:
    """Ask every question and look for its document among the answers.

    Args:
        questions: from a Dataset.
        search: takes a question and k; returns document ids, best first, repeats allowed. It must
            search ``withhold_headings(chunks, questions)``.

    Returns:
        ``hit@1``, ``hit@5`` and ``mrr`` over documents; ``n``; and ``items``, each with ``id``,
        ``value`` (the reciprocal rank, 0 when not found), ``question`` and ``document_id``. With
        no questions the three figures are 0.

    """
    items: list[dict[str, Any]] = [
        {
            "id": question.id,
            "value": _reciprocal_rank(question, search(question.text, SEARCHED)),
            "question": question.text,
            "document_id": question.document_id,
        }
        for question in questions
    ]
    values = [item["value"] for item in items]
    count = max(1, len(values))
    return {
        "hit@1": sum(value == 1 for value in values) / count,
        "hit@5": sum(value >= 1 / 5 for value in values) / count,
        "mrr": sum(values) / count,
        "n": len(values),
        "items": items,
    }


def _reciprocal_rank(question: Question, found: Sequence[str]) -> float:
    distinct = list(dict.fromkeys(found))
    if question.document_id not in distinct:
        return 0.0
    return 1 / (distinct.index(question.document_id) + 1)
