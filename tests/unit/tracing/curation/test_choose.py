"""Which traces become rows, and with which wanted answer."""

from datetime import UTC, datetime, timedelta

import pytest
from seeded_traces import PROJECT, scored, seed, told

from llm_twin.settings import Settings
from llm_twin.tracing.curation import choose
from llm_twin.tracing.store.store import Store

LINK = {"title": "Gate", "heading": "", "link": "https://author.example/gate", "quote": "…"}


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path, Settings(home=tmp_path))
    yield opened
    opened.close()


def test_corrections_failures_and_low_scores_are_chosen_the_oldest_first(store):
    error = {"exception_type": "RemoteError", "message": "gone", "traceback": "…"}
    ids = seed(
        store,
        told("What is a gate?", correction=" It compares two models. "),
        told("What is a run?", error_info=error),
        told("What is a key?"),
        told("What is a stage?"),
        told("What is a lock?"),
        told("What is a plan?"),
    )
    scored(store, ids[2], 0.2)
    scored(store, ids[3], 0.31, "groundedness", "online_scoring")
    scored(store, ids[4], 0.0, "latency", "online_scoring")
    scored(store, ids[5], 0.9)
    rows, traces = choose(store, PROJECT, ignored=("latency",))
    assert traces == 6
    assert [(row.trace_id, row.why) for row in rows] == [
        (ids[0], "corrected"),
        (ids[1], "error RemoteError"),
        (ids[2], "feedback 0.2"),
        (ids[3], "groundedness 0.31"),
    ]
    assert rows[0].question == "What is a gate?"
    assert rows[0].wanted == "It compares two models."
    assert rows[0].answer == "It is kept in the registry of runs."
    assert [row.wanted for row in rows[1:]] == ["", "", ""]


def test_the_line_of_a_low_score_can_be_moved(store):
    (one,) = seed(store, told("What is a gate?"))
    scored(store, one, 0.6)
    assert choose(store, PROJECT).rows == []
    assert len(choose(store, PROJECT, low=0.7).rows) == 1


def test_a_refusal_or_a_failure_is_no_answer_to_learn_from(store):
    error = {"exception_type": "RemoteError", "message": "gone", "traceback": "…"}
    seed(
        store,
        told("Why?", "I don't know: nothing here.", abstained=True, correction="Because of it."),
        told("How?", "Half an ans", error_info=error, correction="With some patience."),
    )
    assert [row.answer for row in choose(store, PROJECT).rows] == ["", ""]


def test_other_projects_experiments_and_old_traces_are_left_alone(store):
    old = (datetime.now(UTC) - timedelta(days=9)).isoformat()
    ids = seed(
        store,
        told("A?", correction="One that counts.", start_time=old, end_time=old),
        told("B?", correction="One that counts."),
        told("C?", correction="One of elsewhere.", project_name="other"),
        told("D?", correction="One of a test.", source="experiment"),
    )
    assert [row.trace_id for row in choose(store, PROJECT).rows] == ids[:2]
    week = datetime.now(UTC) - timedelta(days=7)
    assert [row.trace_id for row in choose(store, PROJECT, since=week).rows] == ids[1:2]
    assert choose(store, "nobody's").traces == 0


@pytest.mark.parametrize(
    ("wanted", "cites"),
    [
        ("It compares, see docs/reference/stages.md.", ("docs/reference/stages.md",)),
        ("It compares (stages.md).", ("stages.md",)),
        ("See https://a.example/gate, please.", ("https://a.example/gate",)),
        ("[The gate](https://a.example/g) says.", ("https://a.example/g",)),
        ("It compares two models [1].", ("https://author.example/gate",)),
        ("It compares two models [2] [0].", ()),
        ("Either/or, and 3/4 of it, e.g. this.", ()),
    ],
)
def test_a_correction_cites_by_address_path_or_mark(store, wanted, cites):
    seed(store, told("What is a gate?", correction=wanted, citations=[LINK]))
    assert choose(store, PROJECT).rows[0].cites == cites


def test_a_bad_answer_is_corrected_by_one_that_readers_liked(store):
    ids = seed(
        store,
        told("What is the gate?", "A door.", citations=[LINK]),
        told("what's a gate", "It compares two models.", citations=[LINK]),
        told("What is a key?", "A digest of code."),
        told("What is a key?", "A piece of metal."),
    )
    scored(store, ids[0], 0.1)
    scored(store, ids[1], 1.0)
    scored(store, ids[2], 1.0, "groundedness", "online_scoring")
    scored(store, ids[3], 0.0)
    better, uncorrected = choose(store, PROJECT).rows
    assert (better.answer, better.wanted) == ("A door.", "It compares two models.")
    assert better.cites == ("https://author.example/gate",)
    assert better.why == "feedback 0.1"
    assert (uncorrected.wanted, uncorrected.cites) == ("", ())


def test_a_correction_that_is_no_text_and_metadata_that_is_no_object_are_nothing(store):
    seed(store, told("A?", correction={"a": 1}), {**told("B?"), "metadata": ["x"]})
    assert choose(store, PROJECT).rows == []
