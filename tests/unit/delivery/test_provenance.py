"""The provenance statement: what is in it, what never gets in, and what is refused."""

from __future__ import annotations

import json
import re

import pytest

from llm_twin.delivery.provenance import (
    KIND,
    LAPTOP,
    PREDICATE,
    Provenance,
    facts,
    origin,
    problem,
    subject,
)

DIGEST = "sha256:" + "a1" * 32
COMMIT = "c0ffee" * 6 + "c0ff"
MADE = {
    "name": "localhost:5000/llm-twin", "digest": DIGEST, "source_tag": "src-1", "commit": COMMIT,
    "dirty": True, "base": "python:3.11-slim-bookworm", "base_digest": "sha256:" + "b2" * 32,
    "model_version": "v7", "dataset_digest": "d5", "gate": {"verdict": "promoted"},
    "target": "serve", "platform": "linux/amd64", "build_args": {"TORCH": "2.13.0"},
    "started": "2026-11-23T12:00:00+00:00", "finished": "2026-11-23T12:01:00+00:00",
}  # fmt: skip
JOB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SERVER_URL": "https://github.com",
    "GITHUB_REPOSITORY": "me/twin",
    "GITHUB_RUN_ID": "42",
    "GITHUB_RUN_ATTEMPT": "2",
    "GITHUB_WORKFLOW_REF": "me/twin/.github/workflows/cd.yml@refs/heads/main",
    "GITHUB_TOKEN": "not-to-be-seen",  # pragma: allowlist secret
}


def test_a_statement_says_who_built_what_of_what() -> None:
    data = Provenance(**MADE, **origin(JOB)).document()

    assert problem(data) == ""
    statement = json.loads(data)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [{"name": MADE["name"], "digest": {"sha256": "a1" * 32}}]
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {
        "sourceTag": "src-1", "target": "serve", "platform": "linux/amd64",
        "buildArgs": {"TORCH": "2.13.0"},
    }  # fmt: skip
    assert definition["resolvedDependencies"] == [
        {"name": "source", "uri": "git+https://github.com/me/twin",
         "digest": {"gitCommit": COMMIT}, "annotations": {"dirty": True}},
        {"name": "base", "uri": "docker://python:3.11-slim-bookworm",
         "digest": {"sha256": "b2" * 32}},
        {"name": "bundle", "uri": "urn:llm-twin:model:v7",
         "annotations": {"modelVersion": "v7", "datasetDigest": "d5",
                         "gate": {"verdict": "promoted"}}},
    ]  # fmt: skip
    assert statement["predicate"]["runDetails"] == {
        "builder": {"id": "https://github.com/me/twin/.github/workflows/cd.yml@refs/heads/main"},
        "metadata": {
            "invocationId": "https://github.com/me/twin/actions/runs/42/attempts/2",
            "startedOn": MADE["started"], "finishedOn": MADE["finished"],
        },
    }  # fmt: skip
    assert KIND == "application/vnd.in-toto+json"


def test_a_statement_about_several_images_is_about_none() -> None:
    two = [{"name": "x", "digest": {"sha256": "a1" * 32}}] * 2

    assert subject(changed("subject", value=two)) == "several images"


def test_a_laptop_has_no_name() -> None:
    assert origin({"USER": "me", "HOSTNAME": "desk"}) == {}
    first, second = (Provenance(**MADE) for _ in range(2))
    assert first.builder == LAPTOP
    assert first.invocation.startswith("urn:uuid:")
    assert first.invocation != second.invocation


def test_a_login_and_what_is_named_like_a_secret_never_get_in(monkeypatch) -> None:
    monkeypatch.setenv("SOMETHING", "hidden-one")
    made = {
        **MADE,
        "repository": "https://me:hidden-two@github.com/me/twin",  # pragma: allowlist secret
        "build_args": {
            "INDEX": "https://me:hidden-three@example.org/packages",  # pragma: allowlist secret
            "API_TOKEN": "hidden-four",  # pragma: allowlist secret
        },
    }
    data = Provenance(**made).document()

    assert b"hidden" not in data
    assert b"git+https://github.com/me/twin" in data
    assert b'{"INDEX":"https://example.org/packages"}' in data


def test_what_a_statement_says_is_read_back() -> None:
    data = Provenance(**MADE).document()

    assert subject(data) == DIGEST
    assert facts(data) == {
        "commit": COMMIT, "source tag": "src-1", "base digest": "b2" * 32, "model version": "v7",
        "dataset digest": "d5", "gate": {"verdict": "promoted"},
    }  # fmt: skip


def changed(*path, value):
    statement = json.loads(Provenance(**MADE).document())
    place = statement
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return json.dumps(statement).encode()


DEFINITION = ("predicate", "buildDefinition")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "it is no JSON"),
        (b"\xff", "it is no JSON"),
        (b"[]", "it: \\[\\] is not of type 'object'"),
        (changed("_type", value="x"), "_type: 'https://in-toto.io/Statement/v1' was expected"),
        (changed("subject", value=[]), "subject: "),
        (changed("subject", 0, "digest", "sha256", value="short"), "subject.0.digest.sha256: "),
        (changed(*DEFINITION, "resolvedDependencies", value=[{"name": "x"}] * 2), "too short"),
        (
            changed(*DEFINITION, "resolvedDependencies", value=[{"name": "x"}] * 3),
            "resolvedDependencies.2",
        ),
        (changed(*DEFINITION, "externalParameters", value={}), "'sourceTag' is a required"),
        (changed("predicate", "runDetails", "builder", value={}), "'id' is a required"),
    ],
)
def test_what_is_no_statement_is_said(data, words) -> None:
    assert re.search(words, problem(data))
