"""Which words of a question count, and for how much."""

from __future__ import annotations

from llm_twin.serving.words import Vocabulary, terms


def test_only_informative_words_count() -> None:
    assert terms("How do I explain what the best thing is?") == []
    assert len(terms("How do I feed a sourdough starter?")) == 3


def test_forms_of_a_word_and_of_a_letter_are_the_same() -> None:
    assert terms("feeding") == terms("feeds") == terms("ＦＥＥＤ")


def test_rare_words_weigh_more_and_unknown_ones_most() -> None:
    vocabulary = Vocabulary.of(["rye flour", "wheat flour", "spelt flour"])
    rye, flour, zebra = terms("rye flour zebra")

    assert vocabulary.weight(flour) < vocabulary.weight(rye) < vocabulary.weight(zebra)


def test_familiarity_falls_with_every_unknown_word() -> None:
    vocabulary = Vocabulary.of(["rye flour", "wheat flour"])

    assert vocabulary.familiarity(terms("rye flour")) == 1
    assert 0 < vocabulary.familiarity(terms("rye zebra")) < 1
    assert vocabulary.familiarity(terms("zebra giraffe")) == 0


def test_a_vocabulary_forgets_passages() -> None:
    both = Vocabulary.of(["rye flour", "wheat flour"])

    assert both.without(["rye flour"]) == Vocabulary.of(["wheat flour"])


def test_an_unknown_corpus_counts_against_no_question() -> None:
    assert Vocabulary().familiarity(terms("zebra")) == 1
    assert Vocabulary().coverage([], []) == 1
