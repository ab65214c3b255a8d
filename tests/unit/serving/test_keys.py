"""API keys: who is let in, and what the others are told."""

from __future__ import annotations

from pathlib import Path

import pytest
from running_service import QUESTION
from starlette.testclient import TestClient

from llm_twin.errors import ConfigError
from llm_twin.serving.api import create_app
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings

KEYS = "first-key, second-key"  # pragma: allowlist secret
PATHS = [
    ("POST", "/v1/ask"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("POST", "/v1/feedback"),
    ("POST", "/invocations"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/nothing"),
]


def client_of(home: Path, twin: Twin, keys: str) -> TestClient:
    return TestClient(create_app(Settings(home=home, api_keys=keys), twin))


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer third-key", "Basic first-key", "Bearer ä"]
)
@pytest.mark.parametrize(("method", "path"), PATHS)
def test_without_a_key_nothing_is_answered(
    words_twin: Twin, tmp_path: Path, method: str, path: str, header: str
) -> None:
    headers = {"Authorization": header.encode("latin-1")} if header else {}
    asked = client_of(tmp_path, words_twin, KEYS).request(method, path, headers=headers)

    assert asked.status_code == 401
    assert asked.headers["www-authenticate"] == "Bearer"
    assert "an API key is needed, sent as: Authorization: Bearer KEY" in asked.text


@pytest.mark.parametrize("header", ["Bearer first-key", "bearer  second-key "])
def test_each_key_is_accepted(words_twin: Twin, tmp_path: Path, header: str) -> None:
    client = client_of(tmp_path, words_twin, KEYS)
    headers = {"Authorization": header}

    assert client.post("/v1/ask", json={"question": QUESTION}, headers=headers).status_code == 200
    assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/ping"])
def test_probes_need_none(words_twin: Twin, tmp_path: Path, path: str) -> None:
    assert client_of(tmp_path, words_twin, KEYS).get(path).status_code == 200


@pytest.mark.parametrize("keys", ["", " , "])
def test_without_keys_everyone_is_answered(words_twin: Twin, tmp_path: Path, keys: str) -> None:
    asked = client_of(tmp_path, words_twin, keys).post("/v1/ask", json={"question": QUESTION})
    assert asked.status_code == 200


def test_the_openai_api_says_it_in_its_own_shape(words_twin: Twin, tmp_path: Path) -> None:
    refused = client_of(tmp_path, words_twin, KEYS).get("/v1/models")
    assert refused.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("keys", ["key with blanks", "schlüssel", "a\tb"])
def test_a_key_that_no_header_carries_is_refused(tmp_path: Path, keys: str) -> None:
    with pytest.raises(ConfigError, match="TWIN_API_KEYS") as refused:
        create_app(Settings(home=tmp_path, api_keys=keys))

    assert keys not in str(refused.value)
