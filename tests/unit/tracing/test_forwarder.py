import json
import threading

import pytest
from remotes import RemoteStore, ask, attach, rows, score, serving, span, trace

from llm_twin.errors import BusyError, ConfigError
from llm_twin.settings import Settings
from llm_twin.tracing import forwarder, outbox, remote, upkeep
from llm_twin.tracing.forwarder import Forwarder, Halted, Later
from llm_twin.tracing.status import status
from llm_twin.tracing.store.merge import new_id, now
from llm_twin.tracing.store.routing import Response, problem
from llm_twin.tracing.store.store import Store


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(forwarder, "FIRST_WAIT", 0.01)


ENTITIES = (
    "SELECT id, json_remove(body, '$.start_time') FROM trace",
    "SELECT id, trace_id, body FROM span",
    "SELECT kind, name, author, value, reason FROM score",
    "SELECT kind, entity, name, mime, size FROM attachment",
    "SELECT id, kind, entity, json_extract(body, '$.text') FROM comment",
    "SELECT id, trace_id, name, result FROM guardrail",
    "SELECT kind, entity, name FROM assertion_result",
    "SELECT id, name, json_extract(body, '$.description') FROM dataset",
    "SELECT id, json_extract(body, '$.data') FROM dataset_item WHERE until IS NULL",
    "SELECT id, name, json_extract(body, '$.status') FROM experiment",
    "SELECT id, experiment_id, dataset_item_id, trace_id FROM experiment_item",
    "SELECT id, name, body FROM prompt",
    "SELECT id, prompt_id, commit_id, number, body FROM prompt_version",
)


@pytest.fixture
def there(tmp_path):
    store = RemoteStore(tmp_path / "there")
    yield store
    store.close()


@pytest.fixture
def address(there):
    with serving(there) as url:
        yield url


@pytest.fixture
def settings(tmp_path, address):
    return Settings(home=tmp_path / "here", opik_url=address)


@pytest.fixture
def here(settings):
    store = Store(settings.traces)
    yield store
    store.close()


def plain(value):
    if isinstance(value, str) and value.startswith("{"):
        return json.dumps(json.loads(value), sort_keys=True)
    return str(value)


def held(store, query):
    return sorted([plain(value) for value in row] for row in rows(store, query))


def same(here, there):
    for query in ENTITIES:
        assert held(here, query) == held(there, query), query
    return True


def everything(store):
    identity = trace(store, thread_id="talk", input={"question": "Why?"}, tags=["a"])
    part = span(store, identity, usage={"total_tokens": 7}, model="m")
    score(store, "trace", identity, reason="good")
    score(store, "span", part, author="anna", category_name="c")
    talk = {"project_name": "twin", "thread_id": "talk", "name": "calm", "value": 0.5}
    ask(store, "PUT", "traces/threads/feedback-scores", {"scores": [talk | {"source": "sdk"}]})
    attach(store, "trace", identity)
    attach(store, "span", part, "empty.bin", b"")
    ask(store, "POST", f"traces/{identity}/comments", {"text": "look"})
    check = {"entity_id": identity, "project_name": "twin", "name": "polite", "status": "passed"}
    checks = {"entity_type": "TRACE", "assertion_results": [check | {"source": "sdk"}]}
    ask(store, "PUT", "assertion-results", checks)
    guard = {"id": new_id(), "entity_id": identity, "name": "PII", "result": "passed"}
    ask(store, "POST", "guardrails", {"guardrails": [guard]})
    ask(store, "POST", "datasets", {"name": "d", "project_name": "twin", "description": "x"})
    item = {"id": new_id(), "source": "sdk", "data": {"q": 1}}
    ask(store, "PUT", "datasets/items", {"dataset_name": "d", "items": [item]})
    run = {"id": new_id(), "name": "run", "dataset_name": "d", "project_name": "twin"}
    ask(store, "POST", "experiments", run)
    link = {"id": new_id(), "experiment_id": run["id"], "dataset_item_id": item["id"]}
    ask(store, "POST", "experiments/items", {"experiment_items": [link | {"trace_id": identity}]})
    ask(store, "POST", "experiments/finish", {"ids": [run["id"]]})
    ask(store, "POST", "prompts", {"name": "p", "template": "one {{x}}", "tags": ["t"]})
    ask(store, "POST", "prompts/versions", {"name": "p", "version": {"template": "two"}})
    newest = rows(store, "SELECT id FROM prompt_version WHERE number = 2")[0][0]
    ask(store, "PATCH", "prompts/versions", {"ids": [newest], "update": {"tags": ["new"]}})
    return {"trace": identity, "span": part, "item": item["id"], "run": run["id"]}


def test_everything_that_was_stored_goes_out_and_once_more_changes_nothing(here, there, settings):
    everything(here)
    assert upkeep.forward(here, settings) > 0
    assert same(here, there)
    blob = rows(there, "SELECT blob FROM attachment WHERE size > 0")[0][0]
    assert (there.blobs / blob).read_bytes() == b"attached"
    assert upkeep.forward(here, settings) == 0
    assert status(here).queued == {}
    with here.database.write() as db:
        db.execute("DELETE FROM remote")
    upkeep.forward(here, settings)
    assert same(here, there)


def test_a_change_and_a_deletion_go_out_too(here, there, settings):
    made = everything(here)
    upkeep.forward(here, settings)
    ask(here, "PATCH", f"traces/{made['trace']}", {"project_name": "twin", "output": {"a": 2}})
    ask(here, "POST", f"spans/{made['span']}/feedback-scores/delete", {"name": "helpful"})
    talk = {"project_name": "twin", "thread_id": "talk", "names": ["calm"]}
    ask(here, "POST", "traces/threads/feedback-scores/delete", talk)
    ask(here, "POST", "datasets/items/delete", {"item_ids": [made["item"]]})
    where = {"entity_type": "trace", "entity_id": made["trace"], "file_name": "notes.txt"}
    ask(here, "POST", "attachment/delete", where)
    comment = rows(here, "SELECT id FROM comment")[0][0]
    ask(here, "PATCH", f"traces/comments/{comment}", {"text": "changed"})
    upkeep.forward(here, settings)
    assert same(here, there)
    ask(here, "POST", "traces/comments/delete", {"ids": [comment]})
    ask(here, "POST", "experiments/delete", {"ids": [made["run"]]})
    dataset = rows(here, "SELECT id FROM dataset")[0][0]
    ask(here, "DELETE", f"datasets/{dataset}")
    ask(here, "DELETE", f"prompts/{rows(here, 'SELECT id FROM prompt')[0][0]}")
    ask(here, "POST", "traces/delete", {"ids": [made["trace"]]})
    upkeep.forward(here, settings)
    for table in ("trace", "span", "experiment", "dataset", "prompt", "score", "comment"):
        assert rows(there, f"SELECT * FROM {table}") == [], table
    assert status(here).parked == {}


def test_scores_before_their_trace_and_comments_of_threads_stop_nothing(here, there, settings):
    early = new_id()
    score(here, "trace", early)
    trace(here, thread_id="talk")
    thread = rows(here, "SELECT id FROM thread")[0][0]
    ask(here, "POST", f"traces/threads/{thread}/comments", {"text": "only here"})
    upkeep.forward(here, settings)
    assert rows(there, "SELECT entity FROM score") == [(early,)]
    assert status(here).queued == {}


def test_what_changes_while_it_is_sent_is_sent_again(here, there, settings):
    identity = trace(here, output="old")

    def meanwhile(request):
        there.fault = lambda request: None
        ask(here, "PATCH", f"traces/{identity}", {"project_name": "twin", "output": "new"})

    there.fault = meanwhile
    upkeep.forward(here, settings)
    assert same(here, there)
    assert "new" in rows(there, "SELECT body FROM trace")[0][0]


def test_a_remote_that_is_away_or_answers_500_delays(here, there, settings, tmp_path):
    outbox.aim(here, settings)
    trace(here)
    nobody = Settings(home=settings.home, opik_url="http://127.0.0.1:9/api/")
    with pytest.raises(Later, match="did not answer"):
        upkeep.forward(here, nobody, tries=1)
    assert "did not answer" in status(here).error
    there.fault = lambda request: problem(503, "not now")
    with pytest.raises(Later, match="answered 503"):
        upkeep.forward(here, settings, tries=1)
    assert status(here).queued == {"trace": 1}
    there.fault = lambda request: None
    assert upkeep.forward(here, settings) == 1
    assert same(here, there)
    assert (status(here).error, status(here).parked) == ("", {})


def test_a_failure_is_tried_again(here, there, settings):
    trace(here)
    failures = iter([problem(500, "once"), problem(502, "twice")])
    there.fault = lambda request: next(failures, None)
    assert upkeep.forward(here, settings) == 1


def test_a_remote_that_hangs_delays(here, there, settings):
    outbox.aim(here, settings)
    trace(here)
    hangs = threading.Event()
    there.fault = lambda request: hangs.wait(30) and None
    sender = Forwarder(here, settings, timeout=0.2)
    with pytest.raises(Later, match="timed out"):
        sender.drain()
    hangs.set()
    there.fault = lambda request: None
    sender.drain()
    sender.close()
    assert same(here, there)


@pytest.mark.parametrize(
    ("header", "value", "wait"),
    [
        ("retry-after", "7", 7),
        ("ratelimit-reset", "9", 9),
        ("retry-after", "nonsense", 0),
        ("retry-after", "Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("retry-after", "Wed, 21 Oct 2015 07:28:00", 0),
        ("retry-after", "999999", remote.LONGEST_WAIT),
    ],
)
def test_a_remote_may_say_how_long_to_leave_it_alone(here, there, settings, header, value, wait):
    outbox.aim(here, settings)
    trace(here)
    there.fault = lambda request: Response(429, b"slow down", {header: value})
    sender = Forwarder(here, settings)
    with pytest.raises(Later) as told:
        sender.drain()
    assert told.value.wait == wait
    assert sender.wait(told.value) >= wait
    sender.close()


def test_a_wrong_key_stops_until_the_settings_change(tmp_path, there):
    key = "right"  # pragma: allowlist secret
    with serving(there, key=key) as url:
        wrong = Settings(home=tmp_path / "here", opik_url=url, opik_key="wrong")
        here = Store(wrong.traces)
        trace(here)
        with pytest.raises(Halted, match="refused with 401"):
            upkeep.forward(here, wrong)
        assert status(here).halted
        assert "401" in Forwarder(here, wrong).halted()
        right = Settings(home=tmp_path / "here", opik_url=url, opik_key=key)
        assert Forwarder(here, right).halted() == ""
        assert upkeep.forward(here, right) == 1
        assert not status(here).halted
        assert same(here, there)


def test_an_address_that_is_no_opik_stops_too(here, there, settings):
    trace(here)
    there.fault = lambda request: Response(200, b"<html>", {"content-type": "text/html"})
    with pytest.raises(Halted, match="not Opik's API"):
        upkeep.forward(here, settings)
    assert status(here).queued == {"trace": 1}


def test_one_bad_item_is_parked_and_the_others_go_out(here, there, settings):
    good = [trace(here, name="good") for _ in range(6)]
    bad = trace(here, name="bad")
    good.append(trace(here, name="good"))
    there.fault = lambda request: (
        problem(422, "bad is no name") if b'"name":"bad"' in request.plain() else None
    )
    upkeep.forward(here, settings)
    assert sorted(rows(there, "SELECT id FROM trace")) == sorted((one,) for one in good)
    found = status(here)
    assert (found.parked, found.queued) == ({"trace": 1}, {})
    assert [(one["key"], one["status"]) for one in found.refusals] == [(bad, 422)]
    assert "bad is no name" in found.refusals[0]["reason"]
    there.fault = lambda request: None
    assert upkeep.forward(here, settings) == 0
    assert outbox.unpark(here) == 1
    assert upkeep.forward(here, settings) == 1
    assert same(here, there)
    assert status(here).parked == {}


def test_a_parked_item_that_changes_is_tried_again(here, there, settings):
    bad = trace(here, name="bad")
    there.fault = lambda request: problem(400, "no") if b'"name":"bad"' in request.plain() else None
    upkeep.forward(here, settings)
    ask(here, "PATCH", f"traces/{bad}", {"project_name": "twin", "name": "fine"})
    upkeep.forward(here, settings)
    assert status(here).parked == {}
    assert same(here, there)


def test_too_large_a_batch_is_halved_down_to_one_item(here, there, settings):
    for _ in range(8):
        trace(here, input="x" * 100)
    huge = trace(here, input="x" * 5000)
    there.fault = lambda request: problem(413, "large") if len(request.plain()) > 1000 else None
    upkeep.forward(here, settings)
    assert len(rows(there, "SELECT id FROM trace")) == 8
    assert [one["key"] for one in status(here).refusals] == [huge]


def test_a_path_that_the_remote_does_not_have_parks_only_what_goes_there(here, there, settings):
    identity = trace(here)
    guard = {"id": new_id(), "entity_id": identity, "name": "PII", "result": "passed"}
    ask(here, "POST", "guardrails", {"guardrails": [guard]})
    there.fault = lambda request: problem(404, "no") if "guardrails" in request.path else None
    upkeep.forward(here, settings)
    assert status(here).parked == {"guardrail": 1}
    assert len(rows(there, "SELECT id FROM trace")) == 1


def test_an_item_that_breaks_the_remote_lets_others_pass_and_is_parked(here, there, settings):
    outbox.aim(here, settings)
    bad = trace(here, name="bad")
    there.fault = lambda request: (
        problem(500, "broken") if b'"name":"bad"' in request.plain() else None
    )
    sender = Forwarder(here, settings)
    for number in range(60):
        if number < 30:
            trace(here)
        try:
            sender.drain()
        except Later as error:
            sender.wait(error)
    sender.close()
    assert [(one["key"], one["status"]) for one in status(here).refusals] == [(bad, 500)]
    assert len(rows(there, "SELECT id FROM trace")) == 30


def test_a_long_outage_parks_nothing(here, there, settings):
    outbox.aim(here, settings)
    for _ in range(3):
        trace(here)
    there.fault = lambda request: problem(500, "out")
    sender = Forwarder(here, settings)
    for _ in range(60):
        with pytest.raises(Later) as told:
            sender.drain()
        sender.wait(told.value)
    there.fault = lambda request: None
    sender.drain()
    sender.close()
    assert status(here).parked == {}
    assert same(here, there)


def test_attachments_go_to_a_bucket_in_parts_when_the_remote_says_so(
    here, there, settings, address, monkeypatch
):
    monkeypatch.setattr(remote, "PART", 4)
    attach(here, "trace", trace(here), data=b"0123456789")
    put, completed = {}, []

    def bucket(request):
        if request.path.endswith("upload-start"):
            count = json.loads(request.plain())["num_of_file_parts"]
            urls = [f"{address}/bucket/{number}" for number in range(count)]
            body = json.dumps({"upload_id": "s3", "pre_sign_urls": urls}).encode()
            return Response(200, body, {"content-type": "application/json"})
        if request.path.startswith("bucket/"):
            put[request.path] = request.body
            return Response(200, b"", {"etag": f"tag of {request.path}"})
        if request.path.endswith("upload-complete"):
            completed.append(json.loads(request.plain()))
            return Response(204)
        return None

    there.fault = bucket
    upkeep.forward(here, settings)
    assert put == {"bucket/0": b"0123", "bucket/1": b"4567", "bucket/2": b"89"}
    assert completed[0]["upload_id"] == "s3"
    assert completed[0]["uploaded_file_parts"][2] == {"e_tag": "tag of bucket/2", "part_number": 3}
    assert status(here).parked == {}


@pytest.mark.parametrize(
    "answer", [Response(200, b"[]"), Response(200, b'{"upload_id": "s3", "pre_sign_urls": []}')]
)
def test_an_upload_that_does_not_work_out_is_not_taken_for_done(here, there, settings, answer):
    attach(here, "trace", trace(here))
    there.fault = lambda request: (
        answer if request.path.endswith("upload-start")
        else problem(500, "no") if request.path.endswith("upload-complete") else None
    )  # fmt: skip
    with pytest.raises(Later):
        upkeep.forward(here, settings, tries=1)
    assert status(here).queued == {"attachment": 1}


def test_an_attachment_whose_file_is_gone_stops_nothing(here, there, settings):
    attach(here, "trace", trace(here))
    for file in here.blobs.iterdir():
        file.unlink()
    upkeep.forward(here, settings)
    assert status(here).queued == {}


def test_a_bucket_that_refuses_a_part_is_asked_again(here, there, settings, address):
    attach(here, "trace", trace(here))
    body = {"upload_id": "s3", "pre_sign_urls": [f"{address}/bucket/1"]}
    there.fault = lambda request: (
        Response(200, json.dumps(body).encode()) if request.path.endswith("upload-start")
        else problem(503, "slow down") if request.path.startswith("bucket") else None
    )  # fmt: skip
    with pytest.raises(Later, match="slow down"):
        upkeep.forward(here, settings, tries=1)


def test_another_remote_gets_everything_again(here, there, settings, tmp_path):
    everything(here)
    upkeep.forward(here, settings)
    other = RemoteStore(tmp_path / "other")
    with serving(other) as url:
        upkeep.forward(here, Settings(home=settings.home, opik_url=url))
        assert same(here, other)
    other.close()


def test_with_sampling_only_what_it_has_decided_about_goes_out(here, there, settings):
    sampled = Settings(home=settings.home, opik_url=settings.opik_url, trace_rate=0.5)
    trace(here)
    assert upkeep.forward(here, sampled) == 0
    with here.database.write() as db:
        db.execute("UPDATE outbox SET since = since - 4000")
    assert upkeep.forward(here, sampled) == 1


def test_without_a_remote_nothing_is_queued(tmp_path):
    here = Store(tmp_path)
    trace(here)
    assert upkeep.forward(here, Settings(home=tmp_path)) == 0
    assert status(here).queued == {}


def test_an_address_without_a_scheme_is_refused(here):
    with pytest.raises(ConfigError, match=r"TWIN_OPIK_URL is no address: 'comet\.com'"):
        outbox.aim(here, Settings(opik_url="comet.com"))
    with pytest.raises(ConfigError, match="TWIN_OPIK_URL is no address"):
        upkeep.Upkeep(here, Settings(opik_url="comet.com"))


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return True
        threading.Event().wait(0.02)
    return False


def test_upkeep_forwards_in_the_background_while_one_process_does(here, there, settings):
    there.fault = lambda request: problem(500, "at first")
    first, second = (upkeep.Upkeep(here, settings).start() for _ in range(2))
    trace(here, start_time=now())
    assert wait_for(lambda: "at first" in status(here).error)
    there.fault = lambda request: None
    assert wait_for(lambda: not status(here).queued and rows(there, "SELECT id FROM trace"))
    there.fault = lambda request: problem(401, "who are you")
    trace(here)
    assert wait_for(lambda: status(here).halted)
    first.stop()
    second.stop()
    assert status(here).queued == {"trace": 1}


def test_upkeep_goes_on_after_an_error_of_its_own(here, settings, caplog, monkeypatch):
    monkeypatch.setattr(upkeep, "LOCK_SECONDS", 0.05)
    monkeypatch.setattr(upkeep, "ERROR_SECONDS", 0.05)
    aimed = outbox.aim
    broken = iter([True])

    def aim(store, settings):
        if next(broken, False):
            raise OSError("disk full")
        return aimed(store, settings)

    monkeypatch.setattr(outbox, "aim", aim)
    running = upkeep.Upkeep(here, settings).start()
    trace(here)
    assert wait_for(lambda: status(here).forwarded)
    running.stop()
    assert "upkeep of the trace store failed" in caplog.text


def test_two_do_not_forward_at_once(settings, tmp_path):
    import subprocess
    import sys

    code = (
        "import sys, pathlib\nfrom llm_twin.settings import Settings\n"
        "from llm_twin.tracing import upkeep\n"
        "with upkeep.only_one(Settings(home=pathlib.Path(sys.argv[1]))):\n"
        "    print('mine', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(settings.home)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout.readline() == "mine\n"
        with (
            pytest.raises(BusyError, match="another process forwards"),
            upkeep.only_one(settings),
        ):
            pass
    finally:
        other.kill()
        other.communicate(timeout=10)
    with upkeep.only_one(settings):
        pass
