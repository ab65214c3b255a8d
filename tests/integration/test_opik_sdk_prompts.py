"""Opik's SDK and command line, unmodified, against the store's prompt library through both mounts.

No request of them leaves this machine: one mount is a function, the other a server at 127.0.0.1.
"""

import os

os.environ |= {"OPIK_SENTRY_ENABLE": "false", "OPIK_ANALYTICS_ENABLE": "false"}

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import opik
import pytest
from opik.api_objects.prompt.mask_context import prompt_mask_context
from opik.exceptions import (
    EnvironmentAlreadyExists,
    EnvironmentNotFoundError,
    PromptNotFoundError,
    PromptTemplateStructureMismatch,
)
from opik.hooks import HttpxClientHook, httpx_client_hook
from opik.rest_api.core import ApiError
from opik.rest_api.types.prompt_version_detail import PromptVersionDetail

from ci.prompts import templates
from llm_twin.serving.prompts import load_prompt
from llm_twin.settings import Settings
from llm_twin.tracing.experiment import Item, record
from llm_twin.tracing.prompt_library import publish
from llm_twin.tracing.store.mounts import transport
from llm_twin.tracing.store.store import Store

SERVE = """
import sys
from pathlib import Path
from llm_twin.settings import Settings
from llm_twin.tracing.serve import serve
serve(Settings(home=Path(sys.argv[1])), port=0)
"""
PROJECT = "prompts of a test"
MESSAGES = [
    {"role": "system", "content": "You are a {{role}}."},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is in this picture of {{subject}}?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/picture.jpg"}},
        ],
    },
]


@contextlib.contextmanager
def served(home):
    """The address of a store's server that is ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, str(home)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().partition("=")[2].strip()
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with served(tmp_path_factory.mktemp("served")) as url:
        yield url


@pytest.fixture(params=["here", "server"])
def client(request, tmp_path, monkeypatch):
    """The SDK's client on a store in this process, and on one behind a server."""
    if request.param == "here":
        store = Store(tmp_path / "here")
        hook = HttpxClientHook(None, {"transport": transport(store)})
        monkeypatch.setattr(httpx_client_hook, "_httpx_client_hooks", [hook])
        url = "http://localhost/api/"
    else:
        store, url = None, request.getfixturevalue("address")
    monkeypatch.setenv("OPIK_URL_OVERRIDE", url)
    monkeypatch.setenv("OPIK_CONFIG_PATH", str(tmp_path / "opik.config"))
    opened = opik.Opik(project_name=PROJECT, workspace="default")
    opik.set_global_client(opened)
    yield opened
    opik.api_objects.opik_client.reset_global_client()
    if store:
        store.close()


@pytest.fixture
def name(request):
    """A name that no other test uses."""
    return request.node.name.replace("[", "-").rstrip("]")


def test_a_changed_prompt_is_a_version_and_an_unchanged_one_is_not(client, name):
    first = client.create_prompt(name, "Hello {{name}}", metadata={"team": {"lead": "Ada"}})
    assert (first.version, len(first.commit)) == ("v1", 8)
    same = client.create_prompt(name, "Hello {{name}}", metadata={"team": {"lead": "Ada"}})
    assert same.commit == first.commit
    second = client.create_prompt(name, "Hello {{ name }}", type=opik.PromptType.JINJA2)
    assert (second.version, second.type) == ("v2", "jinja2")
    assert client.get_prompt(name).commit == second.commit
    assert client.get_prompt(name, version="v1").metadata == {"team": {"lead": "Ada"}}
    assert client.get_prompt(name, commit=first.commit).format(name="Bob") == "Hello Bob"
    assert client.get_prompt(name, version="v3") is None
    assert [one.version for one in client.get_prompt_history(name)] == ["v2", "v1"]


def test_a_prompt_object_syncs_itself(client, name):
    prompt = opik.Prompt(name, "Hello {{name}}", tags=["a"], project_name=PROJECT)
    assert prompt.synced
    assert client.get_prompt(name).version_id == prompt.version_id
    (found,) = client.search_prompts(f'name = "{name}" AND tags contains "a"')
    assert found.tags == ["a"]


def test_chat_prompts_keep_their_messages_and_their_kind(client, name):
    made = client.create_chat_prompt(name, MESSAGES, metadata={"a": 1})
    assert client.create_chat_prompt(name, MESSAGES, metadata={"a": 1}).commit == made.commit
    assert client.get_chat_prompt(name).template == MESSAGES
    assert client.create_chat_prompt(name, []).version == "v2"
    with pytest.raises(PromptTemplateStructureMismatch):
        client.create_prompt(name, "text")
    with pytest.raises(PromptTemplateStructureMismatch):
        client.get_prompt_history(name)
    assert len(client.get_chat_prompt_history(name)) == 2


def test_history_is_searched_and_filtered(client, name):
    tag = client.get_prompts_client().batch_update_prompt_version_tags
    ids = [client.create_prompt(name, text).version_id for text in ("red one", "blue", "red two")]
    tag(version_ids=ids[:2], tags=["kept"])
    tag(version_ids=ids[:1], tags=["best"], merge=True)

    def found(**query):
        return {ids.index(one.version_id) for one in client.get_prompt_history(name, **query)}

    assert found(search="red") == {0, 2}
    assert found(filter_string='tags contains "kept"') == {0, 1}
    assert found(search="red", filter_string='tags contains "best"') == {0}
    assert found(filter_string='version_number = "v2"') == {1}
    assert found(filter_string='created_at < "2024-01-01T00:00:00Z"') == set()


def test_prompts_of_both_kinds_are_searched(client, name):
    client.create_prompt(f"{name} text", "x")
    client.create_chat_prompt(f"{name} chat", MESSAGES)
    both = client.search_prompts(f'name starts_with "{name}"')
    assert {type(one) for one in both} == {opik.Prompt, opik.ChatPrompt}
    chat = client.search_prompts(f'name contains "{name}" AND template_structure = "chat"')
    assert [one.template for one in chat] == [MESSAGES]


def test_a_mask_stands_in_for_a_prompt_while_it_is_worn(client, name):
    prompt = client.create_prompt(name, "plain")
    make = client.get_prompts_client()._PromptClient__internal_api__create_mask
    mask = make(name=name, prompt="masked")
    with prompt_mask_context({prompt.__internal_api__prompt_id__: mask.id}):
        assert client.get_prompt(name, no_cache=True).prompt == "masked"
    assert client.get_prompt(name, no_cache=True).prompt == "plain"
    assert len(client.get_prompt_history(name)) == 1


def test_an_environment_serves_the_version_it_was_given(client, name):
    stage = f"stage-{name[-4:]}"
    assert client.create_environment(stage, "Nearly", "#abcdef").color == "#abcdef"
    with pytest.raises(EnvironmentAlreadyExists):
        client.create_environment(stage)
    client.create_prompt(name, "one")
    client.set_prompt_environments(name, [stage])
    client.create_prompt(name, "two")
    assert client.get_prompt(name, environment=stage, no_cache=True).prompt == "one"
    client.set_prompt_environments(name, [stage], version="v2")
    assert client.get_prompt(name, environment=stage, no_cache=True).prompt == "two"
    assert client.update_environment(stage, description="Live").description == "Live"
    client.delete_environment(stage)
    assert client.get_prompt(name, no_cache=True).environments is None
    with pytest.raises(EnvironmentNotFoundError):
        client.set_prompt_environments(name, [stage])
    with pytest.raises(PromptNotFoundError):
        client.set_prompt_environments(f"{name} none", [])


def test_access_is_checked_by_workspace(client):
    assert client.auth_check() is None
    stranger = opik.Opik(workspace="elsewhere")
    with pytest.raises(ApiError) as refused:
        stranger.auth_check()
    assert refused.value.status_code == 403
    stranger.end()


def test_what_the_store_does_not_keep_is_a_501_that_says_so(client):
    for ask in (
        lambda: client.create_optimization("dataset", "objective"),
        lambda: client.rest_client.dashboards.find_dashboards(),
        lambda: client.rest_client.annotation_queues.find_annotation_queues(),
    ):
        with pytest.raises(ApiError) as refused:
            ask()
        assert refused.value.status_code == 501
        assert "are not kept by this store" in refused.value.body["message"]


def test_published_templates_render_in_opik_as_they_do_in_the_answer_path(tmp_path, monkeypatch):
    settings = Settings(home=tmp_path)
    publish(settings, templates())
    values = {"question": "Is 1 < 2 & {{3}} “four”?", "passages": "[1] $passages\n\n<b>"}
    store = Store(tmp_path / "traces")
    hook = HttpxClientHook(None, {"transport": transport(store)})
    monkeypatch.setattr(httpx_client_hook, "_httpx_client_hooks", [hook])
    client = opik.Opik(project_name=settings.trace_project, host="http://localhost/api/")
    for name in ("answer", "local"):
        prompt = load_prompt(name)
        found = client.get_chat_prompt(name)
        assert found.metadata == {"digest": prompt.version}
        messages = found.format(values)
        assert tuple(message["content"] for message in messages) == prompt.render(**values)
    client.end()
    store.close()


def test_an_evaluation_is_read_back_as_an_experiment(tmp_path, monkeypatch):
    items = [Item.of_retrieval(f"q{n}", 1 / (n + 1), f"What is {n}?", f"d{n}") for n in range(3)]
    record(Settings(home=tmp_path), "withheld", "v1", items, {"corpus": "notes"}, {"bits": 2.5})
    store = Store(tmp_path / "traces")
    hook = HttpxClientHook(None, {"transport": transport(store)})
    monkeypatch.setattr(httpx_client_hook, "_httpx_client_hooks", [hook])
    client = opik.Opik(project_name="llm-twin", host="http://localhost/api/")
    experiment = client.get_experiment_by_name("v1")
    found = {
        one.dataset_item_data["question"]: {s["name"]: s["value"] for s in one.feedback_scores}
        for one in experiment.get_items()
    }
    assert found["What is 1?"] == {"reciprocal_rank": 0.5, "hit@1": 0, "hit@5": 1}
    assert len(found) == len(client.get_dataset("withheld").get_items()) == 3
    client.end()
    store.close()


@pytest.mark.slow
def test_the_command_line_exports_imports_and_moves_prompts(address, tmp_path, monkeypatch):
    monkeypatch.setenv("OPIK_URL_OVERRIDE", address)
    monkeypatch.setenv("OPIK_CONFIG_PATH", str(tmp_path / "opik.config"))
    client = opik.Opik(project_name="source", workspace="default")
    client.create_chat_prompt("moving", MESSAGES[:1])
    client.create_chat_prompt("moving", MESSAGES, metadata={"a": 1}, type=opik.PromptType.JINJA2)
    third = PromptVersionDetail(template="[]", type="mustache", environments=["canary"])
    client.rest_client.prompts.create_prompt_version(
        name="moving", version=third, template_structure="chat", project_name="source"
    )
    commits = [one.commit for one in client.get_chat_prompt_history("moving")]
    folder = ("--path", str(tmp_path))

    opik_command("export", "default", "source", "prompt", "moving", *folder)
    (exported,) = tmp_path.rglob("prompt_*.json")
    kept = json.loads(exported.read_text())
    assert [one["commit"] for one in kept["history"]] == commits
    assert kept["history"][1]["prompt"] == MESSAGES

    opik_command("import", "default", "source", "prompt", "moving", *folder)
    assert [one.commit for one in client.get_chat_prompt_history("moving")] == commits

    client.rest_client.projects.create_project(name="target")
    log = tmp_path / "log.json"
    opik_command("migrate", "prompt", "moving", "--to-project", "target", "--audit-log", str(log))
    moved = client.get_chat_prompt_history("moving", project_name="target")
    assert [(one.commit, one.environments) for one in moved] == [
        (commit, ["canary"] if number == 0 else None) for number, commit in enumerate(commits)
    ]
    client.end()


def opik_command(*line):
    done = subprocess.run(
        [Path(sys.executable).with_name("opik"), *line],
        capture_output=True,
        text=True,
        env={**os.environ, "TERM": "dumb", "NO_COLOR": "1"},
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
