"""The gate says worse when it is worse, and does not see what is not there."""

import json
import random
from dataclasses import asdict

import pytest

from llm_twin.model.gate import compare, gate


def noise(draw, count, shift=0.0, spread=0.1):
    base = [2 + draw.gauss(0, 0.5) for _ in range(count)]
    return [one + draw.gauss(shift, spread) for one in base], base


@pytest.mark.parametrize("count", [12, 40, 120])
def test_equal_models_cannot_be_told_apart(count):
    draw = random.Random(count)
    said = [compare(*noise(draw, count), higher_is_better=False).verdict for _ in range(100)]
    assert said.count("cannot tell") >= 95


def test_equal_searches_cannot_be_told_apart():
    draw = random.Random(1)
    ranks = [1, 1, 1, 0.5, 0.2, 0]
    said = []
    for _ in range(100):
        ours = [draw.choice(ranks) for _ in range(60)]
        theirs = [one if draw.random() < 0.7 else draw.choice(ranks) for one in ours]
        said.append(compare(ours, theirs, higher_is_better=True).verdict)
    assert said.count("cannot tell") >= 95


@pytest.mark.parametrize(("higher", "shift"), [(False, 0.1), (True, -0.1)])
def test_a_clear_drop_is_seen(higher, shift):
    draw = random.Random(2)
    said = [compare(*noise(draw, 40, shift), higher_is_better=higher).verdict for _ in range(100)]
    assert said.count("worse") >= 95
    again = [compare(*noise(draw, 40, -shift), higher_is_better=higher).verdict for _ in range(100)]
    assert again.count("better") >= 95


def test_a_drop_in_every_fifth_question_is_seen():
    production = [1.0] * 100
    candidate = [0.0 if at % 5 == 0 else 1.0 for at in range(100)]
    result = compare(candidate, production, higher_is_better=True)
    assert result.verdict == "worse"
    assert result.difference == pytest.approx(-0.2)
    assert result.low < -0.2 < result.high < 0


def test_two_answers_lost_of_a_hundred_are_not_a_verdict():
    candidate = [0.0, 0.0] + [1.0] * 98
    result = compare(candidate, [1.0] * 100, higher_is_better=True)
    assert result.verdict == "cannot tell"
    assert result.needed > 100


def test_identical_few_and_no_items():
    assert compare([1, 2, 3] * 9, [1, 2, 3] * 9, False).verdict == "cannot tell"
    assert compare([1, 2, 3] * 9, [1, 2, 3] * 9, False).needed is None
    few = compare([9.0] * 7, [1.0] * 7, higher_is_better=False)
    assert (few.verdict, few.needed, few.n) == ("cannot tell", 8, 7)
    assert compare([9.0] * 8, [1.0] * 8, higher_is_better=False).verdict == "worse"
    assert compare([], [], True).n == 0
    assert compare([1.0], [2.0], True).verdict == "cannot tell"
    with pytest.raises(ValueError, match="same items"):
        compare([1.0], [], True)


def test_the_needed_number_of_items_tells():
    draw = random.Random(3)
    first = compare(*noise(draw, 200, 0.02), higher_is_better=False)
    assert 200 < first.needed < 3000
    told = [
        compare(*noise(draw, 600, 0.02), higher_is_better=False).verdict == "worse"
        for _ in range(20)
    ]
    assert sum(told) >= 16


def test_the_same_data_gives_the_same_interval():
    draw = random.Random(4)
    data = noise(draw, 30)
    assert compare(*data, higher_is_better=True) == compare(*data, higher_is_better=True)
    json.dumps(asdict(compare(*data, higher_is_better=True)))


def metrics(bits=2.0, unigram=3.0, hit=0.8, ranks=1.0, count=40, spread=0.0, prefix="t"):
    draw = random.Random(5)
    return {
        "language": {
            "bits_per_character": bits,
            "unigram": unigram,
            "items": [
                {"id": f"{prefix}{at}", "value": bits + draw.gauss(0, spread)}
                for at in range(count)
            ],
        },
        "retrieval": {
            "hit@5": hit,
            "n": count,
            "items": [{"id": f"q{at}", "value": ranks} for at in range(count)],
        },
    }


def test_the_first_model_is_served_when_it_beats_the_unigram_and_the_floor():
    said = gate(metrics(), None, 0.5, data_changed=True)
    assert said.promote
    assert said.verdict == "first"
    assert "2.000 bits per character beat the unigram baseline's 3.000" in " ".join(said.reasons)
    assert "80% of 40 questions (floor 50%)" in " ".join(said.reasons)


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (metrics(bits=3.1), "3.100 bits per character do not beat the unigram baseline's 3.000."),
        (metrics(bits=float("nan")), "do not beat the unigram"),
        (metrics(hit=0.4), "only 40% of 40 questions, under the floor of 50%."),
    ],
)
@pytest.mark.parametrize("production", [None, metrics(bits=9, ranks=0.1)])
def test_a_model_below_the_floors_is_never_served(candidate, reason, production):
    said = gate(candidate, production, 0.5, data_changed=True)
    assert not said.promote
    assert said.verdict == "below the floor"
    assert reason in " ".join(said.reasons)


def test_without_questions_the_floor_says_nothing():
    candidate = metrics(hit=0.0)
    candidate["retrieval"] = {"hit@5": 0.0, "n": 0, "items": []}
    said = gate(candidate, None, 0.5, data_changed=True)
    assert said.promote
    assert "no questions" in " ".join(said.reasons)


@pytest.mark.parametrize(
    ("candidate", "promote", "verdict", "reason"),
    [
        (metrics(bits=1.8), True, "better", "the candidate is better, -0.200 bits per character"),
        (metrics(bits=2.2), False, "worse", "the candidate is worse, +0.200 bits per character"),
        (metrics(ranks=0.5), False, "worse", "Retrieval: the candidate is worse, -0.500"),
        (metrics(bits=1.8, ranks=0.5), False, "worse", "the candidate is better"),
    ],
)
def test_better_is_served_and_worse_in_either_is_not(candidate, promote, verdict, reason):
    said = gate(candidate, metrics(), 0.5, data_changed=False)
    assert (said.promote, said.verdict) == (promote, verdict)
    assert reason in " ".join(said.reasons)
    assert "on 40 items" in " ".join(said.reasons)


@pytest.mark.parametrize("changed", [True, False])
def test_too_close_to_tell_serves_fresh_data_only(changed):
    said = gate(metrics(bits=2.08), metrics(), 0.5, data_changed=changed)
    assert said.verdict == "cannot tell"
    assert said.promote is changed
    assert ("what is fresh is served" in " ".join(said.reasons)) is changed


def test_a_close_call_says_how_many_items_would_tell():
    candidate = metrics(bits=2.03, spread=0.5)
    said = gate(candidate, metrics(prefix="t"), 0.5, data_changed=False)
    assert "items would tell" in said.reasons[0]


def test_only_items_that_both_answered_count():
    said = gate(metrics(bits=2.5), metrics(prefix="other"), 0.5, data_changed=True)
    assert said.verdict == "cannot tell"
    assert "on 0 items" in said.reasons[0]
