"""Versions of a dataset: one a group of changes, readable for ever, tagged, compared, restored."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from store_calls import Caller, Row

from llm_twin.tracing.store.merge import new_id


class Dataset:
    """One dataset of a store."""

    def __init__(self, home: Path) -> None:
        self.store = Caller(home)
        self.store.do("POST", "datasets", {"name": "d"})
        self.id = self.store.do("POST", "datasets/retrieve", {"dataset_name": "d"})["id"]
        self.place = f"datasets/{self.id}/versions"

    def put(self, *data: Row, group: str | None = "", ids: list[str] | None = None) -> list[str]:
        """Write items in a version of their own, or in that of a group."""
        ids = ids or [new_id() for _ in data]
        items = [{"id": one, "data": each} for one, each in zip(ids, data, strict=True)]
        group = new_id() if group == "" else group
        body = {"dataset_name": "d", "batch_group_id": group, "items": items}
        self.store.do("PUT", "datasets/items", body)
        return ids

    def delete(self, *ids: str, group: str | None = "") -> None:
        group = new_id() if group == "" else group
        self.store.do(
            "POST", "datasets/items/delete", {"item_ids": list(ids), "batch_group_id": group}
        )

    def data(self, version: str | None = None) -> list[Row]:
        found = self.store.get(f"datasets/{self.id}/items", version=version, size=100)["content"]
        return [item["data"] for item in reversed(found)]

    def versions(self) -> list[Row]:
        return list(self.store.get(self.place)["content"])

    def version(self, name: str) -> Row:
        found: Row = self.store.do("POST", f"{self.place}/retrieve", {"version_name": name})
        return found

    def counts(self) -> list[tuple[int, int, int, int]]:
        keys = ("items_total", "items_added", "items_modified", "items_deleted")
        return [tuple(one[key] for key in keys) for one in reversed(self.versions())]  # type: ignore[misc]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


def test_before_the_first_change_there_is_no_version(dataset: Dataset) -> None:
    assert dataset.versions() == []
    refused = dataset.store.refusal("POST", f"{dataset.place}/retrieve", {"version_name": "v1"})
    assert refused == "404 Dataset version not found: v1"
    assert dataset.data("latest") == []


def test_every_group_of_changes_makes_the_next_version(dataset: Dataset) -> None:
    one, two = dataset.put({"n": 1}, {"n": 2})
    dataset.put({"n": 3})
    dataset.put({"n": 20}, ids=[two])
    dataset.delete(one)
    names = [version["version_name"] for version in dataset.versions()]
    assert names == ["v4", "v3", "v2", "v1"]
    assert dataset.counts() == [(2, 2, 0, 0), (3, 1, 0, 0), (3, 0, 1, 0), (2, 0, 0, 1)]
    assert dataset.data("v1") == [{"n": 1}, {"n": 2}]
    assert dataset.data("v2") == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert dataset.data("v3") == [{"n": 1}, {"n": 20}, {"n": 3}]
    assert dataset.data("v4") == dataset.data("latest") == dataset.data() == [{"n": 20}, {"n": 3}]


def test_batches_of_one_group_share_a_version_even_sent_at_once(dataset: Dataset) -> None:
    group = new_id()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: dataset.put({"n": n}, group=group), range(16)))
    assert dataset.counts() == [(16, 16, 0, 0)]


def test_a_retried_batch_changes_nothing(dataset: Dataset) -> None:
    group = new_id()
    ids = dataset.put({"n": 1}, group=group)
    dataset.put({"n": 1}, group=group, ids=ids)
    assert (dataset.counts(), dataset.data()) == ([(1, 1, 0, 0)], [{"n": 1}])


def test_a_change_without_a_group_goes_into_the_latest_version(dataset: Dataset) -> None:
    one, two = dataset.put({"n": 1}, {"n": 2})
    dataset.put({"n": 3}, group=None)
    dataset.delete(two, group=None)
    assert (dataset.counts(), dataset.data("v1")) == ([(2, 2, 0, 0)], [{"n": 1}, {"n": 3}])
    dataset.delete(one)
    assert dataset.data("v1") == [{"n": 1}, {"n": 3}]


def test_the_latest_version_is_marked_and_told_by_the_dataset(dataset: Dataset) -> None:
    dataset.put({"n": 1})
    dataset.put({"n": 2})
    newest, oldest = dataset.versions()
    assert (newest["is_latest"], newest["tags"]) == (True, ["latest"])
    assert (oldest["is_latest"], oldest["tags"]) == (False, [])
    told = dataset.store.get(f"datasets/{dataset.id}")["latest_version"]
    assert (told["id"], told["version_name"]) == (newest["id"], "v2")
    assert told["version_hash"] == newest["version_hash"]


def test_versions_come_in_pages(dataset: Dataset) -> None:
    for n in range(3):
        dataset.put({"n": n})
    page = dataset.store.get(dataset.place, page=2, size=2)
    assert (page["total"], [one["version_name"] for one in page["content"]]) == (3, ["v1"])


def test_a_version_is_found_by_name_hash_tag_and_id(dataset: Dataset) -> None:
    dataset.put({"n": 1})
    dataset.put({"n": 2})
    first = dataset.version("v1")
    place = f"{dataset.place}/hash/{first['version_hash']}"
    dataset.store.do("POST", f"{place}/tags", {"tag": "baseline"})
    assert dataset.store.get(place)["tags"] == ["baseline"]
    for reference in ("v1", first["version_hash"], first["id"], "baseline"):
        assert dataset.data(reference) == [{"n": 1}]
    assert (
        dataset.store.refusal("GET", f"datasets/{dataset.id}/items", version="none")
        == "404 Dataset version not found: none"
    )


def test_a_tag_belongs_to_one_version(dataset: Dataset) -> None:
    dataset.put({"n": 1})
    dataset.put({"n": 2})
    first, second = (f"{dataset.place}/hash/{name}" for name in ("v1", "v2"))
    dataset.store.do("POST", f"{first}/tags", {"tag": "good"})
    taken = dataset.store.refusal("POST", f"{second}/tags", {"tag": "good"})
    assert taken == "409 Tag already in use: good of v1"
    for tag in ("", "latest"):
        said = dataset.store.refusal("POST", f"{second}/tags", {"tag": tag})
        assert said.startswith("400 Not a tag for a version")
    dataset.store.do("DELETE", f"{dataset.place}/v1/tags/good")
    changed = dataset.store.do(
        "PATCH", second, {"tags_to_add": ["good"], "change_description": "more questions"}
    )
    assert (changed["tags"], changed["change_description"]) == (
        ["good", "latest"],
        "more questions",
    )
    assert dataset.version("v1")["tags"] == []


def test_two_versions_are_compared(dataset: Dataset) -> None:
    one, two, _ = dataset.put({"n": 1}, {"n": 2}, {"n": 3})
    dataset.put({"n": 20}, {"n": 4}, ids=[two, new_id()])
    dataset.delete(one)

    def diff(**query: object) -> Row:
        found: Row = dataset.store.get(f"{dataset.place}/diff", **query)
        return found

    whole = diff(fromHashOrTag="v1", toHashOrTag="v3")
    assert whole["statistics"] == {
        "itemsAdded": 1, "itemsModified": 1, "itemsDeleted": 1, "itemsUnchanged": 1,
    }  # fmt: skip
    assert whole["from_version"] == dataset.version("v1")["version_hash"]
    assert diff()["statistics"] == {
        "itemsAdded": 0, "itemsModified": 0, "itemsDeleted": 1, "itemsUnchanged": 3,
    }  # fmt: skip


def test_restoring_makes_a_new_version_of_the_old_items(dataset: Dataset) -> None:
    one, two = dataset.put({"n": 1}, {"n": 2})
    dataset.put({"n": 20}, {"n": 3}, ids=[two, new_id()])
    dataset.delete(one)
    restored = dataset.store.do("POST", f"{dataset.place}/restore", {"version_ref": "v1"})
    assert (restored["version_name"], restored["change_description"]) == (
        "v4",
        "Restored from v1",
    )
    assert dataset.data() == dataset.data("v1") == [{"n": 1}, {"n": 2}]
    assert dataset.data("v3") == [{"n": 20}, {"n": 3}]
    again = dataset.store.do("POST", f"{dataset.place}/restore", {"version_ref": "v4"})
    assert (again["version_name"], len(dataset.versions())) == ("v4", 4)


def test_additions_edits_and_deletions_make_one_version(dataset: Dataset) -> None:
    one, two = dataset.put({"n": 1}, {"n": 2})
    base = dataset.version("v1")["id"]
    body = {
        "base_version": base,
        "added_items": [{"data": {"n": 3}, "source": "manual"}],
        "edited_items": [{"id": two, "data": {"n": 20}}],
        "deleted_ids": [one],
        "tags": ["reviewed"],
        "change_description": "a review",
        "evaluators": [{"name": "e", "type": "llm_judge", "config": {"version": "1"}}],
        "execution_policy": {"runs_per_item": 2, "pass_threshold": 1},
    }
    place = f"datasets/{dataset.id}/items/changes"
    made = dataset.store.do("POST", place, body)
    assert (made["version_name"], made["tags"]) == ("v2", ["reviewed", "latest"])
    assert dataset.counts()[1] == (2, 1, 1, 1)
    assert dataset.data() == [{"n": 20}, {"n": 3}]
    stale = dataset.store.refusal("POST", place, body)
    assert stale == "409 base_version is not the latest version of the dataset"
    forced = dataset.store.ask("POST", place, {"added_items": []}, override="true")
    assert forced.status == 201
    carried = dataset.version("v3")
    assert carried["evaluators"] == body["evaluators"]
    assert carried["execution_policy"] == body["execution_policy"]
    cleared = {"base_version": carried["id"], "clear_execution_policy": True, "evaluators": []}
    dataset.store.do("POST", place, cleared)
    latest = dataset.version("v4")
    assert (latest["execution_policy"], latest["evaluators"]) == ({}, [])


def test_versions_survive_the_process(dataset: Dataset, tmp_path: Path) -> None:
    dataset.put({"n": 1})
    dataset.put({"n": 2})
    dataset.store.store.close()
    again = Caller(tmp_path)
    found = again.get(f"datasets/{dataset.id}/items", version="v1")["content"]
    assert [json.loads(json.dumps(item["data"])) for item in found] == [{"n": 1}]
