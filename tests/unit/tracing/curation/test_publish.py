"""Curated rows as a version of an Opik dataset and of the folder for training."""

import dataclasses
import json

import pytest
from seeded_traces import PROJECT, put

from llm_twin.errors import ConfigError, SpaceError
from llm_twin.model import feedback
from llm_twin.model.feedback import Correction
from llm_twin.settings import Settings
from llm_twin.tracing.curation import Curated, publish
from llm_twin.tracing.store.dataset_items import read_items
from llm_twin.tracing.store.datasets import find_dataset
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.store import Store


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path)


@pytest.fixture
def store(settings):
    opened = Store(settings.home, settings)
    yield opened
    opened.close()


def made(*rows, opened=()):
    return Curated(list(rows), list(opened), {"x": "duplicate"})


def row(question, **changes):
    base = Correction(
        new_id(), question, f"{question} Yes, it does.", "No.", ("a.md",), "corrected"
    )
    return dataclasses.replace(base, **changes)


def items(store, version=None, name="feedback"):
    with store.database.read() as db:
        dataset = find_dataset(db, {"dataset_name": name, "project_name": PROJECT})
        return {
            one["data"]["input"]["question"]: one for one in read_items(db, dataset["id"], version)
        }


def test_the_dataset_holds_what_was_asked_wanted_and_said(store, settings):
    first, asked = row("One?"), row("Two?", wanted="", answer="", cites=(), why="feedback 0")
    done = publish(store, settings, "feedback", made(first, opened=[asked]))
    assert (done.version, done.changed) == ("v1", True)
    found = items(store)
    assert found["One?"]["trace_id"] == first.trace_id
    assert found["One?"]["data"] == {
        "input": {"question": "One?"},
        "expected_output": "One? Yes, it does.",
        "rejected_output": "No.",
        "cites": ["a.md"],
        "why": "corrected",
    }
    assert found["Two?"]["data"] == {"input": {"question": "Two?"}, "why": "feedback 0"}
    assert feedback.read(feedback.current(settings.home)) == [first]
    manifest = json.loads((feedback.current(settings.home) / "manifest.json").read_text())
    assert manifest["rejected"] == {"duplicate": 1}
    assert (manifest["dataset"], manifest["version"]) == ("feedback", "v1")


def test_the_same_again_makes_no_version(store, settings):
    rows = [row("One?"), row("Two?")]
    first = publish(store, settings, "feedback", made(*rows))
    written = feedback.files(settings.home)[0].stat().st_mtime_ns
    again = publish(store, settings, "feedback", made(*reversed(rows)))
    assert again == first._replace(changed=False)
    assert feedback.files(settings.home)[0].stat().st_mtime_ns == written


def test_what_came_changed_and_went_is_one_version_and_the_older_stays(store, settings):
    stays, changes, goes = row("One?"), row("Two?"), row("Three?")
    publish(store, settings, "feedback", made(stays, changes, goes))
    changed = dataclasses.replace(changes, wanted="Now it is another answer.")
    done = publish(store, settings, "feedback", made(stays, changed, row("Four?")))
    assert (done.version, done.changed) == ("v2", True)
    now = items(store)
    assert set(now) == {"One?", "Two?", "Four?"}
    assert now["Two?"]["data"]["expected_output"] == "Now it is another answer."
    assert set(items(store, "v1")) == {"One?", "Two?", "Three?"}


def test_a_new_open_question_changes_the_dataset_and_not_what_is_trained_on(store, settings):
    one = row("One?")
    first = publish(store, settings, "feedback", made(one))
    done = publish(store, settings, "feedback", made(one, opened=[row("Two?", wanted="")]))
    assert done == (first.digest, "v2", False)


def test_what_others_put_into_the_dataset_stays(store, settings):
    asked = row("Two?", wanted="", answer="", cites=(), why="feedback 0")
    publish(store, settings, "feedback", made(row("One?"), opened=[asked]))
    own = {"id": new_id(), "source": "manual", "data": {"input": {"question": "Mine?"}}}
    answered = items(store)["Two?"]
    answered["data"]["expected_output"] = "As a person wrote."
    body = {"dataset_name": "feedback", "project_name": PROJECT, "items": [own, answered]}
    put(store, "PUT", "datasets/items", body)
    publish(store, settings, "feedback", made(row("Three?"), opened=[asked]))
    found = items(store)
    assert set(found) == {"Mine?", "Two?", "Three?"}
    assert found["Two?"]["data"]["expected_output"] == "As a person wrote."


def test_nothing_makes_no_dataset_and_takes_the_current_version_away(store, settings):
    assert publish(store, settings, "feedback", made()) == ("", "", False)
    publish(store, settings, "feedback", made(row("One?")))
    assert publish(store, settings, "feedback", made()) == ("", "v2", True)
    assert items(store) == {}
    assert feedback.current(settings.home) is None


def test_two_datasets_share_no_items(store, settings):
    one = row("One?")
    publish(store, settings, "feedback", made(one))
    publish(store, settings, "other", made(one))
    assert items(store)["One?"]["id"] != items(store, name="other")["One?"]["id"]


def test_a_dataset_without_a_name_and_a_folder_that_cannot_be_made_are_told(store, settings):
    with pytest.raises(ConfigError, match="needs a name"):
        publish(store, settings, " ", made(row("One?")))
    (settings.home / "feedback").write_text("in the way")
    with pytest.raises(SpaceError, match="feedback cannot be written"):
        publish(store, settings, "feedback", made(row("One?")))
