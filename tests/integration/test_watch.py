"""`invoke watch` over answers that the twin gave and Opik's SDK traced, each in its own process."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from llm_twin.tracing.store.routing import Request
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
INVOKE = """
import sys
from invoke import Collection, Program
from ci.watch import collection
namespace = Collection()
namespace.add_collection(collection)
Program(namespace=namespace).run(["invoke", *sys.argv[1:]])
"""
ANSWERS = """
from pathlib import Path
from llm_twin.corpus import Document, chunk
from llm_twin.retrieval import open_index
from llm_twin.serving.answer import answer
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings
from llm_twin.tracing import client

settings = Settings.load()
text = '''
## Feeding the sourdough starter

Every evening I throw away all but a spoonful of the starter. I stir in fifty grams of rye flour
and fifty grams of lukewarm water. By morning it has doubled and smells of apples.

## Keeping a loaf fresh

Rye bread keeps for a week in a linen bag. Never put it in the fridge, because starch turns stale
fastest just above freezing. It even tastes better on the second day.
'''
document = Document(uri="loaf", title="A loaf without yeast", text=text, link="https://blog.example")
parts = chunk(document, lambda text: len(text.split()), 60)
index = open_index(settings, settings.home / "index.db", "v1", "")
index.upsert(parts, None)
twin = Twin("v1", index, None)
tracing = client.start(settings)
for question in ("How do I feed the sourdough starter?", "Who sang Bohemian Rhapsody?"):
    print(answer(question, twin, thread="kitchen").abstained)
tracing.stop()
"""


def run(home: Path, script: str, *arguments: str, **env: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        env=environment(home, **env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(home: Path, **more: str) -> dict[str, str]:
    return os.environ | {"TWIN_HOME": str(home), "TWIN_EMBEDDER": "words"} | more


def traces(home: Path) -> list[dict[str, Any]]:
    store = Store(home / "traces")
    body = json.dumps({"project_name": "llm-twin"}).encode()
    answer = store.handle(Request("POST", "v1/private/traces/search", body=body))
    found = [json.loads(line) for line in b"".join(answer.body).splitlines()]
    store.close()
    return found


def values(trace: dict[str, Any]) -> dict[str, float]:
    return {score["name"]: score["value"] for score in trace.get("feedback_scores") or []}


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with two traced answers, one of them a refusal, that were scored once."""
    folder = tmp_path_factory.mktemp("home")
    assert run(folder, ANSWERS).split() == ["False", "True"]
    wait_for(lambda: "waiting 0" in run(folder, INVOKE, "watch", "--once"))
    return folder


def test_answers_are_scored_and_the_scores_explain_themselves(home: Path) -> None:
    refused, quoted = traces(home)
    assert values(quoted) == {
        "groundedness": 1.0,
        "citation_validity": 1.0,
        "answered": 1.0,
        "length": 1.0,
        "language": 1.0,
        "latency": 1.0,
    }
    assert values(refused) == {"answered": 0.0, "latency": 1.0}
    reasons = {score["name"]: score["reason"] for score in quoted["feedback_scores"]}
    assert reasons["citation_validity"] == "all 1 hold"
    assert reasons["language"] == "asked in en, answered in en"
    assert {score["source"] for score in quoted["feedback_scores"]} == {"online_scoring"}


def test_nothing_is_scored_twice(home: Path) -> None:
    before = traces(home)
    told = run(home, INVOKE, "watch", "--once", "--since", "24")
    assert told == "rules: scored 0, failed 0, waiting 0\n"
    assert traces(home) == before


def test_the_figures_of_the_last_minutes(home: Path) -> None:
    table = run(home, INVOKE, "watch.metrics", "--minutes", "60")
    rows = {line.split()[0]: line.split()[1:] for line in table.splitlines()}
    assert rows["last"] == ["60", "minutes", "value", "of", "normal", "of"]
    assert rows["refusal_rate"] == ["0.5", "2", "-", "0"]
    assert rows["score.groundedness"] == ["1", "1", "-", "0"]
    assert rows["error_rate"] == ["0", "2", "-", "0"]
    found = json.loads(run(home, INVOKE, "watch.metrics", "--minutes", "60", "--json"))
    assert found["refusal_rate"] == {"value": 0.5, "count": 2, "normal": None, "normal_count": 0}


@pytest.mark.parametrize("minutes", ["0", "-5", "1e9", "nan"])
def test_a_window_has_a_length(home: Path, minutes: str) -> None:
    with pytest.raises(AssertionError, match="a window is up to a week"):
        run(home, INVOKE, "watch.metrics", f"--minutes={minutes}")


@pytest.mark.parametrize("since", ["-1", "1e9", "nan"])
def test_looking_back_has_a_limit(home: Path, since: str) -> None:
    with pytest.raises(AssertionError, match="watch looks back up to a year"):
        run(home, INVOKE, "watch", "--once", f"--since={since}")


@pytest.fixture
def judge() -> Iterator[ThreadingHTTPServer]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            verdict = json.dumps({"score": 0.9, "reason": "It says what the passage says."})
            reply = json.dumps({"choices": [{"message": {"content": verdict}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_watching_goes_on_until_it_is_told_to_stop(
    tmp_path: Path, judge: ThreadingHTTPServer
) -> None:
    env = environment(
        tmp_path,
        TWIN_JUDGE_MODEL="tiny",
        TWIN_JUDGE_URL=f"http://127.0.0.1:{judge.server_port}/v1",
    )
    store = Store(tmp_path / "traces")
    watching = subprocess.Popen(
        [sys.executable, "-c", INVOKE, "watch"],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        for number in range(20):
            trace = {
                "id": f"019a0000-0000-7000-8000-{number:012d}",
                "project_name": "llm-twin",
                "name": "answer",
                "start_time": "2126-01-01T00:00:00Z",
                "end_time": "2126-01-01T00:00:01Z",
                "input": {"question": "What is it?"},
                "output": {"text": "It is what it is and that is all."},
            }
            body = json.dumps({"traces": [trace]}).encode()
            store.handle(Request("POST", "v1/private/traces/batch", body=body))
        wait_for(lambda: all("answered" in values(one) for one in traces(tmp_path)))
        wait_for(lambda: any("judged_relevant" in values(one) for one in traces(tmp_path)))
        watching.send_signal(signal.SIGTERM)
        told, _ = watching.communicate(timeout=60)
    finally:
        watching.kill()
        store.close()
    assert watching.returncode == 0
    assert "rules: scored 20, failed 0, waiting 0" in told
    assert "judges: scored " in told
