"""The gate says worse when it is worse, and does not see what is not there."""

import json
import random
from dataclasses import asdict

import pytest

from llm_twin.errors import ConfigError
from llm_twin.model import profile
from llm_twin.model.gate import check, compare, gate

RULE = profile.Gate()


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
    said = gate(metrics(), None, RULE, data_changed=True)
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
    said = gate(candidate, production, RULE, data_changed=True)
    assert not said.promote
    assert said.verdict == "below the floor"
    assert reason in " ".join(said.reasons)


def test_without_questions_the_floor_says_nothing():
    candidate = metrics(hit=0.0)
    candidate["retrieval"] = {"hit@5": 0.0, "n": 0, "items": []}
    said = gate(candidate, None, RULE, data_changed=True)
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
    said = gate(candidate, metrics(), RULE, data_changed=False)
    assert (said.promote, said.verdict) == (promote, verdict)
    assert reason in " ".join(said.reasons)
    assert "on 40 items" in " ".join(said.reasons)


@pytest.mark.parametrize("changed", [True, False])
def test_too_close_to_tell_serves_fresh_data_only(changed):
    said = gate(metrics(bits=2.08), metrics(), RULE, data_changed=changed)
    assert said.verdict == "cannot tell"
    assert said.promote is changed
    assert ("what is fresh is served" in " ".join(said.reasons)) is changed


def test_a_close_call_says_how_many_items_would_tell():
    candidate = metrics(bits=2.03, spread=0.5)
    said = gate(candidate, metrics(prefix="t"), RULE, data_changed=False)
    assert "items would tell" in said.reasons[0]


def test_only_items_that_both_answered_count():
    said = gate(metrics(bits=2.5), metrics(prefix="other"), RULE, data_changed=True)
    assert said.verdict == "cannot tell"
    assert "on 0 items" in said.reasons[0]


def with_group(metrics, name, values, **figures):
    items = [{"id": f"{name}{at}", "value": value} for at, value in enumerate(values)]
    return {**metrics, name: {"n": len(items), "items": items, **figures}}


def rule_of(**values):
    return profile.Gate(**values)


GROUPS_MORE_IS_BETTER = ["retrieval", "answers", "refusal", "style", "judged", "preference"]


@pytest.mark.parametrize("group", GROUPS_MORE_IS_BETTER)
@pytest.mark.parametrize(("ours", "word"), [(0.9, "better"), (0.5, "worse"), (0.7, "cannot tell")])
def test_each_group_in_the_margins_decides(group, ours, word):
    rule = rule_of(margins={group: 0.0})
    candidate = with_group(metrics(bits=2.9), group, [ours] * 20, **{"hit@5": 1.0})
    production = with_group(metrics(bits=1.0), group, [0.7] * 20)
    said = gate(candidate, production, rule, data_changed=False)
    assert (said.promote, said.verdict) == (word == "better", word)
    assert list(said.compared) == [group]
    assert said.compared[group].n == 20
    assert "on 20 items" in said.reasons[0]


def test_a_group_that_is_not_in_the_margins_decides_nothing():
    candidate = with_group(metrics(), "style", [0.0] * 20)
    production = with_group(metrics(), "style", [1.0] * 20)
    said = gate(candidate, production, RULE, data_changed=False)
    assert said.verdict == "cannot tell"
    assert list(said.compared) == ["language", "retrieval"]


def test_a_margin_silences_a_small_difference():
    sides = [with_group(metrics(), "answers", [value] * 20) for value in (0.66, 0.7)]
    said = {
        margin: gate(*sides, rule_of(margins={"answers": margin}), data_changed=False).verdict
        for margin in (0.0, 0.05)
    }
    assert said == {0.0: "worse", 0.05: "cannot tell"}


@pytest.mark.parametrize("side", ["candidate", "production"])
@pytest.mark.parametrize("left", [{}, {"style": None}, {"style": {"n": 0}}])
def test_a_group_missing_on_a_side_is_not_compared_and_a_reason_says_so(side, left):
    full = with_group(metrics(), "style", [0.5] * 20)
    without = {**metrics(), **left}
    sides = {"candidate": full, "production": full, side: without}
    rule = rule_of(margins={"language": 0.1, "style": 0.0})
    said = gate(sides["candidate"], sides["production"], rule, data_changed=True)
    assert said.promote
    assert list(said.compared) == ["language"]
    who = "the candidate" if side == "candidate" else side
    assert f"Style is not compared: it was not measured for {who}." in said.reasons


@pytest.mark.parametrize(
    ("floor", "value", "met"),
    [
        ("retrieval.hit@5", 0.6, True),
        ("retrieval.hit@5", 0.4, False),
        ("answers.groundedness", 0.5, True),
        ("refusal.refused", 0.49, False),
        ("style.author", 0.2, False),
    ],
)
def test_floors_are_taken_by_dotted_name(floor, value, met):
    group, figure = floor.split(".", 1)
    candidate = with_group(metrics(), group, [0.5] * 9, **{figure: value})
    said = gate(candidate, None, rule_of(floors={floor: 0.5}), data_changed=True)
    assert said.promote is met
    assert said.verdict == ("first" if met else "below the floor")
    named = "Retrieval finds" if group == "retrieval" else f"{floor} is "
    assert [reason for reason in said.reasons if reason.startswith(named)]


def test_a_floor_reaches_into_nested_figures():
    candidate = with_group(metrics(), "style", [0.5] * 9, candidate={"author": 0.3})
    rule = rule_of(floors={"style.candidate.author": 0.4})
    said = gate(candidate, None, rule, data_changed=True)
    assert said.reasons == ["style.candidate.author is only 0.300, under the floor of 0.4."]


@pytest.mark.parametrize("group", ["answers", "refusal", "style", "judged", "preference"])
def test_a_floor_without_items_is_not_applied_and_says_so(group):
    candidate = with_group(metrics(), group, [])
    said = gate(candidate, None, rule_of(floors={f"{group}.any": 0.9}), data_changed=True)
    assert said.promote
    assert "is not judged: there are no " in said.reasons[-1]


def test_a_figure_that_cannot_be_told_is_not_judged_and_says_why():
    rule = rule_of(floors={"style.author": 0.9})
    for why, told in (({}, "it cannot be told"), ({"why": "too few words"}, "too few words")):
        candidate = with_group(metrics(), "style", [0.5], author=None, **why)
        said = gate(candidate, None, rule, data_changed=True)
        assert said.promote
        assert f"Style is not judged: {told}." in said.reasons


def test_a_floor_of_what_was_not_measured_lets_nothing_through():
    said = gate(metrics(), None, rule_of(floors={"style.author": 0.1}), data_changed=True)
    assert (said.promote, said.verdict) == (False, "below the floor")
    assert "style.author was not measured" in said.reasons[0]


def test_a_base_without_a_unigram_baseline_has_no_such_floor():
    candidate = metrics(bits=9.0)
    del candidate["language"]["unigram"]
    assert gate(candidate, None, RULE, data_changed=True).promote
    assert gate({"retrieval": candidate["retrieval"]}, None, RULE, data_changed=True).promote


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda one, bad: one["language"].update(perplexity=bad),
        lambda one, bad: one["language"]["items"][3].update(value=bad),
        lambda one, bad: one["retrieval"]["items"][0].update(value=bad),
        lambda one, bad: one.update(judged={"n": 1, "noise": {"within": bad}, "items": []}),
    ],
)
@pytest.mark.parametrize("production", [None, metrics(bits=2.9)])
def test_what_is_not_a_number_is_never_promoted(bad, spoil, production):
    candidate = metrics()
    assert gate(candidate, production, RULE, data_changed=True).promote
    spoil(candidate, bad)
    said = gate(candidate, production, RULE, data_changed=True)
    assert (said.promote, said.verdict) == (False, "below the floor")
    assert any(reason.endswith("is not a number.") for reason in said.reasons)


def test_a_production_that_is_not_a_number_is_not_compared():
    production = metrics(bits=float("nan"))
    said = gate(metrics(), production, RULE, data_changed=True)
    assert list(said.compared) == ["retrieval"]
    assert "Held-out text is not compared: production's values are not all numbers." in said.reasons


def test_the_confidence_is_of_the_interval_and_of_the_fewest_items():
    draw = random.Random(7)
    data = noise(draw, 60, 0.03)
    sure, less = (compare(*data, False, confidence=value) for value in (0.99, 0.8))
    assert sure.low < less.low < less.difference < less.high < sure.high
    assert sure.needed > less.needed
    for confidence, fewest in ((0.8, 4), (0.9, 5), (0.95, 6), (0.99, 8), (0.999, 11)):
        for count, word in ((fewest - 1, "cannot tell"), (fewest, "worse")):
            said = compare([9.0] * count, [1.0] * count, False, confidence=confidence)
            assert said.verdict == word
    said = gate(metrics(), metrics(), rule_of(confidence=0.95), data_changed=False)
    assert "(95 % interval" in said.reasons[0]


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        ({"margins": {"langauge": 0.1}}, "gate.margins.langauge. There are: language, retrieval"),
        ({"margins": {"retrieval.hit@5": 0.1}}, "gate.margins.retrieval.hit@5"),
        ({"margins": {"style": -0.1}}, "gate.margins.style"),
        ({"margins": {"style": float("nan")}}, "gate.margins.style"),
        ({"floors": {"retrival.hit@5": 0.5}}, "gate.floors.retrival.hit@5. There are: language"),
        ({"floors": {"retrieval.hit@6": 0.5}}, "hit@6. There are: hit@1, hit@5, mrr"),
        ({"floors": {"retrieval": 0.5}}, "gate.floors.retrieval. There are: hit@1"),
        ({"floors": {"style": 0.5}}, "gate.floors.style"),
        ({"floors": {"style.author": float("nan")}}, "gate.floors.style.author"),
        ({"floors": {"language.bits_per_character": 3.0}}, "less is better"),
    ],
)
def test_a_rule_that_names_what_there_is_not_is_refused_before_and_at_the_gate(rule, named):
    rule = rule_of(**rule)
    with pytest.raises(ConfigError, match=named.replace(".", r"\.")):
        check(rule)
    with pytest.raises(ConfigError):
        gate(metrics(), None, rule, data_changed=True)


def test_a_figure_that_a_group_has_not_is_refused_with_those_it_has():
    candidate = with_group(metrics(), "style", [0.5], author=0.5, words={"mean": 3})
    for name in ("style.athor", "style.words", "style.author.deep"):
        rule = rule_of(floors={name: 0.5})
        check(rule)
        with pytest.raises(ConfigError, match=r"There are: n, author"):
            gate(candidate, None, rule, data_changed=True)


def test_a_floor_needs_its_figure_to_be_measured():
    measured = profile.Evaluation(judge="some-judge")
    unmeasured = profile.Evaluation(samples=0, questions=0)
    for name, setting in (
        ("style.a", "samples"),
        ("answers.a", "questions"),
        ("judged.a", "judge"),
    ):
        rule = rule_of(floors={name: 0.5})
        check(rule, measured)
        with pytest.raises(ConfigError, match=f"Set evaluation.{setting}"):
            check(rule, unmeasured)


def test_a_verdict_is_plain_data():
    said = gate(metrics(bits=1.8), metrics(), RULE, data_changed=True).to_dict()
    assert json.loads(json.dumps(said)) == said
    assert said["compared"]["language"]["verdict"] == "better"
