"""Opik's SDK and command line, unmodified, against the store's datasets and experiments.

Each test runs through both mounts: a function in this process, and a server at 127.0.0.1.
"""

from __future__ import annotations

import os

os.environ |= {"OPIK_SENTRY_ENABLE": "false", "OPIK_ANALYTICS_ENABLE": "false"}

import contextlib
import contextvars
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import opik
import pandas
import pytest
from opik import exceptions
from opik.api_objects import constants, opik_client
from opik.evaluation import metrics
from opik.evaluation.metrics import score_result
from opik.evaluation.models import base_model
from opik.hooks import HttpxClientHook, httpx_client_hook
from opik.rest_api.core import ApiError

from llm_twin.tracing.store.mounts import transport
from llm_twin.tracing.store.store import Store

SERVE = """
import sys
from pathlib import Path
from llm_twin.settings import Settings
from llm_twin.tracing.serve import serve
serve(Settings(home=Path(sys.argv[1])), port=0)
"""
PROJECT = "evaluations of a test"
CAPITALS = {"France": "Paris", "Germany": "Berlin", "Poland": "Warsaw"}
ITEMS = [{"country": one, "capital": other} for one, other in CAPITALS.items()]
Row = dict[str, Any]


@contextlib.contextmanager
def served(home: Path) -> Iterator[str]:
    """The address of a store's server that is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        yield process.stdout.readline().partition("=")[2].strip()
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(params=["here", "server"])
def client(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[opik.Opik]:
    """The SDK's client on a store in this process, and on one behind a server."""
    if request.param == "here":
        hook = HttpxClientHook(None, {"transport": transport(Store(tmp_path / "here"))})
        monkeypatch.setattr(httpx_client_hook, "_httpx_client_hooks", [hook])
        url = "http://localhost/api/"
    else:
        url = request.getfixturevalue("address")
    monkeypatch.setenv("OPIK_URL_OVERRIDE", url)
    monkeypatch.setenv("OPIK_CONFIG_PATH", str(tmp_path / "opik.config"))
    monkeypatch.setenv("OPIK_PROJECT_NAME", PROJECT)
    opened = opik.Opik(project_name=PROJECT, workspace="default")
    opik.set_global_client(opened)
    yield opened
    opik_client.reset_global_client()


@pytest.fixture
def name() -> str:
    """A name that no other test has: they share the server."""
    return f"capitals-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def capitals(client: opik.Opik, name: str) -> opik.Dataset:
    dataset = client.create_dataset(name, description="of countries", project_name=PROJECT)
    dataset.insert(ITEMS)
    return dataset


def right(dataset_item: Row, task_outputs: Row) -> score_result.ScoreResult:
    """The score of an answer."""
    held = dataset_item["capital"] == task_outputs["output"]
    return score_result.ScoreResult(name="right", value=float(held), reason="compared")


def knowing(item: Row) -> Row:
    return {"output": item["capital"]}


def guessing(item: Row) -> Row:
    return {"output": "Paris"}


def evaluate(dataset: Any, task: Any, **fields: Any) -> Any:
    result = opik.evaluate(
        dataset=dataset, task=task, scoring_functions=[right], task_threads=1, verbose=0, **fields
    )
    opik.flush_tracker()
    return result


def answers(items: Any) -> dict[str, tuple[str, float]]:
    """What an experiment answered by country, and its score."""
    return {
        one.dataset_item_data["country"]: (
            one.evaluation_task_output["output"],
            one.feedback_scores[0]["value"],
        )
        for one in items
    }


def test_a_dataset_is_filled_changed_and_emptied(client: opik.Opik, name: str) -> None:
    with pytest.raises(ApiError, match="Dataset not found"):
        client.get_dataset(name)
    dataset = client.get_or_create_dataset(name, project_name=PROJECT)
    dataset.insert_from_json(json.dumps(ITEMS[:1]))
    dataset.insert_from_pandas(pandas.DataFrame(ITEMS[:2]))
    assert client.get_or_create_dataset(name, project_name=PROJECT).id == dataset.id
    frame = dataset.to_pandas()
    assert sorted(frame["country"]) == ["France", "Germany"]
    assert {row["capital"] for row in json.loads(dataset.to_json())} == {"Paris", "Berlin"}
    [france] = dataset.get_items(filter_string='data.country = "France"')
    dataset.update([{**france, "capital": "Lyon"}])
    dataset.delete([row["id"] for row in dataset.get_items() if row["country"] == "Germany"])
    assert [row["capital"] for row in dataset.get_items()] == ["Lyon"]
    dataset.clear()
    assert dataset.get_items() == []
    assert name in {one.name for one in client.get_datasets(project_name=PROJECT)}
    client.delete_dataset(name, project_name=PROJECT)
    assert name not in {one.name for one in client.get_datasets(project_name=PROJECT)}


def test_lines_of_a_file_become_items(client: opik.Opik, name: str, tmp_path: Path) -> None:
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ITEMS))
    dataset = client.create_dataset(name, project_name=PROJECT)
    dataset.read_jsonl_from_file(str(path))
    assert {row["country"] for row in dataset.get_items()} == set(CAPITALS)


def test_many_items_sent_at_once_are_one_version(client: opik.Opik, name: str) -> None:
    dataset = client.create_dataset(name, project_name=PROJECT)
    dataset.insert([{"n": n} for n in range(3000)])
    assert dataset.get_current_version_name() == "v1"
    assert dataset.get_version_view("v1").items_total == 3000
    assert sorted(row["n"] for row in dataset.get_items()) == list(range(3000))


def test_versions_can_be_read_and_evaluated_later(client: opik.Opik, name: str) -> None:
    dataset = client.create_dataset(name, project_name=PROJECT)
    assert dataset.get_current_version_name() is None
    dataset.insert(ITEMS[:2])
    dataset.insert(ITEMS[2:])
    dataset.delete([dataset.get_items(filter_string='data.country = "France"')[0]["id"]])
    assert dataset.get_current_version_name() == "v3"
    views = [dataset.get_version_view(f"v{n}") for n in (1, 2, 3)]
    assert [view.items_total for view in views] == [2, 3, 2]
    assert [(view.items_added, view.items_deleted) for view in views] == [(2, 0), (1, 0), (0, 1)]
    assert {row["country"] for row in views[0].get_items()} == {"France", "Germany"}
    with pytest.raises(exceptions.DatasetVersionNotFound):
        dataset.get_version_view("v9")
    result = evaluate(views[0], knowing)
    assert len(result.test_results) == 2
    data = client.get_experiment_by_id(result.experiment_id).get_experiment_data()
    assert data.dataset_version_id == views[0].get_version_info().id


def test_an_evaluation_is_an_experiment(
    client: opik.Opik, capitals: opik.Dataset, name: str
) -> None:
    prompt = opik.Prompt(name=f"ask-{name}", prompt="The capital of {{country}}?")
    result = evaluate(
        capitals,
        guessing,
        experiment_name=name,
        experiment_config={"model": "guess"},
        experiment_tags=["baseline"],
        prompts=[prompt],
        experiment_scoring_functions=[
            lambda results: [score_result.ScoreResult(name="answers", value=len(results))]
        ],
    )
    experiment = client.get_experiment_by_name(name, project_name=PROJECT)
    assert experiment.id == result.experiment_id
    assert answers(experiment.get_items()) == {
        "France": ("Paris", 1.0), "Germany": ("Paris", 0.0), "Poland": ("Paris", 0.0),
    }  # fmt: skip
    data = experiment.get_experiment_data()
    assert [(one.name, round(one.value, 3)) for one in data.feedback_scores] == [("right", 0.333)]
    assert [(one.name, one.value) for one in data.experiment_scores] == [("answers", 3)]
    assert (data.metadata["model"], data.tags, data.trace_count) == ("guess", ["baseline"], 3)
    assert data.prompt_versions[0].commit == prompt.commit
    assert (data.status, data.dataset_item_count) == ("completed", 3)
    [listed] = client.get_dataset_experiments(capitals.name, project_name=PROJECT)
    assert (listed.id, listed.name) == (experiment.id, name)


def test_two_models_are_compared_item_by_item(
    client: opik.Opik, capitals: opik.Dataset, name: str
) -> None:
    old = evaluate(capitals, guessing, experiment_name=name).experiment_id
    new = evaluate(capitals, knowing, experiment_name=name).experiment_id
    both = client.get_experiments_by_name(name, project_name=PROJECT)
    assert {one.id for one in both} == {old, new}
    items = client.get_experiments_client().find_experiment_items_for_dataset(
        dataset_name=capitals.name, experiment_ids=[old, new], project_name=PROJECT
    )
    by_country: dict[str, set[float]] = {}
    for one in items:
        country = one.dataset_item_data["country"]
        by_country.setdefault(country, set()).add(one.feedback_scores[0]["value"])
    assert by_country == {"France": {1.0}, "Germany": {0.0, 1.0}, "Poland": {0.0, 1.0}}
    wrong = client.get_experiments_client().find_experiment_items_for_dataset(
        dataset_name=capitals.name,
        experiment_ids=[old, new],
        project_name=PROJECT,
        filter_string="feedback_scores.right = 0",
    )
    assert {one.dataset_item_data["country"] for one in wrong} == {"Germany", "Poland"}


def test_an_experiment_gets_more_scores_another_name_and_an_end(
    client: opik.Opik, capitals: opik.Dataset, name: str
) -> None:
    run = evaluate(
        capitals, lambda item: {"output": "Paris", "reference": item["capital"]},
        experiment_name=name,
    ).experiment_id  # fmt: skip
    opik.evaluate_experiment(
        experiment_name=name, scoring_metrics=[metrics.Equals()], project_name=PROJECT, verbose=0
    )
    opik.flush_tracker()
    client.update_experiment(run, name=f"{name}-2", experiment_config={"model": "new"})
    data = client.get_experiment_by_id(run).get_experiment_data()
    assert {one.name for one in data.feedback_scores} == {"right", "equals_metric"}
    assert (data.name, data.metadata) == (f"{name}-2", {"model": "new"})
    client.rest_client.experiments.delete_experiments_by_id(ids=[run])
    with pytest.raises(exceptions.ExperimentNotFound):
        client.get_experiment_by_id(run)
    with pytest.raises(exceptions.ExperimentNotFound):
        client.get_experiment_by_name(name, project_name=PROJECT)


def test_a_filter_chooses_what_is_evaluated(client: opik.Opik, capitals: opik.Dataset) -> None:
    result = evaluate(
        capitals, knowing, dataset_filter_string='data.capital contains "a" AND data.country != "x"'
    )
    found = client.get_experiment_by_id(result.experiment_id).get_items()
    assert set(answers(found)) == {"France", "Poland"}


class Broken(SystemExit):
    """What ends an evaluation at once, as a killed process would."""


def test_an_evaluation_goes_on_where_it_stopped(
    client: opik.Opik, capitals: opik.Dataset, name: str
) -> None:
    def breaking(dataset_item: Row, task_outputs: Row) -> score_result.ScoreResult:
        if dataset_item["country"] == "Germany":
            raise Broken
        return right(dataset_item, task_outputs)

    # A process that ends takes its context with it, the current project's name among it.
    with pytest.raises(Broken):
        contextvars.copy_context().run(
            opik.evaluate,
            dataset=capitals, task=knowing, scoring_functions=[breaking], task_threads=1,
            experiment_name=name, verbose=0,
        )  # fmt: skip
    opik.flush_tracker()
    run = client.get_experiment_by_name(name, project_name=PROJECT)
    done = [one for one in run.get_items() if one.evaluation_task_output]
    assert "Germany" not in answers(done)
    asked: list[str] = []

    def task(item: Row) -> Row:
        asked.append(item["country"])
        return knowing(item)

    result = opik.evaluate_resume(
        experiment_id=run.id, task=task, scoring_functions=[right], verbose=0
    )
    opik.flush_tracker()
    assert len(result.test_results) == 3
    assert set(asked) == set(CAPITALS) - set(answers(done))
    finished = [one for one in run.get_items() if one.evaluation_task_output]
    assert set(answers(finished)) == set(CAPITALS)


def test_results_come_in_bulk_in_parts_that_are_small_enough(
    client: opik.Opik, capitals: opik.Dataset, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "EXPERIMENT_ITEMS_BULK_MAX_BATCH_SIZE_MB", 64)
    experiment = client.create_experiment(capitals.name, name=name, project_name=PROJECT)
    experiment.batch_upload_items(
        [
            opik.ExperimentItemBulkRecord(
                dataset_item_id=item["id"],
                evaluate_task_result={"output": item["capital"], "long": "x" * 2_000_000},
                feedback_scores=[{"name": "right", "value": 1.0}],
            )
            for item in capitals.get_items()
        ],
        project_name=PROJECT,
    )
    stored = experiment.get_items(page_size=2)
    assert answers(stored) == {country: (city, 1.0) for country, city in CAPITALS.items()}
    assert len({one.trace_id for one in stored}) == 3


class Model(base_model.OpikBaseModel):
    """A model that knows one answer."""

    def generate_string(self, input: str, **fields: Any) -> str:
        return "Paris"

    def generate_provider_response(self, messages: list[Row], **fields: Any) -> Any:
        message = SimpleNamespace(content="Paris", tool_calls=None)
        return SimpleNamespace(choices=[SimpleNamespace(message=message)])


def test_a_prompt_is_evaluated(client: opik.Opik, capitals: opik.Dataset, name: str) -> None:
    result = opik.evaluate_prompt(
        dataset=capitals,
        messages=[{"role": "user", "content": "The capital of {{country}}?"}],
        model=Model("one-answer"),
        scoring_functions=[right],
        experiment_name=name,
        verbose=0,
    )
    opik.flush_tracker()
    items = client.get_experiment_by_id(result.experiment_id).get_items()
    assert {one[1] for one in answers(items).values()} == {0.0, 1.0}


def test_a_suite_runs_each_item_as_often_as_its_policy_says(
    client: opik.Opik, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    policy = {"runs_per_item": 2, "pass_threshold": 1}
    suite = client.create_test_suite(name, project_name=PROJECT, global_execution_policy=policy)
    own = {"runs_per_item": 3, "pass_threshold": 2}
    suite.insert([{"data": {"n": 1}}, {"data": {"n": 2}, "execution_policy": own}])
    assert suite.get_global_execution_policy() == policy
    result = opik.run_tests(
        test_suite=suite, task=lambda item: {"input": item, "output": "x"}, verbose=0
    )
    assert (result.items_total, result.items_passed) == (2, 2)
    assert sorted(one.runs_total for one in result.item_results.values()) == [2, 3]
    data = client.get_experiment_by_id(result.experiment_id).get_experiment_data()
    assert (data.trace_count, data.passed_count, data.pass_rate) == (5, 2, 1.0)
    assert name in {one.name for one in client.get_test_suites(project_name=PROJECT)}


def cli(url: str, home: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "opik.cli", *words],
        env={**os.environ, "OPIK_URL_OVERRIDE": url, "HOME": str(home),
             "OPIK_CONFIG_PATH": str(home / "opik.config"), "COLUMNS": "200"},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_command_line_exports_and_imports(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("OPIK_URL_OVERRIDE", address)
    monkeypatch.setenv("OPIK_CONFIG_PATH", str(tmp_path / "opik.config"))
    client = opik.Opik(project_name=PROJECT, workspace="default")
    opik.set_global_client(client)
    dataset = client.create_dataset(name, project_name=PROJECT)
    dataset.insert(ITEMS)
    evaluate(dataset, guessing, experiment_name=name)
    opik_client.reset_global_client()
    out = tmp_path / "out"
    for kind in ("dataset", "experiment"):
        cli(address, tmp_path, "export", "default", PROJECT, kind, name, "--path", str(out))
    exported = {path.name: path.read_text() for path in out.rglob("*.json")}
    [items] = [text for key, text in exported.items() if key.startswith("dataset_")]
    assert all(city in items for city in CAPITALS.values())
    [run] = [text for key, text in exported.items() if key.startswith("experiment_")]
    assert "right" in run or "feedback_scores" in "".join(exported.values())
    with served(tmp_path / "other") as other:
        cli(other, tmp_path, "import", "default", PROJECT, "dataset", name, "--path", str(out))
        monkeypatch.setenv("OPIK_URL_OVERRIDE", other)
        there = opik.Opik(project_name=PROJECT, workspace="default")
        rows = there.get_dataset(name, project_name=PROJECT).get_items()
        assert {row["country"]: row["capital"] for row in rows} == CAPITALS
        there.end()
