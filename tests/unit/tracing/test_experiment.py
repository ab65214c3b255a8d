"""An evaluation kept as an Opik experiment: compared item by item, or nothing at all."""

import importlib.util

import pytest

from llm_twin.errors import RemoteError
from llm_twin.settings import Settings
from llm_twin.tracing.api import Api
from llm_twin.tracing.experiment import Item, record
from llm_twin.tracing.store.store import Store

DATASET = "withheld questions"


def asked(*values):
    return [
        Item.of_retrieval(id=f"q{n}", value=value, question=f"What is {n}?", document_id=f"d{n}")
        for n, value in enumerate(values)
    ]


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


@pytest.fixture
def library(settings):
    store = Store(settings.traces)
    yield Api.here(store)
    store.close()


def dataset(library):
    return library.find("datasets/retrieve", {"dataset_name": DATASET})


def test_two_models_are_compared_question_by_question(settings, library):
    first = record(settings, DATASET, "v1", asked(1, 0.5, 0), {"corpus": "notes"}, {"bits": 2.5})
    second = record(settings, DATASET, "v2", asked(1, 1, 0.2), {"corpus": "notes"}, {"bits": 2.25})
    rows = library.ask(
        "GET",
        f"datasets/{dataset(library)['id']}/items/experiments/items",
        page="1",
        size="100",
        experiment_ids=f'["{first}","{second}"]',
    )["content"]
    found = {}
    for row in rows:
        of = {one["experiment_id"]: one for one in row["experiment_items"]}
        ranks = [of[run]["output"]["rank"] for run in (first, second)]
        hits = [
            next(s["value"] for s in of[run]["feedback_scores"] if s["name"] == "hit@5")
            for run in (first, second)
        ]
        found[row["data"]["question"]] = (row["data"]["expected"], ranks, hits)
    assert found == {
        "What is 0?": ("d0", [1, 1], [1, 1]),
        "What is 1?": ("d1", [2, 1], [1, 1]),
        "What is 2?": ("d2", [None, 5], [0, 1]),
    }


def test_the_experiment_says_which_model_it_was_and_how_good(settings, library):
    made = record(settings, DATASET, "v1", asked(1, 0.5), {"corpus": "notes"}, {"bits": 2.5})
    shown = library.ask("GET", f"experiments/{made}")
    assert (shown["name"], shown["dataset_name"]) == ("v1", DATASET)
    assert (shown["metadata"], shown["status"]) == ({"corpus": "notes"}, "completed")
    averages = {score["name"]: score["value"] for score in shown["feedback_scores"]}
    assert averages == {"reciprocal_rank": 0.75, "hit@1": 0.5, "hit@5": 1}
    assert [(s["name"], s["value"]) for s in shown["experiment_scores"]] == [("bits", 2.5)]


def test_a_question_is_one_item_however_often_it_was_asked(settings, library):
    record(settings, DATASET, "v1", asked(1, 0.5), {}, {})
    record(settings, DATASET, "v2", asked(1, 0.5), {}, {})
    assert dataset(library)["dataset_items_count"] == 2
    record(settings, DATASET, "v3", asked(*[1] * 1001), {}, {})
    assert dataset(library)["dataset_items_count"] == 1001
    record(settings, DATASET, "v4", asked(*[0.5] * 1001), {}, {})
    assert dataset(library)["dataset_items_count"] == 1001
    assert library.ask("GET", "experiments")["total"] == 4


def test_a_question_with_an_address_in_it_is_redacted_and_still_one_item(settings, library):
    mail = "ada" + "@example.com"
    item = Item("4111" * 4, f"Who is {mail}?", "d", {"answer": mail}, {"grade": 1})
    for version in ("v1", "v2"):
        record(settings, DATASET, version, [item], {}, {})
    found = dataset(library)
    assert found["dataset_items_count"] == 1
    (row,) = library.ask("GET", f"datasets/{found['id']}/items")["content"]
    assert row["data"]["question"] == "Who is [EMAIL]?"


def test_an_evaluation_that_is_refused_leaves_nothing_behind(settings, library):
    broken = Item("q", "What?", "d", {}, {"grade": "excellent"})
    with pytest.raises(RemoteError, match="Opik answered 400"):
        record(settings, DATASET, "v1", [*asked(1), broken], {}, {})
    assert dataset(library) is None
    assert library.ask("GET", "experiments")["total"] == 0
    assert library.ask("GET", "projects")["total"] == 0


def test_nothing_is_kept_when_tracing_is_off_or_opik_is_not_installed(tmp_path, monkeypatch):
    home = tmp_path / "home"
    assert record(Settings(home=home, trace=False), DATASET, "v1", asked(1), {}, {}) == ""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert record(Settings(home=home), DATASET, "v1", asked(1), {}, {}) == ""
    assert not home.exists()
