"""What clients ask a store about itself, and the environments of its workspace."""

import json
import uuid

import pytest

from llm_twin.settings import Settings
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

ENVIRONMENTS = "v1/private/environments"


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path, Settings(home=tmp_path, opik_workspace="team"))
    yield opened
    opened.close()


def send(store, method, path, body=None, workspace=None):
    headers = {"comet-workspace": workspace} if workspace else {}
    content = json.dumps(body).encode() if body else b""
    answer = store.handle(Request(method, path, {}, headers, content))
    return answer.status, json.loads(answer.body) if answer.body else None


def test_the_ping_is_answered_with_200_because_the_sdk_takes_nothing_else_for_alive(store):
    status, answer = send(store, "GET", "is-alive/ping")
    assert (status, answer["healthy"]) == (200, True)


def test_the_version_is_that_of_the_pinned_sdk(store):
    from importlib.metadata import version

    assert send(store, "GET", "is-alive/ver") == (200, {"version": version("opik")})


@pytest.mark.parametrize("workspace", [None, "default", "team"])
def test_access_is_given_to_the_workspaces_that_there_are(store, workspace):
    assert send(store, "POST", "v1/private/auth", {}, workspace) == (204, None)
    status, answer = send(store, "GET", "v1/private/auth/workspace", None, workspace)
    assert (status, answer) == (200, {"workspace_name": workspace or "default"})


def test_another_workspace_is_refused_with_the_names_of_those_there_are(store, tmp_path):
    status, answer = send(store, "POST", "v1/private/auth", {}, "elsewhere")
    assert status == 403
    assert answer["message"] == "no such workspace: elsewhere; this store has default, team"
    bare = Store(tmp_path / "bare")
    assert send(bare, "POST", "v1/private/auth", {}, "team")[0] == 403
    bare.close()


def test_an_environment_is_made_listed_changed_and_deleted(store):
    first = str(uuid.uuid4())
    body = {"id": first, "name": "production", "description": "Live", "color": "#00ff00"}
    assert send(store, "POST", ENVIRONMENTS, body)[0] == 201
    assert send(store, "POST", ENVIRONMENTS, {"name": "pilot", "position": 2})[0] == 201
    listed = send(store, "GET", ENVIRONMENTS)[1]
    assert [row["name"] for row in listed["content"]] == ["production", "pilot"]
    assert listed["total"] == 2
    assert send(store, "PATCH", f"{ENVIRONMENTS}/{first}", {"description": "Ours"})[0] == 204
    shown = send(store, "GET", f"{ENVIRONMENTS}/{first}")[1]
    assert (shown["name"], shown["description"]) == ("production", "Ours")
    assert shown["color"] == "#00ff00"
    assert shown["created_at"] <= shown["last_updated_at"]
    assert send(store, "POST", f"{ENVIRONMENTS}/delete", {"ids": [first]})[0] == 204
    status, answer = send(store, "GET", f"{ENVIRONMENTS}/{first}")
    assert (status, answer["message"]) == (404, f"Environment not found: {first}")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"name": "pilot"}, 409, "Environment already exists: pilot"),
        ({"name": "with space"}, 400, "letters, digits, dashes or underscores"),
        ({}, 400, "name has 1 to 150"),
        ({"name": "x", "id": "no"}, 400, "id is no UUID"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(store, body, status, words):
    send(store, "POST", ENVIRONMENTS, {"name": "pilot"})
    refused, answer = send(store, "POST", ENVIRONMENTS, body)
    assert refused == status
    assert words in answer["message"]
    assert len(send(store, "GET", ENVIRONMENTS)[1]["content"]) == 1


def test_an_environment_cannot_take_the_name_of_another(store):
    for name in ("one", "two"):
        send(store, "POST", ENVIRONMENTS, {"name": name})
    second = send(store, "GET", ENVIRONMENTS)[1]["content"][1]["id"]
    assert send(store, "PATCH", f"{ENVIRONMENTS}/{second}", {"name": "one"})[0] == 409
    assert send(store, "GET", f"{ENVIRONMENTS}/{second}")[1]["name"] == "two"
