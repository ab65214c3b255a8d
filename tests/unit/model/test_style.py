"""Telling an author from others, with real texts: this repository's own, and the shipped ones."""

from pathlib import Path

import numpy as np
import pytest

from llm_twin.errors import ConfigError
from llm_twin.model import prose
from llm_twin.model.classifier import Classifier, features
from llm_twin.model.controls import assistant, controls, library
from llm_twin.model.dataset import Dataset, Pair
from llm_twin.model.delta import Delta, common_words, frequencies
from llm_twin.model.samples import copied, distinct
from llm_twin.model.style import Style, evaluate_style, write_samples

ROOT = Path(__file__).resolve().parents[3]
ARTICLES = ROOT.parent / "shared" / "data" / "handbook_articles_maxime_labonne.json"


def documents() -> list[str]:
    """Return what people wrote in this repository, a text for each page."""
    pages = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "ARCHITECTURE.md"]
    return [page.read_text(encoding="utf-8") for page in pages]


def area(inside, outside) -> float:
    left, right = np.array(inside)[:, None], np.array(outside)[None, :]
    return float(np.mean((left > right) + 0.5 * (left == right)))


def halves(texts):
    """Every third text is held out."""
    return (
        [text for place, text in enumerate(texts) if place % 3],
        [text for place, text in enumerate(texts) if not place % 3],
    )


@pytest.fixture(scope="module")
def sides():
    return halves(documents())


@pytest.fixture(scope="module")
def others():
    """(learned, held out) texts of every shipped control."""
    return {name: halves(texts) for name, texts in controls().items()}


@pytest.fixture(scope="module")
def style(sides, others):
    return Style.learn(sides[0], {name: own for name, (own, _) in others.items()})


def pieces(texts):
    return prose.pieces(map(prose.plain, texts), 100)


def test_an_author_is_told_from_a_language_model_and_from_others(style, sides, others):
    own = style.score(pieces(sides[1]))
    assert style.accuracy > 0.75
    for name, (_, held) in others.items():
        foreign = style.score(pieces(held))
        assert area([one.author for one in own], [one.author for one in foreign]) > 0.9
        nearer = area(
            [one.delta[name] - one.delta["author"] for one in own],
            [one.delta[name] - one.delta["author"] for one in foreign],
        )
        assert nearer > 0.85


@pytest.mark.skipif(not ARTICLES.exists(), reason="optional: the articles are not there")
def test_real_articles_are_told_from_a_language_model_that_was_never_seen():
    import json

    from llm_twin.corpus import clean, open_source
    from llm_twin.settings import Settings

    found = open_source(str(ARTICLES), Settings()).read(None, lambda line: None).documents
    own, held = halves([one.text for one in clean(found).documents])
    chat = json.loads(ARTICLES.with_name("handbook_instruct_sample.json").read_text())
    answers = [
        row["answer"]
        for side in ("train", "test")
        for group in chat[side].values()
        for row in group["samples"]
    ]
    style = Style.learn(own, controls())
    mine, theirs = style.score(pieces(held)), style.score(pieces(answers))
    assert area([one.author for one in mine], [one.author for one in theirs]) > 0.97
    cosine = area([-one.delta["author"] for one in mine], [-one.delta["author"] for one in theirs])
    delta, vocabulary = style._judge.delta, style._vocabulary
    classic = [
        -np.abs(delta.scores(frequencies(pieces(texts), vocabulary)) - delta.centroids[0]).mean(1)
        for texts in (held, answers)
    ]
    assert cosine > 0.85
    assert area(*classic) < 0.5, "the classic delta takes bland prose for anybody's"


def test_the_delta_is_the_angle_and_not_the_sum_of_differences():
    """The classic delta grows with the size of the scores; so bland text is near everybody."""
    draw = np.random.default_rng(0)
    rows = draw.random((40, 30))
    labels = np.repeat([0, 1], 20)
    delta = Delta.learn(rows, labels, 2)
    bland = delta.mean + 0.05 * (rows - delta.mean)
    assert np.allclose(delta.distances(bland), delta.distances(rows))
    opposite = delta.mean - (rows - delta.mean)
    assert np.allclose(delta.distances(opposite), 2 - delta.distances(rows))


def test_common_words_are_those_that_every_class_uses():
    words = common_words({"a": ["the cat and the hat"], "b": ["the dog and the dog and a bone"]})
    assert words == ["the", "and"]


def test_nothing_is_made_up_when_there_is_too_little(sides):
    few = Style.learn(["A short text by somebody."], controls())
    alone = Style.learn(sides[0], {"other": ["Hardly anything."]})
    nobody = Style.learn(sides[0], {})
    for style in (few, alone, nobody):
        assert style.accuracy is None
        assert style.why.startswith("not told")
        assert style.score(["Whatever this may be, nobody can say who wrote it."]) == []
        figures = evaluate_style({"a": "word " * 50}, style, sides[1])
        assert figures["author"] is None
        assert figures["delta"] == figures["reference"] == {}
        assert figures["items"] == []
    assert "training texts are too short" in few.why
    assert "other" in alone.why


def test_texts_by_one_hand_cannot_be_told_apart():
    """An accuracy that is high whatever is compared would be worthless."""
    own = pieces(library.passages())[:200]
    style = Style.learn(own[::2], {"same": own[1::2]})
    assert style.accuracy < 0.7


def test_a_control_that_the_author_says_too_is_left_out(sides):
    assert "no other author" in Style.learn(sides[0], {"copy": sides[0]}).why


def test_the_same_texts_and_seed_give_the_same_figures(sides, others):
    one, again = (Style.learn(sides[0], {"llm": others["llm"][0]}) for _ in range(2))
    held = pieces(sides[1])
    assert again.accuracy == one.accuracy
    assert again.score(held) == one.score(held)


def test_every_class_weighs_the_same_however_many_texts_it_has():
    rows = features(["every text says the same"] * 110)
    labels = np.repeat([0, 1], [100, 10])
    assert np.allclose(Classifier.learn(rows, labels, 2).probabilities(rows), 0.5)


def test_a_classifier_finds_what_sets_texts_apart():
    texts = [f"{word} number {n}" for word in ("whilst", "while") for n in range(20)]
    labels = np.repeat([0, 1], 20)
    model = Classifier.learn(features(texts), labels, 2)
    told = model.probabilities(features(["whilst it rains", "while it rains"]))
    assert told[0, 0] > 0.8
    assert told[1, 1] > 0.8


def test_figures_of_samples_stand_beside_what_they_should_be(style, sides, others):
    own = dict(enumerate(pieces(sides[1])[:10]))
    chat = dict(enumerate(pieces(others["llm"][1])[:10]))
    mine = evaluate_style({f"s{key}": text for key, text in own.items()}, style, sides[1])
    theirs = evaluate_style({f"s{key}": text for key, text in chat.items()}, style, sides[1])
    assert mine["author"] > theirs["author"] + 0.3
    assert mine["delta"]["author"] < theirs["delta"]["author"]
    assert [item["id"] for item in mine["items"]] == [f"s{key}" for key in own]
    assert np.mean([item["value"] for item in mine["items"]]) == pytest.approx(mine["author"])
    reference = mine["reference"]
    assert reference["author"]["author"] > 0.7 > reference["llm"]["author"]
    assert reference["other"]["author"] < 0.3
    assert reference["author"]["distinct"] > 0.8
    assert mine["copied"] < 0.2
    assert mine["chance"] == pytest.approx(1 / 3)


def test_a_sample_of_a_few_words_is_nobodys(style, sides):
    figures = evaluate_style({"a": "Too short.", "b": "", "c": sides[0][0]}, style, sides[1])
    assert [item["value"] == 0 for item in figures["items"]] == [True, True, False]
    assert (figures["short"], figures["n"]) == (2, 3)


def test_no_samples_is_said(style, sides):
    figures = evaluate_style({}, style, sides[1])
    assert figures["author"] is None
    assert figures["why"] == "not told: the model wrote no samples"
    assert figures["reference"]["author"]["author"] > 0.5


def test_copies_and_repetitions_are_counted():
    said = "one two three four five six seven eight nine ten eleven twelve"
    assert copied([said], ["before " + said + " after"]) == 1
    assert copied(["ten nine eight seven six five four three two one zero"], [said]) == 0
    half = "one two three four five six seven eight but then other words altogether follow here"
    assert copied([half], [said]) == 1 / 8
    assert distinct(["a b c d e"]) == 1
    assert distinct(["a b c a b c a b c"]) == pytest.approx(3 / 7)
    assert distinct(["a b c", "a b c"]) == 0.5
    assert copied(["too few"], [said]) is None
    assert distinct([]) is None


def test_how_a_text_was_published_is_no_style():
    one = "# Top\n\nIt’s “done” — see [the docs](https://a.b/c) 🚀.\n\n```\nx = 1\n```\n* An item"
    two = 'It\'s "done" - see the docs .\nAn item'
    assert prose.plain(one) == prose.plain(two)
    assert prose.plain("In 2024, <b>5</b> cafés") == "in 0000, 0 cafés"


def test_pieces_end_with_sentences_and_hold_enough_words():
    text = " ".join(f"Sentence number {'x' * n} is here." for n in range(1, 60))
    found = prose.pieces([prose.plain(text)], 20)
    assert all(len(prose.words(piece)) >= 20 for piece in found)
    assert all(piece.startswith("sentence") for piece in found)
    assert prose.pieces(["only this."], 20) == ["only this."]
    assert prose.pieces([], 20) == []


def test_controls_are_on_every_machine():
    found = controls()
    assert sum(len(text.split()) for text in found["llm"]) >= 3_000
    assert sum(len(text.split()) for text in found["other"]) >= 10_000
    assert not [text for text in found["other"] if ">>>" in text]
    assert "A language model wrote" in assistant.__doc__


def test_the_callers_controls_come_on_top_or_instead():
    found = controls({"llm": ["mine"], "paul": ["his"], "nobody": []})
    assert found["llm"] == ["mine"]
    assert found["paul"] == ["his"]
    assert "nobody" not in found
    assert found["other"]
    with pytest.raises(ConfigError, match="named like the author"):
        controls({"author": ["x"]})


def _asked(*prompts):
    pairs = [Pair(prompt, "Whatever.") for prompt in prompts]
    return Dataset([], [], [], pairs, [], "document", 0, 0)


@pytest.mark.torch
def test_a_model_writes_samples_that_can_be_paired(model):
    lines = []
    data = _asked("Explain “caches”.", "Explain “gates”.")
    found = write_samples(model, data, 4, 12, seed=3, progress=lines.append)
    assert len(found) == 4
    assert all(len(prose.words(text)) <= 12 for text in found.values())
    assert len(set(found.values())) > 1
    assert write_samples(model, data, 4, 12, seed=3) == found
    assert write_samples(model, data, 2, 12, seed=3).keys() < found.keys()
    assert write_samples(model, data, 4, 12, seed=4).keys().isdisjoint(found)
    assert lines == ["wrote 4 of 4 samples"]
    assert write_samples(model, _asked(), 4, 12) == {}
