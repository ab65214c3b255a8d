"""Datasets and their items: found by name, written in versions, filtered, changed, deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from store_calls import Caller, Row, condition, parsed

from llm_twin.tracing.store.merge import new_id


@pytest.fixture
def store(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def dataset(store: Caller, name: str = "questions", **fields: object) -> str:
    store.do("POST", "datasets", {"name": name, **fields})
    return str(store.do("POST", "datasets/retrieve", {"dataset_name": name})["id"])


def put(store: Caller, *data: Row, name: str = "questions", **fields: object) -> list[str]:
    items = [{"id": new_id(), "source": "sdk", "data": one} for one in data]
    body = {"dataset_name": name, "batch_group_id": new_id(), "items": items, **fields}
    store.do("PUT", "datasets/items", body)
    return [str(item["id"]) for item in items]


def data_of(store: Caller, dataset_id: str, *filters: Row, **query: object) -> list[Row]:
    found = store.get(f"datasets/{dataset_id}/items", filters=json.dumps(filters), **query)
    assert found["total"] >= len(found["content"])
    return [item["data"] for item in reversed(found["content"])]


def stream(store: Caller, **body: object) -> list[Row]:
    answer = store.ask("POST", "datasets/items/stream", {"dataset_name": "questions", **body})
    assert answer.status == 200, answer.body
    return [json.loads(line) for line in answer.body]


def test_a_dataset_is_found_by_its_name_and_by_its_id(store: Caller) -> None:
    made = dataset(store, description="what users ask", project_name="twin", tags=["a"])
    found = store.get(f"datasets/{made}")
    assert found["name"] == "questions"
    assert (found["description"], found["tags"]) == ("what users ask", ["a"])
    assert store.get(f"projects/{found['project_id']}")["name"] == "twin"
    assert (found["dataset_items_count"], found["latest_version"]) == (0, None)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"dataset_name": "none"}, "404 Dataset not found: none"),
        ({"dataset_id": "x"}, "404 Dataset not found: x"),
        ({"dataset_name": ["x"]}, "400 dataset_name is no text"),
    ],
)
def test_what_is_not_there_is_said(store: Caller, body: Row, said: str) -> None:
    assert store.refusal("POST", "datasets/retrieve", body) == said


def test_a_name_is_taken_once_in_a_project(store: Caller) -> None:
    dataset(store, project_name="a")
    said = store.refusal("POST", "datasets", {"name": "questions", "project_name": "a"})
    assert said == "409 A dataset of this name or id already exists"
    assert store.refusal("POST", "datasets", {}) == "400 A dataset needs a name"
    store.do("POST", "datasets", {"name": "questions", "project_name": "b"})
    found = store.get("datasets", name="quest")
    assert found["total"] == 2


def test_the_project_chooses_between_datasets_of_one_name(store: Caller) -> None:
    dataset(store, project_name="a")
    store.do("POST", "datasets", {"name": "questions", "project_name": "b"})
    projects = {}
    for name in ("a", "b", "elsewhere"):
        asked = {"dataset_name": "questions", "project_name": name}
        found = store.do("POST", "datasets/retrieve", asked)
        projects[name] = store.get(f"projects/{found['project_id']}")["name"]
    assert projects == {"a": "a", "b": "b", "elsewhere": "a"}


def test_datasets_are_listed_by_page_filter_and_order(store: Caller) -> None:
    for name in ("b", "a", "c"):
        dataset(store, name, tags=[name])
    put(store, {"q": 1}, name="a")
    store.do("POST", "experiments", {"dataset_name": "a", "name": "run"})
    by_name = json.dumps([{"field": "name", "direction": "ASC"}])

    def names(**query: object) -> list[str]:
        return [row["name"] for row in store.get("datasets", **query)["content"]]

    assert names() == ["c", "a", "b"]
    assert names(sorting=by_name) == ["a", "b", "c"]
    assert names(page=2, size=2) == ["b"]
    assert names(filters=json.dumps([condition("tags", "contains", "b")])) == ["b"]
    assert names(filters=json.dumps([condition("dataset_items_count", ">", "0")])) == ["a"]
    assert names(with_experiments_only="true") == ["a"]


def test_a_dataset_is_renamed_and_described(store: Caller) -> None:
    made = dataset(store, description="old", tags=["kept"])
    store.do("PUT", f"datasets/{made}", {"name": "renamed", "description": "new"})
    found = store.get(f"datasets/{made}")
    assert (found["name"], found["description"], found["tags"]) == ("renamed", "new", ["kept"])
    assert store.refusal("PUT", "datasets/x", {"name": "y"}) == "404 Dataset not found: x"
    dataset(store, "other")
    said = store.refusal("PUT", f"datasets/{made}", {"name": "other"})
    assert said == "409 A dataset of this name or id already exists"


def test_deleting_takes_items_and_versions_and_leaves_experiments(store: Caller) -> None:
    first, second, third = (dataset(store, name) for name in "abc")
    put(store, {"q": 1}, name="a")
    run = new_id()
    store.do("POST", "experiments", {"id": run, "dataset_name": "a", "name": "run"})
    store.do("DELETE", f"datasets/{first}")
    store.do("POST", "datasets/delete-batch", {"ids": [second]})
    store.do("POST", "datasets/delete", {"dataset_name": "c"})
    assert store.get("datasets")["content"] == []
    assert store.get(f"experiments/{run}")["dataset_name"] == "a"
    assert store.get(f"datasets/{third}/versions")["content"] == []
    store.do("POST", "datasets", {"name": "a"})
    assert stream(store, dataset_name="a") == []


def test_items_make_the_dataset_they_name(store: Caller) -> None:
    put(store, {"question": "why?"}, project_name="twin")
    [item] = stream(store)
    assert (item["data"], item["source"]) == ({"question": "why?"}, "sdk")
    assert store.refusal("PUT", "datasets/items", {"items": []}) == "404 Dataset not found: None"


def test_an_item_with_a_known_id_is_replaced_and_keeps_its_birthday(store: Caller) -> None:
    made = dataset(store)
    [item_id] = put(store, {"q": "old"})
    born = store.get(f"datasets/items/{item_id}")["created_at"]
    store.do(
        "PUT",
        "datasets/items",
        {
            "dataset_id": made,
            "batch_group_id": new_id(),
            "items": [{"id": item_id, "data": {"q": "new"}, "description": "d"}],
        },
    )
    found = store.get(f"datasets/items/{item_id}")
    assert (found["data"], found["description"]) == ({"q": "new"}, "d")
    assert found["created_at"] == born < found["last_updated_at"]
    assert data_of(store, made) == [{"q": "new"}]


def test_an_item_that_is_none_is_refused(store: Caller) -> None:
    def refused(item: object) -> str:
        return store.refusal("PUT", "datasets/items", {"dataset_name": "d", "items": [item]})

    assert refused({"data": [1]}) == "400 data is no object"
    assert refused("x") == "400 items is no list of objects"
    assert refused({"id": "x", "data": {}}) == "400 id is no UUID: x"
    assert store.get("datasets")["content"] == []


def test_items_stream_from_the_newest_id_in_parts(store: Caller) -> None:
    dataset(store)
    ids = sorted(put(store, *({"n": n} for n in range(5))), reverse=True)
    first = stream(store, steam_limit=2)
    rest = stream(store, steam_limit=9, last_retrieved_id=first[-1]["id"])
    assert [item["id"] for item in first + rest] == ids
    body = {"dataset_name": "questions", "steam_limit": -1}
    said = store.refusal("POST", "datasets/items/stream", body)
    assert said == "400 steam_limit is a whole number from 1"


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([condition("data", "=", "math", "topic")], [2]),
        ([condition("data", "!=", "math", "topic")], [1, 3]),
        ([condition("data", "contains", "GEO", "topic")], [1]),
        ([condition("data", ">", "1", "n")], [2, 3]),
        ([condition("data", "is_empty", "", "topic")], [3]),
        ([condition("full_data", "contains", "geo")], [1]),
        ([condition("data", "=", "deep", "a.b")], [3]),
        ([condition("data", ">=", "1", "n"), condition("data", "in", "math,geo", "topic")], [1, 2]),
    ],
)
def test_items_are_filtered_by_what_they_hold(
    store: Caller, filters: list[Row], expected: list[int]
) -> None:
    made = dataset(store)
    put(store, {"n": 1, "topic": "geo"}, {"n": 2, "topic": "math"}, {"n": 3, "a": {"b": "deep"}})
    assert [data["n"] for data in data_of(store, made, *filters)] == expected
    streamed = stream(store, filters=json.dumps(filters))
    assert sorted(item["data"]["n"] for item in streamed) == expected


def test_items_come_in_pages_with_their_total(store: Caller) -> None:
    made = dataset(store)
    put(store, *({"n": n} for n in range(5)))
    page = store.get(f"datasets/{made}/items", page=2, size=2)
    assert (page["total"], [item["data"]["n"] for item in page["content"]]) == (5, [2, 1])
    assert data_of(store, made, condition("data", "<", "4", "n"), page=2, size=3) == [{"n": 0}]
    assert store.refusal("GET", "datasets/x/items") == "404 Dataset not found: x"
    said = store.refusal("GET", f"datasets/{made}/items", filters='[{"operator":"like"}]')
    assert said == "400 no such filter operator: like"


def test_one_item_or_several_are_changed(store: Caller) -> None:
    made = dataset(store)
    one, two = put(store, {"n": 1}, {"n": 2})
    store.do("PATCH", f"datasets/items/{one}", {"description": "first", "tags": ["a"]})
    store.do(
        "PATCH",
        "datasets/items/batch",
        {"ids": [one, two], "update": {"tags": ["b"]}, "merge_tags": True},
    )
    assert [store.get(f"datasets/items/{each}").get("tags") for each in (one, two)] == [
        ["a", "b"],
        ["b"],
    ]
    chosen = {"dataset_id": made, "filters": [condition("data", "=", "2", "n")]}
    policy = {"execution_policy": {"runs_per_item": 3, "pass_threshold": 2}}
    store.do("PATCH", "datasets/items/batch", {**chosen, "update": policy})
    assert store.get(f"datasets/items/{two}")["execution_policy"] == policy["execution_policy"]
    store.do("PATCH", f"datasets/items/{two}", {"clear_execution_policy": True})
    found = store.get(f"datasets/items/{two}")
    assert "execution_policy" not in found
    assert found["data"] == {"n": 2}
    said = store.refusal("PATCH", f"datasets/items/{new_id()}", {"description": "x"})
    assert said.startswith("404 Dataset item not found")


def test_items_are_deleted_by_id_by_filter_or_all(store: Caller) -> None:
    made = dataset(store)
    ids = put(store, *({"n": n} for n in range(5)))
    store.do("POST", "datasets/items/delete", {"item_ids": ids[:1], "batch_group_id": new_id()})
    chosen = {"dataset_id": made, "filters": [condition("data", ">", "3", "n")]}
    store.do("POST", "datasets/items/delete", chosen)
    assert data_of(store, made) == [{"n": 1}, {"n": 2}, {"n": 3}]
    store.do("POST", "datasets/items/delete", {"dataset_id": made, "item_ids": []})
    assert len(data_of(store, made)) == 3
    said = store.refusal("POST", "datasets/items/delete", {"dataset_id": made})
    assert said == "400 Name item_ids, or a dataset_id and filters"
    store.do("POST", "datasets/items/delete", {"dataset_id": made, "filters": []})
    assert data_of(store, made) == []


def test_an_id_that_two_datasets_share_needs_the_dataset_too(store: Caller) -> None:
    [shared] = put(store, {"n": 1})
    item = {"id": shared, "data": {"n": 2}}
    store.do("PUT", "datasets/items", {"dataset_name": "copy", "items": [item]})
    said = store.refusal("POST", "datasets/items/delete", {"item_ids": [shared]})
    assert said == "400 These items are in more than one dataset; name the dataset_id"
    copy = store.do("POST", "datasets/retrieve", {"dataset_name": "copy"})["id"]
    store.do("POST", "datasets/items/delete", {"item_ids": [shared], "dataset_id": copy})
    assert stream(store, dataset_name="copy") == []
    assert [one["data"] for one in stream(store)] == [{"n": 1}]


def test_nothing_private_reaches_the_file(store: Caller) -> None:
    put(store, {"question": "mail jane.roe@example.org", "deep": [{"to": "jane.roe@example.org"}]})
    [item] = stream(store)
    assert "example.org" not in json.dumps(item)
    folder = store.store.database.path.parent
    assert not any(b"jane.roe" in path.read_bytes() for path in folder.glob("traces.db*"))


def test_a_failed_batch_leaves_nothing_behind(store: Caller) -> None:
    good, bad = {"id": new_id(), "data": {"n": 1}}, {"id": "no", "data": {"n": 2}}
    answer = store.ask("PUT", "datasets/items", {"dataset_name": "d", "items": [good, bad]})
    assert (answer.status, parsed(answer)["message"]) == (400, "id is no UUID: no")
    assert store.refusal("POST", "datasets/retrieve", {"dataset_name": "d"}).startswith("404")
