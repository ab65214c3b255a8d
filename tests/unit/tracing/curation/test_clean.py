"""Which rows are kept, and the reason of each that is not."""

import random
import re

import pytest

from llm_twin.model.feedback import Correction
from llm_twin.model.near_duplicates import Text, first_alike, question_key
from llm_twin.tracing.curation import REASONS, curate
from llm_twin.tracing.redaction import Redactor

WANTED = "It compares the candidate with the model in production, item by item."


def row(number, question="What does the gate do?", wanted=WANTED, answer="", cites=()):
    return Correction(f"t{number:05}", question, wanted, answer, cites, "corrected")


def kept(made):
    return [one.trace_id for one in made.rows]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"question": ""}, "no question"),
        ({"wanted": ""}, "uncorrected"),
        ({"wanted": "No, wrong!"}, "too short"),
        ({"answer": WANTED.upper()}, "unchanged"),
        ({"wanted": "Write to anna@example.com about it."}, "private"),
        ({"question": "Is DE89 3704 0044 0532 0130 00 mine?"}, "private"),
        ({"answer": "Ask anna@example.com."}, "private"),
        ({"cites": ("https://anna:sesame@example.com/a",)}, "private"),  # pragma: allowlist secret
        ({"wanted": "Write to [EMAIL] about it."}, "redacted"),
        ({"question": "Who is [PERSON]?"}, "redacted"),
        ({"answer": "Ask [EMAIL-bfamjkcl] for it."}, "redacted"),
    ],
)
def test_a_row_that_nothing_can_be_learned_from_is_rejected_with_its_reason(changes, reason):
    made = curate([row(1, **changes)], Redactor())
    assert made.rows == []
    assert made.rejected == {"t00001": reason}
    assert made.counts() == {reason: 1}
    assert reason in REASONS


def test_the_users_own_patterns_are_private_too():
    redactor = Redactor([re.compile(r"Project \w+")])
    assert curate([row(1, wanted="It is a part of Project Falcon.")], redactor).rejected
    assert not curate([row(1, wanted="It is a part of the project.")], redactor).rejected


@pytest.mark.parametrize(
    "text", ["See [README](x.md) and [CI] for it.", "夜は長い。", "x[i] is what [DONE] means"]
)
def test_what_only_looks_taken_out_or_short_is_kept(text):
    assert kept(curate([row(1, wanted=text)], Redactor())) == ["t00001"]


def test_of_the_same_the_oldest_is_kept_whatever_the_order():
    rows = [
        row(3, "what does the gate do"),
        row(2, "WHAT does the gate do?!"),
        row(1),
        row(4, "What does a gate do?", WANTED.replace("item by item", "one item after another")),
        row(5, "So tell me: what does the gate do?"),
    ]
    for seed in range(4):
        random.Random(seed).shuffle(rows)
        made = curate(rows, Redactor())
        assert kept(made) == ["t00001"]
        assert made.rejected == {
            "t00002": "duplicate",
            "t00003": "duplicate",
            "t00004": "near duplicate",
            "t00005": "near duplicate",
        }


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("It compares two models by their answers.", "A wooden door in a garden wall."),
        ("Yes, it does compare them.", "No, it doesn't compare them."),
        ("It waits for 30 seconds each time.", "It waits for 60 seconds each time."),
    ],
)
def test_one_question_with_answers_that_do_not_agree_is_learned_from_neither(first, second):
    rows = [row(1, wanted=first), row(2, "what does a gate do", second), row(3, "Why?")]
    made = curate(rows, Redactor())
    assert kept(made) == ["t00003"]
    assert made.counts() == {"contradiction": 2}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("How do I deploy to AWS?", "How do I deploy to GCP?"),
        ("Does the cache expire?", "Does the cache never expire?"),
        ("What changed in version 2?", "What changed in version 3?"),
    ],
)
def test_questions_that_differ_in_one_telling_word_are_both_kept(first, second):
    made = curate([row(1, first, f"{first} Yes."), row(2, second, f"{second} Yes.")], Redactor())
    assert kept(made) == ["t00001", "t00002"]


def test_open_questions_are_kept_apart_each_once():
    rows = [row(1, wanted=""), row(2, "what does the gate do", ""), row(3, "Why so?", "")]
    made = curate(rows, Redactor())
    assert [one.trace_id for one in made.open] == ["t00001", "t00003"]
    assert made.counts() == {"uncorrected": 3}


def test_what_the_texts_do_not_support_is_rejected_where_that_is_asked():
    asked = []

    def passages(text):
        asked.append(text)
        return ["The gate compares the candidate with production, item by item, and says so."]

    rows = [row(1), row(2, "Who built it?", "Carpenters from a northern valley built it.")]
    made = curate(rows, Redactor(), passages)
    assert kept(made) == ["t00001"]
    assert made.rejected == {"t00002": "ungrounded"}
    assert asked[0] == f"What does the gate do? {WANTED}"
    assert curate(rows[:1], Redactor(), lambda text: []).rejected == {"t00001": "ungrounded"}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("What's a gate?", "what is the  GATE", True),
        ("What is the gate for?", "What is the gate?", False),
        ("The?", "A?", False),
        ("ｗｈａｔ is a gate", "What is a gate?", True),
    ],
)
def test_when_two_questions_are_the_same(one, other, same):
    assert (question_key(one) == question_key(other)) is same


def test_no_near_duplicate_is_missed():
    draw = random.Random(7)
    words = [f"word{letter}" for letter in "abcdefghijklmnopqrst"]
    texts = []
    for _ in range(150):
        base = [draw.choice(words) for _ in range(draw.randint(1, 14))]
        texts.append(Text.of(" ".join(base)))
        base[draw.randrange(len(base))] = draw.choice(words)
        texts.append(Text.of(" ".join(base)))
    found = first_alike(texts)
    heads = []
    for place, text in enumerate(texts):
        expected = next((head for head in heads if text.is_like(texts[head])), place)
        assert found[place] == expected
        if expected == place:
            heads.append(place)
    assert len(heads) < len(texts)


def test_texts_without_words_are_like_nothing():
    assert first_alike([Text.of("?"), Text.of("!!"), Text.of("a word")]) == [0, 1, 2]
