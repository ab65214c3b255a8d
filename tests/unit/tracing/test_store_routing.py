"""Requests and answers: bodies of all kinds, paths nobody knows, what is private."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from store_calls import PROJECT, Caller, condition, parsed, row

from llm_twin.settings import Settings
from llm_twin.tracing.store import routing
from llm_twin.tracing.store.merge import new_id
from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

EMAIL, CARD = "jane.roe@example.org", "4111 1111 1111 1111"
KEY = "sk-proj-abcdefghijklmnop1234567890"  # pragma: allowlist secret


@pytest.fixture
def store(tmp_path: Path) -> Caller:
    return Caller(tmp_path)


def send(store: Store, body: bytes, **headers: str) -> str:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = store.handle(Request("POST", "v1/private/traces/batch", {}, names, body))
    return f"{answer.status} {parsed(answer)['message'] if answer.status >= 400 else ''}"


def test_a_body_may_be_gzip(store: Caller) -> None:
    body = gzip.compress(json.dumps({"traces": [row()]}).encode())
    assert send(store.store, body, content_encoding="gzip") == "204 "
    assert len(store.search("traces")) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "400 the body is no JSON"),
        (b"[]", "400 the body is no JSON object"),
        (b"\xff\xfe\xfa", "400 the body is no JSON"),
        (b'{"a": ' + b"[" * 100_000, "400 the body is no JSON"),
        (b'{"a": 1e999}', "400 the body is no JSON: 1e999 is too large a number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "400 the body is no JSON"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(store: Caller, body: bytes, words: str) -> None:
    assert send(store.store, body).startswith(words)


def test_a_body_that_is_no_gzip_or_cut_off_is_refused(store: Caller) -> None:
    whole = gzip.compress(b"{}" * 1000)
    assert send(store.store, b"{}", content_encoding="gzip").startswith("400 the body is no gzip")
    for broken in (whole[:-9], whole + b"more"):
        assert "cut off or has more" in send(store.store, broken, content_encoding="gzip")
    assert send(store.store, b"{}", content_encoding="br").startswith("415")


def test_a_body_of_more_than_the_limit_is_refused_packed_or_not(tmp_path: Path) -> None:
    store = Store(tmp_path, body_limit=1000)
    words = "413 the body has more than 1000 bytes; send it in smaller parts"
    assert send(store, b" " * 1001) == words
    assert send(store, gzip.compress(b" " * 10**7), content_encoding="gzip") == words
    assert send(store, b'{"traces": []}' + b" " * 900) == "204 "


def test_texts_that_are_no_utf8_and_numbers_that_are_none_are_stored(store: Caller) -> None:
    trace = row()
    text = json.dumps({"traces": [trace | {"input": {"half": "\ud800", "none": 0}}]})
    body = text.replace('"none": 0', '"none": NaN').encode()
    assert send(store.store, body) == "204 "
    [found] = store.search("traces")
    assert found["input"] == {"half": "?", "none": None}


def test_a_path_that_nobody_knows_is_not_found(store: Caller) -> None:
    assert store.refusal("GET", "nowhere") == "404 no such path: GET v1/private/nowhere"
    assert store.refusal("POST", f"traces/{new_id()}").startswith("404 no such path: POST")


def test_a_function_that_fails_is_an_answer_and_a_line_in_the_log(
    store: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(routing, "answer", lambda store, request: 1 / 0)
    assert store.refusal("GET", "traces") == (
        "500 the store failed at GET v1/private/traces; see its log"
    )
    assert "ZeroDivisionError" in caplog.text


VALUES = [None, 3, -1, "x", "", [], {}, [None], [{}], {"a": {}}, True, 10**30, "\0", [["x"]]]


def test_no_malformed_request_makes_the_store_fail(store: Caller) -> None:
    store.traces(row(thread_id="t"))
    chosen = random.Random(8)
    names = (
        "ids id traces spans scores update tags name value project_name project_id thread_id"
        " thread_ids filters limit last_retrieved_id entity_type entity_id file_name file_names"
        " path truncate exclude sorting page size text names author assertion_results guardrails"
        " from_time to_time search trace_id start_time usage error_info tags_to_add input"
    )
    fields = names.split()
    paths = [(method, path) for method, path in routing._exact]
    paths += [
        (method, pattern.pattern.replace("\\", "")) for method, pattern, _ in routing._patterns
    ]
    mine = ("traces", "spans", "projects", "attachment", "guardrails", "assertion-results")
    paths = [(method, path) for method, path in paths if path.split("/")[2:3] and
             path.split("/")[2] in mine]  # fmt: skip
    assert len(paths) > 60
    for method, path in paths:
        for _ in range(20):
            body = {name: chosen.choice(VALUES) for name in chosen.sample(fields, 6)}
            for rows in ("traces", "spans", "scores"):
                if chosen.random() < 0.5:
                    body[rows] = [{"id": new_id(), **body}]
            query = {name: str(chosen.choice(VALUES)) for name in chosen.sample(fields, 6)}
            filled = "/".join(
                chosen.choice([new_id(), "x", "%00"]) if "(" in part else part
                for part in path.split("/")
            )
            sent = Request(method, filled, query, {}, json.dumps(body).encode())
            answer = store.store.handle(sent)
            b"".join([answer.body] if isinstance(answer.body, bytes) else answer.body)
            assert answer.status < 500, (method, filled, query, body, answer)


def test_what_is_private_is_nowhere_whoever_sends_it(store: Caller, tmp_path: Path) -> None:
    secret = f"{EMAIL}, {CARD}, {KEY}"
    trace = row(
        name=secret, input={"deep": [{secret: secret}]}, output=secret, metadata={"a": secret},
        tags=[secret], thread_id=EMAIL, environment="prod",
        error_info={"exception_type": "E", "message": secret, "traceback": secret},
    )  # fmt: skip
    store.traces(trace)
    store.spans(trace | {"trace_id": trace["id"], "id": new_id(), "model": secret})
    store.do("PATCH", f"traces/{trace['id']}", {"project_name": PROJECT, "output": {"b": secret}})
    store.do("POST", "traces", row(input=secret))
    one = {"id": trace["id"], "name": "good", "value": 1, "reason": secret}
    store.do("PUT", "traces/feedback-scores", {"scores": [one]})
    thread = {"thread_id": EMAIL, "name": "good", "value": 1, "project_name": PROJECT}
    store.do("PUT", "traces/threads/feedback-scores", {"scores": [thread | {"reason": secret}]})
    store.do("POST", f"traces/{trace['id']}/comments", {"text": secret})
    results = [{"entity_id": trace["id"], "name": "n", "status": "passed", "reason": secret}]
    store.do("PUT", "assertion-results", {"entity_type": "TRACE", "assertion_results": results})
    checks = [{"entity_id": trace["id"], "name": "PII", "result": "failed", "details": secret}]
    store.do("POST", "guardrails", {"guardrails": checks})
    items = [{"id": new_id(), "source": "manual", "data": {"question": secret}}]
    store.do("PUT", "datasets/items", {"dataset_name": "d", "items": items})
    answer = store.ask("GET", f"projects/{EMAIL}")
    assert answer.status == 404
    [found] = store.search("traces", condition("thread_id", "=", EMAIL))
    assert found["feedback_scores"][0]["reason"] == "[EMAIL], [CARD], [KEY]"
    for path in tmp_path.rglob("*"):
        data = path.read_bytes() if path.is_file() else b""
        for planted in (EMAIL, CARD, KEY):
            assert planted.encode() not in data, (path, planted)


def test_ids_times_and_the_names_of_projects_stay_as_they_are(store: Caller) -> None:
    named = "run 20261123-144608 0171 1234567"
    trace = row(project_name=named)
    store.traces(trace)
    [found] = store.search("traces", project_name=named)
    assert found["id"] == trace["id"]
    project = store.do("POST", "projects/retrieve", {"name": named})
    assert project["name"] == named


def test_what_its_sender_redacted_is_taken_as_it_is(tmp_path: Path) -> None:
    settings = Settings.load({"TWIN_HOME": str(tmp_path), "TWIN_TRACE_PATTERNS": "secret-\\d+"})
    store = Store(tmp_path, settings)
    for redacted in (False, True):
        body = json.dumps({"traces": [row(input="secret-1")]}).encode()
        sent = Request("POST", "v1/private/traces/batch", body=body, redacted=redacted)
        assert store.handle(sent).status == 204
    query = {"project_name": PROJECT}
    listed = parsed(store.handle(Request("GET", "v1/private/traces", query)))["content"]
    assert [one["input"] for one in listed] == ["secret-1", "[REDACTED]"]
