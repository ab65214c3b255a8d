import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from invoke.context import Context
from invoke.exceptions import Exit
from remotes import RemoteStore, rows, score, serving, span, trace

from ci import traces as commands
from llm_twin.errors import ConfigError
from llm_twin.settings import Settings
from llm_twin.tracing import lookup
from llm_twin.tracing.store.routing import problem
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[3]
START, END = "2026-11-23T10:00:00Z", "2026-11-23T10:00:01.5Z"


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    opened = Store(tmp_path / "traces", Settings(home=tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def run(capsys):
    def call(name, *args, **flags):
        commands[name](Context(), *args, **flags)
        return capsys.readouterr().out

    return call


def asked(store, question="Why is the sky blue?", **more):
    times = {"start_time": START, "end_time": END}
    return trace(store, input={"k": 5, "question": question}, **{**times, **more})


def test_an_empty_store_says_what_to_type(store, run):
    assert run("list") == 'Nothing was traced yet. Type: invoke ask "…"\n'
    assert run("list", json=True) == ""


def test_the_list_shows_duration_tokens_cost_scores_error_and_question(store, run):
    error = {"exception_type": "RemoteError", "traceback": "…", "message": "gone"}
    identity = asked(store, error_info=error)
    span(store, identity, type="llm", usage={"total_tokens": 1532}, total_estimated_cost=0.0021)
    score(store, "trace", identity, "groundedness", 0.9312)
    out = run("list")
    assert re.fullmatch(
        rf"2026-11-23 \d\d:00:00  {identity}  answer  1\.50 s  1,532 tokens  \$0\.0021"
        r"  groundedness 0\.931  ERROR RemoteError  Why is the sky blue\?\n",
        out,
    )


def test_a_question_cannot_write_to_the_terminal(store, run):
    asked(store, "red \x1b[31m\nnext\r\x07 line \u202e")
    assert run("list").count("\n") == 1
    assert run("list").rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("filter", "fit"),
    [
        ('name = "other"', "b"),
        ("name=other", "b"),
        ("name = 'other' AND duration > 100", "b"),
        ("duration <= 100", "c"),
        ("feedback_scores.helpful < 0.5", "a"),
        ('feedback_scores."very helpful" >= 1', "c"),
        ("metadata.model = m1", "c"),
        ("usage.total_tokens > 10", "b"),
        ("error_info is_not_empty", "a"),
        ('name contains "say ""hi"""', "a"),
        ("name in x,other", "b"),
        ("tags contains night and name != other", "c"),
    ],
)
def test_a_filter_string_chooses(store, run, filter, fit):
    made = {
        "a": asked(store, name='say "hi"', error_info={"exception_type": "E", "traceback": ""}),
        "b": asked(store, name="other"),
        "c": asked(store, end_time=START, metadata={"model": "m1"}, tags=["night"]),
    }
    span(store, made["b"], usage={"total_tokens": 11})
    score(store, "trace", made["a"], value=0.1)
    score(store, "trace", made["c"], "very helpful", 1)
    found = [json.loads(line)["id"] for line in run("list", filter=filter, json=True).splitlines()]
    assert found == [made[fit]]


def test_projects_are_listed_together_or_apart(store, run):
    first = asked(store)
    second = asked(store, project_name="other")
    found = [json.loads(line)["id"] for line in run("list", json=True).splitlines()]
    assert found == [second, first]
    assert first in run("list", project="twin")
    assert second not in run("list", project="twin")
    assert len(run("list", limit=1).splitlines()) == 1
    assert run("list", filter="name = nobody") == "No traces fit\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"filter": "name ~ x"}, "the filter cannot be read: name ~ x. Write it like: "),
        ({"filter": "nonsense = 1"}, "the filter cannot be used: traces have no field"),
        ({"project": "none"}, "no traces were stored in this project: none. Choose: twin"),
    ],
)
def test_a_wrong_filter_or_project_is_told_in_one_line(store, run, flags, words):
    asked(store)
    with pytest.raises(Exit) as told:
        run("list", **flags)
    assert told.value.code == 2
    assert words in str(told.value)


def test_show_draws_the_tree_of_spans_in_order(store, run):
    identity = asked(store, output={"text": "Rayleigh. " * 100}, thread_id="talk")
    top = span(store, identity, name="generate", start_time=START, end_time=END, model="gpt")
    span(
        store, identity, name="inner", parent_span_id=top, start_time=END,
        error_info={"exception_type": "ValueError", "message": "bad", "traceback": "tb"},
    )  # fmt: skip
    span(store, identity, name="first", start_time="2026-11-23T09:00:00Z")
    loop = "00000000-0000-7000-8000-000000000009"
    span(store, identity, id=loop, name="loop", parent_span_id=loop, start_time=END)
    out = run("show", identity[:23])
    lines = [line for line in out.splitlines() if "input" not in line]
    assert lines[0].startswith("answer  1.50 s")
    order = [out.index(name) for name in ("first  ", "generate  ", "inner  ", "loop  ")]
    assert order == sorted(order)
    assert "generate  tool  gpt  1.50 s" in out
    assert "inner  tool  not ended  ERROR ValueError" in out
    assert "error_info: bad" in out
    assert "… (1,012 characters)" in " ".join(out.replace("│", " ").split())
    assert "│   └── inner" in out or "    └── inner" in out
    spans = json.loads(run("show", identity, json=True))["spans"]
    assert [one["name"] for one in spans][:2] == ["first", "generate"]
    assert len(spans) == 4


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("ffffff", "no such trace: ffffff. Type: invoke traces"),
        ("01", "an id's beginning has at least 4 characters"),
        ("0000", "several traces begin like that: 0000"),
    ],
)
def test_show_says_what_is_wrong_with_an_id(store, run, id, words):
    for number in (1, 2):
        asked(store, id=f"00000000-0000-7000-8000-00000000000{number}")
    with pytest.raises(Exit, match=words):
        run("show", id)


def test_tail_prints_what_is_stored_from_now_on(store, run):
    asked(store, "before")
    later = threading.Timer(0.3, lambda: (asked(store, "one"), asked(store, "two")))
    later.start()
    out = run("tail", count=2)
    assert [line.split()[-1] for line in out.splitlines()] == ["one", "two"]


def test_status_and_forward_tell_the_same_story(store, run, monkeypatch, tmp_path):
    asked(store)
    assert "remote     none; to forward set TWIN_OPIK_URL" in run("status")
    with pytest.raises(Exit, match=r"no Opik to forward to\. Set TWIN_OPIK_URL"):
        run("forward")
    there = RemoteStore(tmp_path / "there")
    with serving(there) as url:
        monkeypatch.setenv("TWIN_OPIK_URL", url)
        assert f"remote     {url}, which nothing was forwarded to yet" in run("status")
        there.fault = lambda request: problem(503, "resting")
        with pytest.raises(Exit, match=r"Opik does not take more now: .*resting.*Nothing is lost"):
            run("forward", tries=1)
        assert "resting" in run("status")
        assert "queued     1 trace, the oldest for " in run("status")
        there.fault = lambda request: problem(401, "who are you")
        with pytest.raises(Exit, match=r"Opik refused: .*401.*Check TWIN_OPIK_URL, TWIN_OPIK_KEY"):
            run("forward")
        assert "Nothing is sent until TWIN_OPIK_URL" in run("status")
        there.fault = lambda request: problem(400, "odd name")
        assert run("forward") == f"1 sent to {url}\n"
        out = run("status")
        assert "odd name" in out
        assert "To try those again: invoke traces.forward --parked" in out
        there.fault = lambda request: None
        assert run("forward", parked=True) == f"1 sent to {url}\n"
    out = run("status").splitlines()
    assert out[0] == "stored     1 trace, 0 spans"
    assert "forwarded  1 trace" in out
    assert "queued     0" in out
    assert "parked     0" in out
    assert "dropped    0" in out
    figures = json.loads(run("status", json=True))
    assert (figures["stored"], figures["parked"]) == ({"trace": 1, "span": 0}, {})
    there.close()


def test_status_shows_refused_records_and_drops(store, run, tmp_path):
    from llm_twin.tracing import outbox

    with store.database.write() as db:
        outbox.count(db, "dropped", "size", 4)
    (tmp_path / "traces" / "journal").mkdir(parents=True, exist_ok=True)
    (tmp_path / "traces" / "journal" / "refused.ndjson").write_text("{}\n")
    out = run("status")
    assert "dropped    4 by size" in out
    assert "refused    1 records" in out


def test_export_import_and_to_dataset(store, run, tmp_path, monkeypatch):
    asked(store)
    file = str(tmp_path / "traces.jsonl")
    assert run("export", jsonl=file) == f"1 traces in {file}\n"
    assert run("export", parquet=f"{file}.parquet") == f"1 traces in {file}.parquet\n"
    assert run("import", file) == "0 traces taken in, 1 were there already\n"
    monkeypatch.setenv("TWIN_HOME", str(tmp_path / "other"))
    assert run("import", file) == "1 traces taken in, 0 were there already\n"
    assert run("to-dataset", "golden") == "1 items added to golden, 0 were there already\n"
    with pytest.raises(Exit, match="Give --jsonl FILE or --parquet FILE"):
        run("export")
    with pytest.raises(Exit, match="the dataset needs a name"):
        run("to-dataset", " ")


def test_to_dataset_says_what_it_redacted(store, run):
    asked(store)
    with store.database.write() as db:
        db.execute("UPDATE trace SET body = replace(body, 'sky', 'anna@example.com')")
    assert "1 held something private yet" in run("to-dataset", "golden")


def test_forget_counts_first_and_deletes_when_told(store, run, monkeypatch):
    asked(store, "Who is Ödön?")
    assert run("forget", contains="ödön") == (
        "Found: 1 trace. Nothing is deleted yet; to delete add --yes\n"
    )
    assert rows(store, "SELECT count(*) FROM trace") == [(1,)]
    monkeypatch.setenv("TWIN_OPIK_URL", "http://127.0.0.1:9/api")
    out = run("forget", contains="ödön", yes=True)
    assert out.startswith("Deleted: 1 trace\n")
    assert "The remote is told when traces are forwarded" in out
    assert rows(store, "SELECT count(*) FROM trace") == [(0,)]
    assert run("forget", thread="nobody").startswith("Found: 0.")


def test_forget_tells_of_what_it_leaves(store, run):
    asked(store, project_name="Ödön")
    assert "Mentions that stay, for you to change: 1 project\n" in run("forget", contains="Ödön")


def test_a_condition_has_to_be_whole():
    with pytest.raises(ConfigError, match="the filter cannot be read: and and"):
        lookup.conditions("name = x and and and")


def test_the_commands_are_there_and_do_not_import_the_sdk(tmp_path):
    code = (
        "import sys\nfrom invoke import Program\nfrom tasks import namespace\n"
        "Program(namespace=namespace).run('invoke traces', exit=False)\n"
        "print([name for name in sys.modules if name in ('opik', 'rich', 'httpx', 'uvicorn')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"TWIN_HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == ['Nothing was traced yet. Type: invoke ask "…"', "[]"]
