"""The image of this repository, built by `invoke build-push`, answering in a locked container."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.integration.registry_fixtures import docker_registry, free_port
from tests.integration.test_build_push import promote

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(580)


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    with docker_registry(tmp_path_factory.mktemp("registry")) as host:
        yield host


@pytest.fixture(scope="module")
def invoke(tmp_path_factory, engine, base_image, host):
    """A line of a user, and its output; a twin about bread is promoted."""
    home = tmp_path_factory.mktemp("home")
    promote(home)
    env = {
        **os.environ, "TWIN_HOME": str(home), "TWIN_EMBEDDER": "words", "TWIN_REGISTRY": host,
        "TWIN_BASE_IMAGE": base_image, "TWIN_BUILD_NETWORK": "host",
        "DOCKER_HOST": engine.address.host,
    }  # fmt: skip

    def run(*words: str, code: int = 0, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *words],
            cwd=ROOT, env={**env, **more}, capture_output=True, text=True, timeout=500,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


@pytest.fixture(scope="module")
def pushed(invoke):
    shown = invoke("build-push")
    return re.search(r"pushed (\S+@sha256:[0-9a-f]{64})", shown)[1]


def test_it_answers_in_a_container_that_may_nothing(pushed, engine):
    port = free_port()
    made = engine.api.create_container(
        pushed,
        environment={"TWIN_PORTS": str(port), "TWIN_EMBEDDER": "words"},
        host_config=engine.api.create_host_config(
            read_only=True,
            cap_drop=["ALL"],
            network_mode="host",
            security_opt=["no-new-privileges"],
        ),
    )
    try:
        engine.api.start(made)
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.1)
        found = httpx.post(f"{url}/v1/ask", json={"question": "Why are rye loaves sticky?"}).json()
        assert [each["link"] for each in found["citations"]] == ["bread.md"]
        assert "pentosans" in found["text"]
        engine.api.stop(made, timeout=10)
        assert engine.api.wait(made)["StatusCode"] == 0
    finally:
        engine.api.remove_container(made, force=True)


def test_nothing_changed_nothing_built(invoke, pushed):
    assert f"nothing changed: {pushed}" in invoke("build-push")


def test_the_events_say_it_too(invoke, pushed, tmp_path):
    outputs = tmp_path / "outputs"
    lines = invoke("build-push", "--json", GITHUB_OUTPUT=str(outputs)).splitlines()
    results = [json.loads(line).get("result") for line in lines if line.startswith("{")]
    (found,) = [result for result in results if result and "digest" in result]
    assert found["reference"] == pushed
    assert outputs.read_text() == f"image={pushed}\n"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"DOCKER_HOST": "unix:///nowhere/docker.sock"}, "There is no container engine"),
        ({"TWIN_REGISTRY": "127.0.0.1:1"}, "no registry answers"),
        ({"TWIN_REPOSITORY": "Team/Twin"}, "repository"),
    ],
)
def test_what_cannot_be_done_ends_in_a_line_and_an_exit_code(invoke, change, sentence):
    shown = invoke("build-push", "--force", code=2, **change)
    assert sentence in shown
    assert "Traceback" not in shown
    assert "pushed" not in shown


def test_it_is_deployed_and_taken_away(invoke, pushed):
    port = free_port()
    shown = invoke("deploy", "--port", str(port))
    assert f"is live: http://127.0.0.1:{port}" in shown
    try:
        url = f"http://127.0.0.1:{port}/v1/ask"
        found = httpx.post(url, json={"question": "Why are rye loaves sticky?"}, timeout=30).json()
        assert found["version"] == "v1"
        assert pushed.partition("@sha256:")[2][:12] in invoke("deployments")
    finally:
        invoke("undeploy")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=30)


def test_it_is_small(pushed, engine):
    assert engine.api.inspect_image(pushed)["Size"] < 450e6
