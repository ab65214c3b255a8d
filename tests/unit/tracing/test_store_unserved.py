"""Every operation that the SDK's generated client knows is answered or refused in words."""

import importlib.util
import re
from pathlib import Path

import pytest

from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

CALL = re.compile(r'\.(?:request|stream)\(\s*f?"([^"]*)".*?method="([A-Z]+)"', re.DOTALL)

KEPT_WHOLLY = tuple(
    f"v1/private/{area}"
    for area in ("prompts", "environments", "attachment", "assertion-results", "guardrails", "auth")
)


def operations():
    """Method and path of each, read from the source of the client's raw_client modules."""
    (package,) = importlib.util.find_spec("opik").submodule_search_locations
    found = set()
    for module in Path(package, "rest_api").rglob("raw_client.py"):
        source, _, _ = module.read_text().partition("class AsyncRaw")
        found |= {(method, path) for path, method in CALL.findall(source)}
    return sorted((method, re.sub(r"{.*?}", "x", path)) for method, path in found)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path)
    yield opened
    opened.close()


def test_the_client_has_as_many_operations_as_were_looked_through():
    assert len(operations()) >= 318


def test_each_operation_is_served_or_refused_with_501_and_what_is_missing(store):
    for method, path in operations():
        answer = store.handle(Request(method, path))
        words = answer.body.decode() if isinstance(answer.body, bytes) else ""
        assert "no such path" not in words, f"nobody answers {method} {path}"
        if answer.status == 501:
            assert f"are not kept by this store: {method} {path}" in words
            assert not path.startswith(KEPT_WHOLLY)


@pytest.mark.parametrize(
    ("method", "path", "what"),
    [
        ("GET", "v1/private/annotation-queues", "annotation queues"),
        ("PUT", "v1/private/annotation-queues/1/items/2/lock", "annotation queues"),
        ("POST", "v1/private/optimizations", "optimizations"),
        ("GET", "v1/private/dashboards/7", "dashboards"),
        ("GET", "v1/private/traces/stats", "statistics"),
        ("GET", "v1/private/datasets/export-jobs", "exports of datasets made by the server"),
        ("GET", "v1/session/redirect/projects/", "web pages (type: invoke traces.show)"),
        ("GET", "v1/private/projects/7/datasets", "lists by project other than of prompts"),
    ],
)
def test_what_is_missing_is_named(store, method, path, what):
    answer = store.handle(Request(method, path))
    assert answer.status == 501
    assert f'"code":501,"message":"{what} are not kept by this store' in answer.body.decode()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "v1/private/unheard-of"),
        ("GET", "v1/private/alertsandmore"),
        ("POST", "is-alive/ping"),
        ("GET", ""),
        ("GET", "../traces.db"),
    ],
)
def test_a_path_that_nobody_knows_is_a_404(store, method, path):
    answer = store.handle(Request(method, path))
    assert answer.status == 404
    assert '"code":404,"message":"no such path' in answer.body.decode()
