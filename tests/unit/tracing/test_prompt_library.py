"""Templates in Git against Opik's prompt library: here, and on a server that asks for a key."""

import contextlib
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
from invoke.context import Context
from invoke.exceptions import Exit

from ci.prompts import check
from ci.prompts import publish as publish_all
from llm_twin.errors import RemoteError
from llm_twin.settings import Settings
from llm_twin.tracing.api import Api
from llm_twin.tracing.prompt_library import Template, differences, publish
from llm_twin.tracing.store.mounts import asgi
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
KEY = "the key of the library"
ANSWER = Template("answer", "d1", "You are a twin.", "Question: $question\nIt costs $$5, ${name}")


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path / "home")


@contextlib.contextmanager
def api(settings):
    store = Store(settings.traces)
    yield Api.here(store)
    store.close()


@pytest.fixture
def server(tmp_path):
    """Settings of a library on an HTTP server."""
    store = Store(tmp_path / "server")
    config = uvicorn.Config(asgi(store, KEY), port=0, log_level="critical")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not running.started and time.monotonic() < deadline:
        time.sleep(0.01)
    port = running.servers[0].sockets[0].getsockname()[1]
    url = f"http://127.0.0.1:{port}/api/"
    yield Settings(home=tmp_path / "home", opik_url=url, opik_key=KEY)
    running.should_exit = True
    thread.join(30)
    store.close()


def edited(template):
    return replace(template, system="You are a good twin.", version="d2")


def test_a_template_is_a_chat_prompt_with_its_names_in_braces():
    assert ANSWER.messages() == [
        {"role": "system", "content": "You are a twin."},
        {"role": "user", "content": "Question: {{question}}\nIt costs $5, {{name}}"},
    ]


def test_what_is_published_is_a_version_and_once(settings):
    local = Template("local", "d9", "Continue.", "Explain $question")
    first = publish(settings, [ANSWER, local])
    assert [(one.name, one.version, one.new) for one in first] == [
        ("answer", "v1", True),
        ("local", "v1", True),
    ]
    assert [one.new for one in publish(settings, [ANSWER, local])] == [False, False]
    (changed,) = publish(settings, [edited(ANSWER)])
    assert (changed.version, changed.new) == ("v2", True)
    with api(settings) as library:
        found = library.find("prompts/versions/retrieve", {"name": "answer"})
        (listed, _) = library.ask("GET", "prompts")["content"]
        project = library.ask("GET", f"projects/{listed['project_id']}")["name"]
    assert json.loads(found["template"]) == edited(ANSWER).messages()
    assert found["metadata"] == {"digest": "d2"}
    assert (found["template_structure"], project) == ("chat", "llm-twin")


def test_publishing_from_many_places_at_once_makes_one_version(settings):
    with ThreadPoolExecutor(8) as many:
        done = list(many.map(lambda _: publish(settings, [ANSWER]), range(16)))
    assert {one.version for published in done for one in published} == {"v1"}


def test_library_and_git_agree_after_publishing_and_not_before(settings):
    (missing,) = differences(settings, [ANSWER])
    assert (missing.name, missing.version) == ("answer", "")
    assert "+You are a twin." in missing.diff
    publish(settings, [ANSWER])
    assert differences(settings, [ANSWER]) == []


def test_an_edit_in_git_is_shown_as_a_diff_to_it(settings):
    publish(settings, [ANSWER])
    (found,) = differences(settings, [edited(ANSWER)])
    assert found.version == "v1"
    assert found.diff[:2] == ("--- Opik", "+++ Git")
    assert {"-You are a twin.", "+You are a good twin."} <= set(found.diff)
    assert " Question: {{question}}" in found.diff


def test_an_edit_in_the_library_is_found_and_published_over(settings):
    publish(settings, [ANSWER])
    theirs = [{"role": "user", "content": "Say anything"}]
    body = {"name": "answer", "template_structure": "chat"}
    with api(settings) as library:
        library.ask(
            "POST", "prompts/versions", {**body, "version": {"template": json.dumps(theirs)}}
        )
    (found,) = differences(settings, [ANSWER])
    assert found.version == "v2"
    assert "-Say anything" in found.diff
    assert publish(settings, [ANSWER])[0].version == "v3"
    assert differences(settings, [ANSWER]) == []


def test_a_text_prompt_of_the_same_name_differs_and_cannot_be_published_over(settings):
    with api(settings) as library:
        library.ask("POST", "prompts", {"name": "answer", "template": "Some text"})
    (found,) = differences(settings, [ANSWER])
    assert "-Some text" in found.diff
    with pytest.raises(RemoteError, match="answer is no chat prompt"):
        publish(settings, [ANSWER])


def test_the_configured_opik_is_the_library_when_there_is_one(server):
    assert publish(server, [ANSWER])[0].version == "v1"
    assert differences(server, [ANSWER]) == []
    assert not server.home.exists()


def test_a_wrong_key_is_named_with_what_to_check(server):
    with pytest.raises(RemoteError, match=r"Opik answered 401: .*Check TWIN_OPIK_KEY"):
        publish(replace(server, opik_key="wrong"), [ANSWER])
    with pytest.raises(RemoteError, match="Opik answered 401"):
        differences(replace(server, opik_key=""), [ANSWER])


def test_an_opik_that_is_not_there_is_an_error_with_what_to_check(tmp_path):
    settings = Settings(home=tmp_path, opik_url="http://127.0.0.1:9/api/")
    with pytest.raises(RemoteError, match=r"does not answer \(ConnectError\): http.*TWIN_OPIK_URL"):
        differences(settings, [ANSWER])


def test_the_commands_publish_and_check_the_templates_of_the_answer_path(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    with pytest.raises(Exit) as refused:
        check(Context())
    assert refused.value.code == 1
    assert str(refused.value) == (
        "error: library and Git disagree: answer, local. Type: invoke prompts.publish"
    )
    shown = capsys.readouterr().out
    assert "answer: not in the library" in shown
    assert "+You are the twin of one author." in shown
    publish_all(Context())
    publish_all(Context())
    check(Context())
    assert capsys.readouterr().out.splitlines() == [
        "answer v1 published",
        "local v1 published",
        "answer v1 unchanged",
        "local v1 unchanged",
        "library and Git agree: answer, local",
    ]


def test_a_library_that_cannot_be_reached_ends_the_command_with_code_1(monkeypatch, tmp_path):
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    monkeypatch.setenv("TWIN_OPIK_URL", "http://127.0.0.1:9/api/")
    with pytest.raises(Exit) as refused:
        publish_all(Context())
    assert refused.value.code == 1
    assert str(refused.value).startswith("error: Opik does not answer")


def test_the_commands_do_not_load_the_sdk(tmp_path):
    code = (
        "import sys; from invoke.context import Context; from ci.prompts import publish;"
        "publish(Context()); print([m for m in ('opik', 'zenml') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"TWIN_HOME": str(tmp_path), "PATH": ""},
        timeout=60,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
