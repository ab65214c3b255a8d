"""The baselines are proper distributions and agree with a Kneser-Ney written out slowly."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from llm_twin.model.ngram import Trigram, Unigram

VOCABULARY = 23


@pytest.fixture
def sequences():
    draw = np.random.default_rng(0)
    return [list(draw.zipf(1.6, 40) % VOCABULARY) for _ in range(30)]


def slow_kneser_ney(sequences, vocabulary):
    """The textbook recursion over dictionaries."""
    trigrams = Counter()
    for tokens in sequences:
        padded = ["<s>", "<s>", *tokens]
        trigrams.update(zip(padded, padded[1:], padded[2:], strict=False))
    bigrams = Counter(gram[1:] for gram in trigrams)
    words = Counter(gram[1:] for gram in bigrams)

    def level(counts):
        once = sum(count == 1 for count in counts.values())
        twice = sum(count == 2 for count in counts.values())
        totals, kinds = defaultdict(int), defaultdict(int)
        for gram, count in counts.items():
            totals[gram[:-1]] += count
            kinds[gram[:-1]] += 1
        return counts, once / (once + 2 * twice) if once and twice else 0.5, totals, kinds

    levels = [level(words), level(bigrams), level(trigrams)]

    def probability(first, second, token):
        value = 1 / vocabulary
        gram = (first, second, token)
        for size, (counts, discount, totals, kinds) in enumerate(levels, start=1):
            key = gram[-size:]
            total = totals.get(key[:-1], 0)
            if total:
                own = max(counts.get(key, 0) - discount, 0) / total
                value = own + discount * kinds[key[:-1]] / total * value
        return value

    return probability


def test_the_trigram_agrees_with_the_textbook(sequences):
    model = Trigram(sequences, VOCABULARY)
    slow = slow_kneser_ney(sequences, VOCABULARY)
    text = [3, 1, 1, 22, 7, 1, 2]
    padded = ["<s>", "<s>", *text]
    grams = zip(padded, padded[1:], padded[2:], strict=False)
    expected = -sum(math.log2(slow(*gram)) for gram in grams)
    assert model.bits(text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("context", [(23, 23), (23, 1), (1, 1), (0, 5), (22, 19), (19, 22)])
def test_after_every_context_the_trigram_sums_to_one(sequences, context):
    model = Trigram(sequences, VOCABULARY)
    every = np.arange(VOCABULARY)
    first, second = (np.full(VOCABULARY, one) for one in context)
    found = model.probabilities(first, second, every)
    assert found.sum() == pytest.approx(1, abs=1e-12)
    assert found.min() > 0


def test_the_unigram_sums_to_one_and_orders_by_frequency(sequences):
    found = Unigram(sequences, VOCABULARY).probabilities
    counts = Counter(token for tokens in sequences for token in tokens)
    assert found.sum() == pytest.approx(1)
    assert found.min() > 0
    assert int(found.argmax()) == counts.most_common(1)[0][0]


@pytest.mark.parametrize("kind", [Unigram, Trigram])
def test_knowing_nothing_is_uniform_and_no_text_costs_nothing(kind):
    model = kind([[]], VOCABULARY)
    assert model.bits([4, 4]) == pytest.approx(2 * math.log2(VOCABULARY))
    assert model.bits([]) == 0


def test_the_trigram_knows_what_it_read(sequences):
    model = Trigram([[1, 2, 3, 4]] * 5 + sequences, VOCABULARY)
    assert model.bits([1, 2, 3, 4]) < Unigram(sequences, VOCABULARY).bits([1, 2, 3, 4])
