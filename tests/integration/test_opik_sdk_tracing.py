"""The unmodified Opik SDK and its command line against the store, in this process and over HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SERVER = """
import pathlib, sys
from llm_twin.settings import Settings
from llm_twin.tracing.serve import serve
serve(Settings.load({"TWIN_HOME": sys.argv[1]}, root=pathlib.Path(sys.argv[1])), port=0)
"""
HOOK = """
import pathlib
import opik.hooks
from llm_twin.tracing.store.mounts import transport
from llm_twin.tracing.store.store import Store
store = Store(pathlib.Path(home))
opik.hooks.add_httpx_client_hook(opik.hooks.HttpxClientHook(None, {"transport": transport(store)}))
"""
PREAMBLE = """
import json, sys
home, mount = sys.argv[1:]
if mount == "here":
    exec(HOOK)
import opik
from opik import opik_context
client = opik.Opik()

def tell(**found):
    client.end()
    print(json.dumps(found, default=str))
"""


class Desk:
    """Where programs that use the SDK run, and what they are told by the environment."""

    def __init__(self, home: Path, mount: str) -> None:
        self.home, self.mount = home, mount
        self.server: subprocess.Popen[str] | None = None
        self.env = {
            **os.environ,
            "HOME": str(home),
            "OPIK_CONFIG_PATH": str(home / "opik.config"),
            "OPIK_URL_OVERRIDE": "http://localhost/api/",
            "OPIK_PROJECT_NAME": "twin",
            "OPIK_SENTRY_ENABLE": "false",
            "OPIK_ANALYTICS_ENABLE": "false",
            "OPIK_MIN_BASE64_EMBEDDED_ATTACHMENT_SIZE": "30",
        }
        if mount == "server":
            arguments = [sys.executable, "-c", SERVER, str(home)]
            self.server = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
            assert self.server.stdout is not None
            line = self.server.stdout.readline().strip()
            self.env["OPIK_URL_OVERRIDE"] = line.removeprefix("OPIK_URL_OVERRIDE=")

    def run(self, program: str) -> Any:
        """Run a program that ends with ``tell``; return what it told."""
        source = f"HOOK = {HOOK!r}\n{PREAMBLE}{program}"
        arguments = [sys.executable, "-c", source, str(self.home), self.mount]
        done = self.command(*arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command that the SDK's environment is told to."""
        return subprocess.run(
            arguments, env=self.env, capture_output=True, text=True, timeout=120, check=False
        )

    def end(self) -> None:
        """Stop the server."""
        if self.server is not None:
            self.server.terminate()
            self.server.communicate(timeout=20)


@pytest.fixture(params=["here", "server"])
def desk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path, request.param)
    yield desk
    desk.end()


def test_a_tracked_call_with_all_that_belongs_to_it(desk: Desk) -> None:
    found = desk.run("""
ids = {}

@opik.track(tags=["t"], metadata={"k": "v"})
def outer(question):
    ids["trace"] = opik_context.get_current_trace_data().id
    opik_context.update_current_trace(
        thread_id="thread-1", feedback_scores=[{"name": "good", "value": 0.5, "reason": "r"}])
    try:
        inner(question)
    except ValueError:
        pass
    return "answer"

@opik.track(type="llm")
def inner(question):
    ids["span"] = opik_context.get_current_span_data().id
    opik_context.update_current_span(
        model="m", provider="p", total_cost=0.25,
        usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
    raise ValueError("went wrong")

outer("why?")
opik.flush_tracker()
client.flush()
trace, span = client.get_trace_content(ids["trace"]), client.get_span_content(ids["span"])
threads = client.get_threads_client().search_threads(filter_string='id = "thread-1"')
tell(
    input=trace.input, output=trace.output, tags=trace.tags, metadata=trace.metadata,
    score=[trace.feedback_scores[0].value, trace.feedback_scores[0].reason],
    sums=[trace.total_estimated_cost, trace.usage["total_tokens"], trace.llm_span_count],
    error=[span.error_info.exception_type, span.error_info.message, trace.error_info],
    threads=[[one.id, one.number_of_messages] for one in threads],
    project=client.get_project(trace.project_id).name,
)
""")
    assert found == {
        "input": {"question": "why?"},
        "output": {"output": "answer"},
        "tags": ["t"],
        "metadata": {"k": "v"},
        "score": [0.5, "r"],
        "sums": [0.25, 3, 1],
        "error": ["ValueError", "went wrong", None],
        "threads": [["thread-1", 2]],
        "project": "twin",
    }


def test_updating_scoring_searching_copying_and_deleting(desk: Desk) -> None:
    found = desk.run("""
traces = [client.trace(name=f"n{i}", input={"q": f"question {i}"}, tags=["a"]) for i in range(3)]
span = traces[0].span(name="s", input={"q": 1})
client.flush()
client.update_trace(trace_id=traces[0].id, project_name="twin", output={"a": 1})
span.update(output={"a": 2})
traces[1].log_feedback_score("good", 0.9)
traces[1].log_feedback_score("bad", 0.1)
client.flush()
client.delete_trace_feedback_score(traces[1].id, "bad")

def search(text):
    return [one.name for one in client.search_traces(filter_string=text)]

client.copy_traces(project_name="twin", destination_project_name="copy")
client.flush()
copied = client.search_traces(project_name="copy", filter_string='name = "n1"')
tell(
    updated=client.get_trace_content(traces[0].id).output,
    span=client.get_span_content(span.id).output,
    contains=search('input contains "question 1"'),
    scored=search("feedback_scores.good > 0.8"),
    unscored=search("feedback_scores.good is_empty"),
    tagged=search('tags contains "a" and name != "n0"'),
    copied=[[score.name, score.value] for score in copied[0].feedback_scores],
    spans=len(client.search_spans(project_name="copy")),
)
""")
    assert found == {
        "updated": {"a": 1},
        "span": {"a": 2},
        "contains": ["n1"],
        "scored": ["n1"],
        "unscored": ["n2", "n0"],
        "tagged": ["n2", "n1"],
        "copied": [["good", 0.9]],
        "spans": 1,
    }


def test_attachments_by_file_and_from_within_a_field(desk: Desk) -> None:
    found = desk.run("""
import base64, copy, datetime, pathlib
path = pathlib.Path(home) / "picture.bin"
path.write_bytes(bytes(range(256)) * 4)
image = "data:image/png;base64," + base64.b64encode(b"\\x89PNG\\r\\n\\x1a\\n" + bytes(60)).decode()
trace = client.trace(
    name="t", input={"image": image}, end_time=datetime.datetime.now(datetime.timezone.utc),
    attachments=[opik.Attachment(data=str(path), file_name="a.bin", content_type="x/y")])
client.flush()
files = client.get_attachment_client()
listed = files.get_attachment_list(project_name="twin", entity_id=trace.id, entity_type="trace")
data = b"".join(files.download_attachment(
    project_name="twin", entity_type="trace", entity_id=trace.id, file_name="a.bin",
    mime_type="x/y"))
tell(
    kinds=sorted(one.mime_type for one in listed), same=data == path.read_bytes(),
    put_back=client.get_trace_content(trace.id).input == {"image": image},
)
""")
    assert found == {"kinds": ["image/png", "x/y"], "same": True, "put_back": True}


def test_what_was_sent_while_the_client_was_offline_arrives(desk: Desk) -> None:
    found = desk.run("""
monitor = client._streamer._fallback_replay_manager._monitor
monitor.connection_failed("away")
trace = client.trace(name="offline", output={"a": 1})
trace.log_feedback_score("good", 1)
client.flush()
monitor.reset()
client.flush()
[found] = client.search_traces(filter_string='name = "offline"')
tell(output=found.output, scores=[one.name for one in found.feedback_scores])
""")
    assert found == {"output": {"a": 1}, "scores": ["good"]}


def test_the_command_line_of_opik(tmp_path: Path) -> None:
    desk = Desk(tmp_path, "server")
    opik = str(Path(sys.executable).with_name("opik"))
    try:
        desk.run("""
client.trace(name="exported", input={"q": 1}).span(name="within")
client.flush()
tell()
""")
        checked = desk.command(opik, "healthcheck")
        assert "Backend workspace available: yes" in checked.stdout, checked.stdout
        out = tmp_path / "out"
        exported = desk.command(opik, "export", "default", "twin", "traces", "--path", str(out))
        assert exported.returncode == 0, exported.stderr
        [file] = out.rglob("trace_*.json")
        written = json.loads(file.read_text())
        assert written["trace"]["name"] == "exported"
        assert [span["name"] for span in written["spans"]] == ["within"]
    finally:
        desk.end()
