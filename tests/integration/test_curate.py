"""From a reader's correction to the next training run: real store, real ZenML, real training."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ci.curate import curate_feedback
from llm_twin.settings import Settings
from llm_twin.tracing.store.merge import new_id, now
from llm_twin.tracing.store.routing import Request, dumps
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.torch, pytest.mark.slow]
ASKED = "Which thing tells a dead run from a slow one?"
WANTED = "A lock does: the system lets go of it when the process ends. See reference/stages.md."


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """A state folder, a corpus, and `invoke ct` on them."""
    folder = tmp_path_factory.mktemp("curate")
    shutil.copytree(ROOT / "docs", folder / "corpus")
    environment = {**os.environ, "TWIN_HOME": str(folder / "home"), "TWIN_EMBEDDER": "words"}

    def ct(*flags):
        line = [sys.executable, "-m", "invoke", "ct", "--corpus", str(folder / "corpus")]
        return subprocess.run(
            [*line, "--budget", "8s", *flags],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=environment,
            timeout=500,
        )

    ct.environment = environment
    ct.settings = Settings(home=folder / "home", embedder="words")
    return ct


def correct(settings, question, wanted):
    """Store a trace that a reader corrected."""
    trace = {
        "id": new_id(), "project_name": settings.trace_project, "name": "answer",
        "start_time": now(), "end_time": now(), "input": {"question": question},
        "output": {"text": "It is told by its name.", "abstained": False},
        "metadata": {"correction": wanted},
    }  # fmt: skip
    store = Store(settings.traces, settings)
    body = dumps({"traces": [trace]}).encode()
    assert store.handle(Request("POST", "v1/private/traces/batch", body=body)).status < 300
    store.close()


def bundle(settings):
    return json.loads((settings.home / "models" / "production" / "bundle.json").read_text())


LOOK = """
import json
from llm_twin.ct import zen
from llm_twin.settings import Settings
zen.prepare(Settings.load())
from zenml.client import Client
steps = Client().list_pipeline_runs(sort_by="desc:created", size=1).items[0].steps
def loaded(step, name):
    return steps[step].outputs[name][0].load()
items = [loaded("evaluate", f"{who}_metrics") for who in ("candidate", "production")]
print(json.dumps({
    "rows": loaded("corrections", "feedback"),
    "texts": [sorted(item["id"] for item in one["language"]["items"]) for one in items],
    "questions": [sorted(item["question"] for item in one["retrieval"]["items"]) for one in items],
    "dpo": loaded("train", "trained")["dpo"],
}))
"""


def test_new_feedback_makes_ct_run_and_is_learned_from_beside_the_corpus(laptop):
    settings = laptop.settings
    first = laptop()
    assert first.returncode == 0, first.stdout + first.stderr
    assert "feedback  " not in first.stdout
    before = bundle(settings)["details"]
    assert before["feedback"] == ""

    correct(settings, ASKED, WANTED)
    correct(settings, "Who may write to it?", "Write to anna@example.com about who may.")
    report = curate_feedback(settings)
    assert (report["rows"], report["rejected"]) == (1, {"redacted": 1})

    second = laptop()
    assert second.returncode == 0, second.stdout + second.stderr
    assert f"1 corrections and 1 questions of {report['digest'][:8]}" in second.stdout
    assert "feedback/current/rows.jsonl is new" in second.stdout
    look = [sys.executable, "-c", LOOK]
    done = subprocess.run(
        look, capture_output=True, text=True, cwd=ROOT, env=laptop.environment, timeout=120
    )
    found = json.loads(done.stdout)
    assert [row["wanted"] for row in found["rows"]] == [WANTED]
    assert found["texts"][0] == found["texts"][1]
    assert found["questions"][0] == found["questions"][1]
    assert ASKED in found["questions"][0]
    assert found["dpo"]["rows"] > 1
    if "production  unchanged" not in second.stdout:
        assert bundle(settings)["details"]["feedback"] == report["digest"]

    assert curate_feedback(settings)["changed"] is False
    assert "nothing changed since run" in laptop().stdout


def test_feedback_that_was_changed_by_hand_is_refused_before_anything_is_written(laptop):
    settings = laptop.settings
    if not (settings.home / "feedback").exists():
        correct(settings, ASKED, WANTED)
        curate_feedback(settings)
    rows = settings.home / "feedback" / "current" / "rows.jsonl"
    text = rows.read_text()
    rows.write_text(text.replace("lock", "clock"))
    refused = laptop()
    rows.write_text(text)
    assert refused.returncode == 2
    assert "the feedback is not what was curated" in refused.stderr
    assert "Make it anew: invoke curate" in refused.stderr
