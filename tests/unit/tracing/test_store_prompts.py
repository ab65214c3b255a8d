"""The prompt library of the store: versions, masks, environments, history, and what it refuses."""

import json
import re

import pytest

from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

PROMPTS = "v1/private/prompts"
VERSIONS = f"{PROMPTS}/versions"


class Client:
    """Speaks to a store in requests and JSON."""

    def __init__(self, store):
        self.store = store

    def send(self, method, path, body=None, **query):
        request = Request(method, path, query, {}, json.dumps(body).encode() if body else b"")
        answer = self.store.handle(request)
        return answer.status, json.loads(answer.body) if answer.body else None

    def get(self, path, **query):
        status, answer = self.send("GET", path, **query)
        assert status == 200, answer
        return answer

    def post(self, path, body):
        status, answer = self.send("POST", path, body)
        assert status < 300, answer
        return answer

    def add(self, name, template, **version):
        structure = (
            {"template_structure": version.pop("structure")} if "structure" in version else {}
        )
        return self.post(
            VERSIONS, {"name": name, "version": {"template": template, **version}, **structure}
        )

    def retrieve(self, name, **choice):
        return self.post(f"{VERSIONS}/retrieve", {"name": name, **choice})

    def history(self, prompt_id, **query):
        return self.get(f"{PROMPTS}/{prompt_id}/versions", **query)["content"]

    def environment(self, name):
        self.post("v1/private/environments", {"name": name})


@pytest.fixture
def client(tmp_path):
    store = Store(tmp_path)
    yield Client(store)
    store.close()


def test_a_prompt_begins_with_v1_and_a_commit_of_eight_hex_digits(client):
    made = client.add("greeting", "Hello {{name}}", metadata={"team": {"lead": "Ada"}})
    assert made["version_number"] == "v1"
    assert re.fullmatch("[0-9a-f]{8}", made["commit"])
    assert made["commit"] == made["id"][-8:]
    assert made["template"] == "Hello {{name}}"
    assert made["metadata"] == {"team": {"lead": "Ada"}}
    assert (made["type"], made["template_structure"]) == ("mustache", "text")
    assert client.retrieve("greeting") == made


def test_a_changed_prompt_makes_a_version_and_an_unchanged_one_does_not(client):
    first = client.add("greeting", "Hello", metadata={"a": 1})
    assert client.add("greeting", "Hello", metadata={"a": 1}) == first
    assert client.add("greeting", "Hello", metadata={"a": 2})["version_number"] == "v2"
    assert (
        client.add("greeting", "Hello", metadata={"a": 2}, type="jinja2")["version_number"] == "v3"
    )
    again = client.add("greeting", "Hello", metadata={"a": 1})
    assert again["version_number"] == "v4"
    assert len(client.history(first["prompt_id"])) == 4


def test_a_version_is_found_by_commit_number_and_environment(client):
    first, second = client.add("p", "one"), client.add("p", "two")
    client.environment("production")
    status, _ = client.send(
        "PATCH", f"{VERSIONS}/{first['id']}/environments", {"environments": ["production"]}
    )
    assert status == 204
    assert client.retrieve("p")["id"] == second["id"]
    assert client.retrieve("p", commit=first["commit"])["template"] == "one"
    assert client.retrieve("p", version_number="v2")["template"] == "two"
    assert client.retrieve("p", environment="production")["environments"] == ["production"]
    path = f"{PROMPTS}/{first['prompt_id']}/versions/by-number/v1"
    assert client.get(path)["id"] == first["id"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "unknown"}, "Prompt not found: unknown"),
        ({"name": "p", "commit": "00000000"}, "Prompt version not found: 00000000"),
        ({"name": "p", "version_number": "v7"}, "Prompt version not found: v7"),
        ({"name": "p", "environment": "staging"}, "Prompt version not found: staging"),
    ],
)
def test_what_is_not_there_is_a_404_that_names_it(client, body, words):
    client.add("p", "one")
    status, answer = client.send("POST", f"{VERSIONS}/retrieve", body)
    assert (status, answer["message"]) == (404, words)


def test_a_prompt_may_be_made_without_a_version(client):
    client.post(PROMPTS, {"name": "empty", "template_structure": "chat"})
    (prompt,) = client.get(PROMPTS)["content"]
    assert prompt["version_count"] == 0
    detail = client.get(f"{PROMPTS}/{prompt['id']}")
    assert detail["latest_version"] is None
    status, answer = client.send("POST", f"{VERSIONS}/retrieve", {"name": "empty"})
    assert (status, answer["message"]) == (404, "Prompt version not found: there is none yet")
    assert client.add("empty", "[]", structure="chat")["version_number"] == "v1"


def test_tags_and_description_given_with_a_new_prompt_are_the_prompts_own(client):
    given = {"name": "p", "template": "x", "tags": ["a", "b"], "description": "What it is for"}
    client.post(PROMPTS, given)
    (prompt,) = client.get(PROMPTS)["content"]
    assert (prompt["tags"], prompt["description"]) == (["a", "b"], "What it is for")
    assert prompt["version_count"] == 1
    assert client.retrieve("p")["tags"] is None


def test_a_mask_is_hidden_and_found_by_its_id(client):
    first = client.add("p", "plain")
    mask = client.add("p", "masked", version_type="mask")
    assert (mask["version_type"], mask["version_number"]) == ("mask", None)
    assert client.retrieve("p")["id"] == first["id"]
    assert [row["id"] for row in client.history(first["prompt_id"])] == [first["id"]]
    assert client.get(f"{VERSIONS}/{mask['id']}")["template"] == "masked"
    detail = client.get(f"{PROMPTS}/{first['prompt_id']}", mask_id=mask["id"])
    assert detail["requested_version"]["template"] == "masked"
    assert detail["latest_version"]["template"] == "plain"
    assert client.add("p", "next")["version_number"] == "v2"
    status, _ = client.send(
        "POST", VERSIONS, {"name": "none", "version": {"template": "x", "version_type": "mask"}}
    )
    assert status == 404


def test_an_environment_belongs_to_one_version_of_a_prompt_at_a_time(client):
    first, second, other = client.add("p", "one"), client.add("p", "two"), client.add("q", "x")
    for name in ("production", "staging"):
        client.environment(name)

    def give(version, *names):
        path = f"{VERSIONS}/{version['id']}/environments"
        return client.send("PATCH", path, {"environments": names})[0]

    def owned():
        return [client.get(f"{VERSIONS}/{v['id']}")["environments"] for v in (first, second, other)]

    assert give(first, "production", "staging") == give(other, "production") == 204
    assert owned() == [["production", "staging"], None, ["production"]]
    give(second, "production")
    assert owned() == [["staging"], ["production"], ["production"]]
    assert give(second, "staging", "nowhere") == 404
    assert owned() == [["staging"], ["production"], ["production"]]
    give(second)
    assert owned() == [["staging"], None, ["production"]]
    detail = client.get(f"{PROMPTS}/{first['prompt_id']}", environment="staging")
    assert detail["requested_version"]["id"] == first["id"]


def test_a_version_that_comes_with_environments_registers_them(client):
    made = client.add("p", "one", environments=["canary"])
    assert made["environments"] == ["canary"]
    assert [row["name"] for row in client.get("v1/private/environments")["content"]] == ["canary"]
    assert client.add("p", "two", environments=["canary"])["environments"] == ["canary"]
    assert client.get(f"{VERSIONS}/{made['id']}")["environments"] is None
    assert client.add("p", "two", environments=["live"])["environments"] == ["canary", "live"]
    assert len(client.history(made["prompt_id"])) == 2


def test_renaming_and_deleting_an_environment_is_seen_by_its_versions(client):
    made = client.add("p", "one", environments=["canary"])
    (row,) = client.get("v1/private/environments")["content"]
    client.send("PATCH", f"v1/private/environments/{row['id']}", {"name": "pilot"})
    assert client.retrieve("p", environment="pilot")["id"] == made["id"]
    client.post("v1/private/environments/delete", {"ids": [row["id"]]})
    assert client.retrieve("p")["environments"] is None


def test_the_history_is_newest_first_searched_filtered_and_paged(client):
    for number in range(5):
        version = client.add("p", f"text {number}", metadata={"even": number % 2 == 0})
    prompt_id = version["prompt_id"]
    client.add("p", "other", change_description="Say text nicely")
    assert [row["version_number"] for row in client.history(prompt_id)][:2] == ["v6", "v5"]
    assert len(client.history(prompt_id, search="TEXT")) == 6
    assert len(client.history(prompt_id, search="other")) == 1
    second = client.get(f"{PROMPTS}/{prompt_id}/versions", page="2", size="4")
    assert (second["total"], len(second["content"])) == (6, 2)
    odd = [{"field": "metadata", "key": "even", "operator": "=", "value": "false"}]
    found = client.history(prompt_id, filters=json.dumps(odd))
    assert [row["version_number"] for row in found] == ["v4", "v2"]


def test_tags_of_versions_are_replaced_added_to_cleared_or_left(client):
    ids = [client.add("p", text)["id"] for text in ("one", "two")]

    def tags(update, **more):
        body = {"ids": ids, "update": {"tags": update}, **more}
        assert client.send("PATCH", VERSIONS, body)[0] == 204
        rows = client.post(f"{VERSIONS}/retrieve-by-ids", {"ids": ids})
        return {tuple(row["tags"]) for row in rows}

    assert tags(["a", "b"]) == {("a", "b")}
    assert tags(["b", "c"], merge_tags=True) == {("a", "b", "c")}
    assert tags(None, merge_tags=True) == tags(None) == {("a", "b", "c")}
    assert tags([]) == {()}
    status, answer = client.send("PATCH", VERSIONS, {"ids": ids, "update": {"tags": "a"}})
    assert (status, answer["message"]) == (400, "tags is no list")


def test_restoring_a_version_makes_its_text_the_newest(client):
    first, second = client.add("p", "one", metadata={"a": 1}), client.add("p", "two")
    restore = f"{PROMPTS}/{first['prompt_id']}/versions/{first['id']}/restore"
    restored = client.post(restore, {})
    assert restored["version_number"] == "v3"
    assert (restored["template"], restored["metadata"]) == ("one", {"a": 1})
    assert restored["change_description"] == "Restored from version v1"
    other = client.add("q", "x")["prompt_id"]
    path = f"{PROMPTS}/{other}/versions/{second['id']}/restore"
    assert client.send("POST", path)[0] == 404


def test_commits_of_another_place_are_kept(client):
    made = client.add("p", "one", commit="0123abcd")
    assert made["commit"] == "0123abcd"
    assert client.add("p", "one", commit="4567abcd")["version_number"] == "v2"
    found = client.get(f"{PROMPTS}/by-commit/0123abcd")
    assert (found["name"], found["requested_version"]["id"]) == ("p", made["id"])
    assert client.send("GET", f"{PROMPTS}/by-commit/99999999")[0] == 404
    (link,) = client.post(f"{PROMPTS}/retrieve-by-commits", {"commits": ["0123abcd", "no"]})
    assert (link["prompt_name"], link["prompt_version_id"]) == ("p", made["id"])


def test_a_prompt_can_be_renamed_described_and_deleted(client):
    made = client.add("p", "one", environments=["canary"])
    client.add("q", "x")
    path = f"{PROMPTS}/{made['prompt_id']}"
    client.send("PUT", path, {"name": "p", "tags": ["a"], "description": "d"})
    assert client.send("PUT", path, {"name": "q"})[0] == 409
    assert client.send("PUT", path, {"name": "r"})[0] == 204
    shown = client.get(path)
    assert (shown["name"], shown["tags"], shown["description"]) == ("r", ["a"], None)
    assert client.send("DELETE", path)[0] == 204
    assert client.send("GET", path)[0] == client.send("GET", f"{VERSIONS}/{made['id']}")[0] == 404
    (left,) = client.get(PROMPTS)["content"]
    client.post(f"{PROMPTS}/delete", {"ids": [left["id"]]})
    assert client.get(PROMPTS)["content"] == []


def test_prompts_are_listed_by_name_project_and_filter(client):
    for name, project in (("alpha-one", "A"), ("alpha-two", "B"), ("beta", "B")):
        client.post(PROMPTS, {"name": name, "project_name": project, "template": "x"})

    def names(**query):
        return [row["name"] for row in client.get(PROMPTS, **query)["content"]]

    assert names() == ["beta", "alpha-two", "alpha-one"]
    assert names(name="ALPHA") == ["alpha-two", "alpha-one"]
    project = client.post("v1/private/projects/retrieve", {"name": "B"})["id"]
    assert names(project_id=project) == ["beta", "alpha-two"]
    listed = client.get(f"v1/private/projects/{project}/prompts")["content"]
    assert [row["name"] for row in listed] == ["beta", "alpha-two"]
    wanted = [{"field": "name", "operator": "starts_with", "value": "alpha"}]
    assert names(filters=json.dumps(wanted), sorting='[{"field":"name","direction":"ASC"}]') == [
        "alpha-one",
        "alpha-two",
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (PROMPTS, {"name": " "}, 400, "name is a text of 1 to 255 characters"),
        (PROMPTS, {"name": "p"}, 409, "Prompt already exists: p"),
        (PROMPTS, {"name": "n", "template_structure": "poem"}, 400, "text or chat"),
        (PROMPTS, {"name": "n", "id": "../../etc"}, 400, "id is no UUID"),
        (VERSIONS, {"name": "p", "version": {}}, 400, "template is a text"),
        (VERSIONS, {"name": "p", "version": "v1"}, 400, "version is no object"),
        (VERSIONS, {"name": "p", "version": {"template": "x", "tags": 1}}, 400, "tags is no list"),
        (VERSIONS, {"name": "n", "version": {"template": "x", "environments": [1]}}, 400, "texts"),
        (VERSIONS, {"name": "p", "version": {"template": "x", "commit": "a"}}, 400, "8 letters"),
        (
            VERSIONS,
            {"name": "p", "version": {"template": "x", "commit": "0123abcd"}},
            409,
            "has this version already: 0123abcd",
        ),
        (
            VERSIONS,
            {"name": "p", "template_structure": "chat", "version": {"template": "[]"}},
            409,
            "p is no chat prompt, and cannot become one",
        ),
    ],
)
def test_what_is_wrong_is_refused_in_words_and_changes_nothing(client, path, body, status, words):
    prompt_id = client.add("p", "one", commit="0123abcd")["prompt_id"]
    refused, answer = client.send("POST", path, body)
    assert refused == status
    assert words in answer["message"]
    assert [row["name"] for row in client.get(PROMPTS)["content"]] == ["p"]
    assert len(client.history(prompt_id)) == 1


def test_prompts_are_there_after_the_store_was_opened_again(client, tmp_path):
    made = client.add("p", "one")
    client.store.close()
    again = Client(Store(tmp_path))
    assert again.retrieve("p") == made
    again.store.close()
