"""Experiments: over a version of a dataset, summed over their traces, compared item by item."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from store_calls import Caller, Row, condition

from llm_twin.tracing.store.merge import new_id

START, END = "2026-11-23T10:00:00Z", "2026-11-23T10:00:02Z"


class Bench:
    """A dataset of three questions and the experiments over it."""

    def __init__(self, home: Path) -> None:
        self.store = Caller(home)
        self.ids = sorted(new_id() for _ in range(3))
        items = [{"id": one, "data": {"n": n}} for n, one in enumerate(self.ids)]
        body = {"dataset_name": "d", "project_name": "twin", "batch_group_id": new_id()}
        self.store.do("PUT", "datasets/items", {**body, "items": items})
        found = self.store.do("POST", "datasets/retrieve", {"dataset_name": "d"})
        self.dataset = found["id"]

    def experiment(self, name: str | None = "run", **fields: object) -> str:
        """Begin an experiment."""
        run = new_id()
        body = {"id": run, "name": name, "dataset_name": "d", "project_name": "twin", **fields}
        self.store.do("POST", "experiments", body)
        return run

    def answer(self, run: str, n: int, value: float | None = None, **trace: object) -> str:
        """Answer a question in a trace, link it and score it."""
        trace_id = new_id()
        self.store.traces({"id": trace_id, "project_name": "twin", "name": "t",
                           "start_time": START, "end_time": END, **trace})  # fmt: skip
        self.link(run, n, trace_id)
        if value is not None:
            score = {"id": trace_id, "name": "right", "value": value, "source": "sdk"}
            self.store.do("PUT", "traces/feedback-scores", {"scores": [score]})
        return trace_id

    def link(self, run: str, n: int, trace_id: str, **fields: object) -> str:
        item = {"id": new_id(), "experiment_id": run, "dataset_item_id": self.ids[n],
                "trace_id": trace_id, **fields}  # fmt: skip
        self.store.do("POST", "experiments/items", {"experiment_items": [item]})
        return str(item["id"])

    def get(self, run: str) -> Row:
        found: Row = self.store.get(f"experiments/{run}")
        return found

    def compare(self, *runs: str, **query: object) -> Row:
        found: Row = self.store.get(
            f"datasets/{self.dataset}/items/experiments/items",
            experiment_ids=json.dumps(runs),
            **query,
        )
        return found

    def names(self, **query: object) -> list[str]:
        return [row["name"] for row in self.store.get("experiments", **query)["content"]]

    def stream(self, path: str = "experiments/stream", **body: object) -> list[Row]:
        answer = self.store.ask("POST", path, body)
        assert answer.status == 200, answer.body
        return [json.loads(line) for line in answer.body]

    def prompt(self, name: str) -> Row:
        body = {"name": name, "version": {"template": f"{name}: {{{{q}}}}"}}
        made: Row = self.store.do("POST", "prompts/versions", body)
        return made


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_experiment_is_over_the_latest_version_of_its_dataset(bench: Bench) -> None:
    run = bench.experiment(metadata={"model": "m1"}, tags=["a"])
    found = bench.get(run)
    version = bench.store.get(f"datasets/{bench.dataset}/versions")["content"][0]
    assert (found["dataset_id"], found["dataset_name"]) == (bench.dataset, "d")
    assert found["dataset_version_id"] == version["id"]
    assert found["dataset_version_summary"]["version_name"] == "v1"
    assert (found["metadata"], found["tags"], found["project_name"]) == (
        {"model": "m1"},
        ["a"],
        "twin",
    )
    assert (found["type"], found["status"], found["trace_count"]) == ("regular", "running", 0)
    assert found["feedback_scores"] is None


def test_an_experiment_without_a_name_gets_one_and_its_dataset_is_made(bench: Bench) -> None:
    run = bench.experiment(None, dataset_name="fresh")
    assert bench.get(run)["name"] == f"experiment-{run[-8:]}"
    assert bench.store.get("datasets", name="fresh")["total"] == 1
    bench.store.do("POST", "experiments", {"id": run, "name": "again", "dataset_name": "d"})
    assert bench.get(run)["dataset_name"] == "fresh"


def test_figures_are_summed_over_the_traces(bench: Bench) -> None:
    run = bench.experiment()
    for n, value in enumerate((1.0, 0.0, 0.5)):
        trace = bench.answer(run, n, value)
        bench.store.spans({"id": new_id(), "trace_id": trace, "project_name": "twin",
                           "type": "llm", "start_time": START, "end_time": END,
                           "usage": {"total_tokens": 10},
                           "total_estimated_cost": 0.25})  # fmt: skip
    found = bench.get(run)
    assert (found["trace_count"], found["dataset_item_count"]) == (3, 3)
    assert found["feedback_scores"] == [{"name": "right", "value": 0.5}]
    assert (found["total_estimated_cost"], found["usage"]) == (0.75, {"total_tokens": 10.0})
    assert found["duration"]["p50"] == 2000
    listed = bench.store.get(f"datasets/{bench.dataset}")
    assert listed["experiment_count"] == 1


def test_links_may_come_before_their_traces(bench: Bench) -> None:
    run, trace = bench.experiment(), new_id()
    bench.link(run, 0, trace)
    assert bench.get(run)["trace_count"] == 1
    [row] = bench.compare(run)["content"]
    assert row["experiment_items"][0]["trace_id"] == trace
    assert "output" not in row["experiment_items"][0]


def test_two_experiments_are_compared_item_by_item(bench: Bench) -> None:
    old, new = bench.experiment("old"), bench.experiment("new")
    for n in range(3):
        bench.answer(old, n, 0.0, output={"text": f"old {n}"})
        bench.answer(new, n, 1.0, output={"text": f"new {n}"}, input={"q": n})
    page = bench.compare(old, new, size=2)
    assert (page["total"], [row["data"]["n"] for row in page["content"]]) == (3, [2, 1])
    sides = {
        one["experiment_id"]: (one["output"]["text"], one["feedback_scores"][0]["value"])
        for one in page["content"][0]["experiment_items"]
    }
    assert sides == {old: ("old 2", 0.0), new: ("new 2", 1.0)}
    assert [row["data"]["n"] for row in bench.compare(old, new, page=2, size=2)["content"]] == [0]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([condition("feedback_scores", "=", "0", "right")], [(0, 1)]),
        ([condition("feedback_scores", ">", "0.4", "right")], [(2, 1), (1, 1)]),
        ([condition("output", "contains", "paris", "text")], [(1, 1)]),
        ([condition("data", "=", "2", "n")], [(2, 1)]),
        ([condition("duration", ">", "3000")], []),
    ],
)
def test_compared_items_are_filtered(
    bench: Bench, filters: list[Row], expected: list[tuple[int, int]]
) -> None:
    run = bench.experiment()
    for n, (value, text) in enumerate(((0.0, "London"), (0.5, "Paris"), (1.0, "Rome"))):
        bench.answer(run, n, value, output={"text": text})
    page = bench.compare(run, filters=json.dumps(filters))
    assert [(r["data"]["n"], len(r["experiment_items"])) for r in page["content"]] == expected
    assert page["total"] == len(expected)


def test_compared_items_are_searched_sorted_and_cut(bench: Bench) -> None:
    run = bench.experiment()
    for n, text in enumerate(("b" * 20_000, "Paris", "Rome")):
        bench.answer(run, n, output={"text": text})
    found = bench.compare(run, search="paris")["content"]
    assert [row["data"]["n"] for row in found] == [1]
    by_n = json.dumps([{"field": "data.n", "direction": "ASC"}])
    page = bench.compare(run, sorting=by_n, truncate="true")["content"]
    assert [row["data"]["n"] for row in page] == [0, 1, 2]
    assert len(page[0]["experiment_items"][0]["output"]["text"]) == 10_000
    said = bench.store.refusal(
        "GET", f"datasets/{bench.dataset}/items/experiments/items", experiment_ids="{}"
    )
    assert said == "400 experiment_ids is no JSON list"


def test_compared_items_are_those_of_the_experiments_version(bench: Bench) -> None:
    run = bench.experiment()
    bench.answer(run, 0)
    item = {"id": bench.ids[0], "data": {"n": "changed"}}
    body = {"dataset_name": "d", "batch_group_id": new_id(), "items": [item]}
    bench.store.do("PUT", "datasets/items", body)
    assert bench.compare(run)["content"][0]["data"] == {"n": 0}
    bench.store.do("POST", "datasets/items/delete", {"item_ids": [bench.ids[0]]})
    assert bench.compare(run)["content"][0]["data"] == {"n": 0}


def test_figures_over_compared_items(bench: Bench) -> None:
    run = bench.experiment()
    bench.answer(run, 0, 1.0)
    bench.answer(run, 1, 0.0)
    path = f"datasets/{bench.dataset}/items/experiments/items/stats"
    assert bench.store.get(path, experiment_ids=json.dumps([run]))["stats"] == [
        {"name": "trace_count", "type": "COUNT", "value": 2},
        {"name": "feedback_scores.right", "type": "AVG", "value": 0.5},
    ]


def test_experiments_are_listed_by_what_they_are(bench: Bench) -> None:
    bench.experiment("a", tags=["x"], optimization_id="o1")
    scored = bench.experiment("b", type="trial")
    bench.answer(scored, 0, 0.9)
    bench.experiment("other", dataset_name="elsewhere")
    assert bench.names() == ["other", "b", "a"]
    assert bench.names(datasetId=bench.dataset) == ["b", "a"]
    assert bench.names(name="OTH") == ["other"]
    assert bench.names(types='["trial"]') == bench.names(experiment_ids=json.dumps([scored]))
    assert bench.names(optimization_id="o1") == ["a"]
    assert bench.names(filters=json.dumps([condition("tags", "contains", "x")])) == ["a"]
    by_score = json.dumps([{"field": "feedback_scores.right", "direction": "DESC"}])
    assert bench.names(sorting=by_score)[0] == "b"
    assert bench.names(page=2, size=2) == ["a"]
    said = bench.store.refusal("GET", "experiments", types="x")
    assert said == "400 types is no JSON list"


def test_experiments_are_found_by_name_first_in_their_project(bench: Bench) -> None:
    one = bench.experiment("run")
    two = bench.experiment("run", project_name="other")
    three = bench.experiment("run-2")

    def found(**body: object) -> list[str]:
        return [row["id"] for row in bench.stream(**body)]

    assert found(name="run") == [three, two, one]
    assert found(name="run", project_name="twin") == [three, one]
    assert found(name="RUN-2", project_name="twin") == [three]
    assert found(name="run", limit=2) == [three, two]
    assert found(name="run", limit=2, last_retrieved_id=two) == [one]
    assert found(name="run", project_name="nowhere") == [two, one]
    assert found(name="none", project_name="twin") == []


def test_an_experiment_changes_and_ends(bench: Bench) -> None:
    run, other = bench.experiment(tags=["a"]), bench.experiment("other")
    scores = [{"name": "stdev", "value": 0.5}]
    change = {"name": "renamed", "metadata": {"k": 2}, "experiment_scores": scores}
    bench.store.do("PATCH", f"experiments/{run}", change)
    bench.store.do(
        "PATCH",
        "experiments/batch",
        {"ids": [run, other], "update": {"tags": ["b"]}, "merge_tags": True},
    )
    bench.store.do("POST", "experiments/finish", {"ids": [run]})
    bench.store.do("PUT", "experiments/cancel", {"ids": [other]})
    found = bench.get(run)
    assert (found["name"], found["metadata"], found["tags"]) == ("renamed", {"k": 2}, ["a", "b"])
    assert found["experiment_scores"] == scores
    assert (found["status"], found["dataset_name"]) == ("completed", "d")
    assert found["finished_at"] >= found["created_at"]
    assert bench.get(other)["status"] == "cancelled"
    assert bench.store.refusal("PATCH", "experiments/x", {}) == "404 Experiment not found: x"


def test_deleting_experiments_leaves_their_traces(bench: Bench) -> None:
    run = bench.experiment()
    trace = bench.answer(run, 0)
    bench.store.do("POST", "experiments/delete", {"ids": [run]})
    assert bench.store.refusal("GET", f"experiments/{run}").startswith("404")
    assert bench.store.get(f"traces/{trace}")["id"] == trace
    assert bench.stream("experiments/items/stream", experiment_name="run") == []


def test_items_are_read_one_by_one_and_in_a_stream(bench: Bench) -> None:
    run = bench.experiment()
    trace = bench.answer(run, 0, 1.0, output={"text": "x"})
    second = bench.link(run, 1, new_id(), execution_policy={"runs_per_item": 2})
    rows = bench.stream("experiments/items/stream", experiment_name="run", project_name="twin")
    assert [row["dataset_item_id"] for row in rows] == [bench.ids[1], bench.ids[0]]
    assert (rows[1]["output"], rows[1]["trace_id"]) == ({"text": "x"}, trace)
    assert rows[1]["feedback_scores"][0]["value"] == 1.0
    path = "experiments/items/stream"
    after = bench.stream(path, experiment_name="run", limit=1, last_retrieved_id=rows[0]["id"])
    assert after == [rows[1]]
    assert bench.store.get(f"experiments/items/{second}")["execution_policy"] == {
        "runs_per_item": 2
    }
    bench.store.do("POST", "experiments/items/delete", {"ids": [second]})
    said = bench.store.refusal("GET", f"experiments/items/{second}")
    assert said == f"404 Experiment item not found: {second}"
    broken = {"experiment_items": [{"experiment_id": run, "trace_id": trace}]}
    said = bench.store.refusal("POST", "experiments/items", broken)
    assert said == "400 dataset_item_id is no UUID: None"


def test_names_of_scores(bench: Bench) -> None:
    run, other = bench.experiment(), bench.experiment("other")
    trace = bench.answer(run, 0, 1.0)
    score = {"id": trace, "name": "kind", "value": 1, "source": "sdk"}
    bench.store.do("PUT", "traces/feedback-scores", {"scores": [score]})
    path = "experiments/feedback-scores/names"
    assert bench.store.get(path)["scores"] == [{"name": "kind"}, {"name": "right"}]
    assert bench.store.get(path, experiment_ids=json.dumps([other]))["scores"] == []


def test_prompts_are_linked_by_name_and_commit(bench: Bench) -> None:
    first, second = bench.prompt("ask"), bench.prompt("cite")
    run = bench.experiment(prompt_versions=[{"id": first["id"]}, {"id": second["id"]}])
    single = bench.experiment("single", prompt_version={"id": first["id"]})
    links = bench.get(run)["prompt_versions"]
    assert [(one["prompt_name"], one["commit"]) for one in links] == [
        ("ask", first["commit"]),
        ("cite", second["commit"]),
    ]
    assert bench.get(single)["prompt_version"]["prompt_id"] == first["prompt_id"]
    assert bench.names(prompt_id=second["prompt_id"]) == ["run"]
    gone = bench.experiment("gone", prompt_versions=[{"id": "x"}])
    assert bench.get(gone)["prompt_versions"] == [{"id": "x"}]


def test_a_suite_passes_when_enough_runs_of_an_item_do(bench: Bench) -> None:
    run = bench.experiment(evaluation_method="evaluation_suite")
    policy = {"runs_per_item": 2, "pass_threshold": 2}
    verdicts = {0: ("passed", "passed"), 1: ("passed", "failed")}
    for n, held in verdicts.items():
        for verdict in held:
            trace = bench.answer(bench.experiment("apart"), n)
            bench.link(run, n, trace, execution_policy=policy)
            result = {"entity_id": trace, "name": "is right", "status": verdict, "reason": "r"}
            body = {"entity_type": "TRACE", "assertion_results": [result]}
            bench.store.do("PUT", "assertion-results", body)
    bench.answer(run, 2)
    found = bench.get(run)
    assert (found["passed_count"], found["total_count"]) == (2, 3)
    assert found["pass_rate"] == pytest.approx(2 / 3)
    assert found["assertion_scores"] == [{"name": "is right", "value": 0.75}]
    rows = {row["data"]["n"]: row for row in bench.compare(run)["content"]}
    summaries = {n: row["run_summaries_by_experiment"][run] for n, row in rows.items()}
    assert summaries == {
        0: {"passed_runs": 2, "total_runs": 2, "status": "passed"},
        1: {"passed_runs": 1, "total_runs": 2, "status": "failed"},
        2: {"passed_runs": 1, "total_runs": 1, "status": "passed"},
    }
    verdict = {one["status"]: one["assertion_results"] for one in rows[1]["experiment_items"]}
    assert verdict["failed"] == [{"value": "is right", "passed": False, "reason": "r"}]


def test_items_come_in_bulk_with_traces_spans_and_scores(bench: Bench) -> None:
    trace = new_id()
    records = [
        {"dataset_item_id": bench.ids[0], "evaluate_task_result": {"answer": 1},
         "feedback_scores": [{"name": "right", "value": 1.0}]},
        {"dataset_item_id": bench.ids[1], "evaluate_task_result": "words"},
        {"dataset_item_id": bench.ids[2],
         "trace": {"id": trace, "start_time": START, "end_time": END, "output": {"answer": 3}},
         "spans": [{"name": "llm", "type": "llm", "start_time": START, "usage": {"tokens": 7}}]},
    ]  # fmt: skip
    body = {"experiment_name": "bulk", "dataset_name": "d", "project_name": "twin"}
    bench.store.do("PUT", "experiments/items/bulk", {**body, "items": records[:1]})
    bench.store.do("PUT", "experiments/items/bulk", {**body, "items": records[1:]})
    [run] = bench.stream(name="bulk")
    assert (run["trace_count"], run["feedback_scores"]) == (3, [{"name": "right", "value": 1.0}])
    outputs = [row["experiment_items"][0]["output"] for row in bench.compare(run["id"])["content"]]
    assert outputs == [{"answer": 3}, {"output": "words"}, {"answer": 1}]
    assert bench.store.get(f"traces/{trace}")["usage"] == {"tokens": 7}
    assert bench.store.get(f"traces/{trace}")["source"] == "experiment"


def test_bulk_is_all_or_nothing(bench: Bench) -> None:
    good = {"dataset_item_id": bench.ids[0], "evaluate_task_result": {"answer": 1}}
    body = {"experiment_name": "bulk", "dataset_name": "d"}

    def refused(record: Row, **more: object) -> str:
        sent = {**body, **more, "items": [good, record]}
        return bench.store.refusal("PUT", "experiments/items/bulk", sent)

    needs = "400 An item needs either evaluate_task_result or trace"
    assert refused({"dataset_item_id": bench.ids[1]}) == needs
    assert refused({**good, "trace": {}}) == needs
    assert refused({"evaluate_task_result": 1}) == "400 dataset_item_id is no UUID: None"
    run = bench.experiment("over d")
    said = refused(good, experiment_id=run, dataset_name="elsewhere")
    assert said == "409 The experiment is over another dataset: d"
    assert refused({**good, "evaluate_task_result": "x" * 5_000_000}).startswith("413 ")
    assert bench.stream(name="bulk") == []
    assert bench.store.get("traces", project_name="twin")["content"] == []


def test_nothing_private_comes_in_with_an_experiment(bench: Bench) -> None:
    text = "mail jane.roe@example.org"
    record = {
        "dataset_item_id": bench.ids[0],
        "trace": {"start_time": START, "output": {"a": text}, "tags": [text]},
        "spans": [{"name": "s", "start_time": START, "input": {"deep": [text]}}],
        "feedback_scores": [{"name": "right", "value": 1, "reason": text}],
    }
    body = {"experiment_name": "bulk", "dataset_name": "d", "items": [record]}
    bench.store.do("PUT", "experiments/items/bulk", body)
    bench.experiment(metadata={"asked": text})
    folder = bench.store.store.database.path.parent
    assert not any(b"jane.roe" in path.read_bytes() for path in folder.glob("traces.db*"))


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "experiments/delete", {"ids": "x"}, "400 ids is no list of texts"),
        ("POST", "experiments/finish", {"ids": [1]}, "400 ids is no list of texts"),
        ("POST", "experiments", {"name": 1}, "400 name is no text"),
        (
            "POST",
            "experiments",
            {"prompt_versions": 1},
            "400 prompt_versions is no list of objects",
        ),
        ("PATCH", "experiments/batch", {"update": []}, "400 update is no object"),
        ("PATCH", "datasets/items/batch", {"update": {"data": []}}, "400 data is no object"),
        ("POST", "experiments/stream", {"limit": "x"}, "400 limit is a whole number from 1"),
        (
            "POST",
            "experiments/stream",
            {"last_retrieved_id": 1},
            "400 last_retrieved_id is no text",
        ),
        (
            "PUT",
            "experiments/items/bulk",
            {"items": [{"spans": 1}]},
            "400 spans is no list of objects",
        ),
        ("POST", "experiments", {"tags": "x"}, "400 tags is no list"),
    ],
)
def test_what_a_field_cannot_hold_is_refused(
    bench: Bench, method: str, path: str, body: Row, said: str
) -> None:
    assert bench.store.refusal(method, path, body) == said
