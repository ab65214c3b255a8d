"""`invoke ct` as a user runs it: real ZenML, real training, real index, real weights."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from llm_twin.settings import Settings
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.torch, pytest.mark.slow]


class Laptop:
    """A state folder and the commands a user types."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "home"
        self.corpus = folder / "corpus"
        self.environment = {**os.environ, "TWIN_HOME": str(self.home)}

    def start(self, *line: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", "invoke", *line],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment,
        )

    def invoke(self, *line: str) -> subprocess.CompletedProcess:
        process = self.start(*line)
        out, err = process.communicate(timeout=500)
        return subprocess.CompletedProcess(line, process.returncode, out, err)

    def ct(self, *line: str) -> subprocess.CompletedProcess:
        return self.invoke("ct", "--corpus", str(self.corpus), "--budget", "80ktok", *line)

    def last_run(self) -> dict:
        return json.loads(self.invoke("runs", "--json", "--limit", "1").stdout)[0]

    def production(self) -> str:
        return (self.home / "models" / "production").readlink().name


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A laptop on which `invoke ct` was run once over the project's documentation."""
    laptop = Laptop(tmp_path_factory.mktemp("ct"))
    shutil.copytree(ROOT / "docs", laptop.corpus)
    shutil.copy(ROOT / "ARCHITECTURE.md", laptop.corpus)
    (laptop.corpus / "broken.pdf").write_bytes(b"%PDF-1.7 nonsense")
    done = laptop.ct()
    assert done.returncode == 0, done.stdout + done.stderr
    laptop.first = done.stdout
    return laptop


def test_the_summary_says_what_a_person_wants_to_know(trained):
    for part in (
        "collect",
        "train",
        "gate",
        "promote",
        "bits per character held out",
        "Kneser-Ney trigram",
        "hit@1",
        "embedder: minilm",
        "it does not write prose",
        "CPU-s, peak",
        "production ",
        "skipped     broken.pdf: ",
    ):
        assert part in trained.first
    assert "Traceback" not in trained.first


def test_the_run_is_recorded_with_its_figures(trained):
    run = json.loads(trained.invoke("runs", "--json").stdout)[-1]
    (stage,) = run["stages"]
    assert run["state"] == "Completed"
    result = stage["result"]
    assert result["version"] == trained.production()
    assert result["language"]["bits_per_character"] < result["language"]["unigram"]
    assert 0 < result["retrieval"]["hit@5"] <= 1


def test_the_bundle_says_where_it_comes_from(trained):
    bundle = json.loads((trained.home / "models" / "production" / "bundle.json").read_text())
    details = bundle["details"]
    assert details["corpus"] == str(trained.corpus)
    assert details["run"] == json.loads(trained.invoke("runs", "--json").stdout)[-1]["id"]
    assert details["embedder"].startswith("minilm")
    assert details["calibration"]
    assert "index.db" in bundle["files"]
    assert "model/model.safetensors" in bundle["files"]


def test_its_evaluation_is_an_experiment_over_the_questions(trained):
    result = json.loads(trained.invoke("runs", "--json").stdout)[-1]["stages"][0]["result"]
    settings = Settings(home=trained.home)
    with closing(Store(settings.traces, settings)) as store, store.database.read() as db:
        ((name, body),) = db.execute("SELECT name, body FROM experiment").fetchall()
        (items,) = db.execute("SELECT count(*) FROM experiment_item").fetchone()
        (found,) = db.execute("SELECT avg(value) FROM score WHERE name = 'hit@5'").fetchone()
    assert name == result["version"]
    assert json.loads(body)["status"] == "completed"
    assert items == result["retrieval"]["n"]
    assert found == pytest.approx(result["retrieval"]["hit@5"])


def test_zenml_knows_the_production_version(trained):
    code = (
        "from llm_twin.settings import Settings; from llm_twin.ct import zen\n"
        "zen.prepare(Settings.load())\n"
        "from zenml.client import Client\n"
        "version = Client().get_model_version(zen.MODEL, 'production')\n"
        "print(version.number, sorted(version.get_artifact('verdict').load()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=trained.environment,
    )
    said = "['compared', 'promote', 'reasons', 'verdict']"
    assert done.stdout.split(maxsplit=1)[1].strip() == said


def test_it_answers_with_a_citation_and_declines_what_is_not_there(trained):
    answer = trained.invoke("ask", "What does a stage's cache key cover?")
    assert answer.returncode == 0, answer.stderr
    assert "parameters" in answer.stdout
    assert "reference/stages.md" in answer.stdout
    declined = trained.invoke("ask", "How do I bake sourdough bread?")
    assert declined.returncode == 0
    assert "I don't know" in declined.stdout
    as_json = json.loads(trained.invoke("ask", "How is a dead run told?", "--json").stdout)
    assert as_json["citations"][0]["title"]


def test_the_trained_model_can_be_asked(trained):
    answer = trained.invoke("ask", "What is a stage?", "--llm", "local")
    assert answer.returncode == 0, answer.stderr
    assert "local" in answer.stdout


def test_unchanged_says_so_and_loads_neither_zenml_nor_torch(trained):
    asked = ["ct", "--corpus", str(trained.corpus), "--budget", "80ktok"]
    line = f"import sys; sys.argv[1:] = {asked!r}"
    code = (
        f"{line}\nfrom invoke.main import program\ntry:\n    program.run()\nfinally:\n"
        "    print([m for m in ('zenml', 'torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=trained.environment,
    )
    assert "nothing changed since run" in done.stdout
    assert "input files" in done.stdout
    assert done.stdout.strip().endswith("[]")


def test_a_second_run_at_the_same_time_is_refused(trained):
    running = trained.start("ct", "--corpus", str(trained.corpus), "--budget", "80ktok", "--force")
    wait_for(running, "collect")
    second = trained.ct("--force")
    running.kill()
    running.communicate()
    assert second.returncode == 2
    assert second.stderr.startswith("error: invoke ct is running already")
    assert "invoke runs.logs" in second.stderr


def wait_for(process: subprocess.Popen, text: str) -> None:
    """Read a process' output until it says something."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("".join(seen) + process.stderr.read())


def test_killed_while_training_the_old_twin_answers_and_the_next_run_works(trained):
    before = trained.production()
    note = trained.corpus / "note.md"
    note.write_text("# Harbour\n\n" + "The harbour of Kinsale closes at ten in the evening. " * 8)
    running = trained.start("ct", "--corpus", str(trained.corpus), "--budget", "300s")
    wait_for(running, "pretrain")
    running.send_signal(signal.SIGKILL)
    running.communicate()
    assert trained.production() == before
    assert "cache key" in trained.invoke("ask", "What does a cache key cover?").stdout
    assert trained.last_run()["state"] == "Crashed"
    time.sleep(0.2)
    again = trained.ct()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "embedded" not in again.stdout
    assert [p.name for p in (trained.home / "models").glob(".building-*")] == []
    assert not (trained.home / "work").exists()
    assert "Kinsale" in trained.invoke("ask", "When does the harbour close?").stdout
    note.unlink()
    third = trained.ct()
    assert third.returncode == 0, third.stdout + third.stderr
    assert "input corpus" in third.stdout or "is gone" in third.stdout
    assert "Kinsale" not in trained.invoke("ask", "When does the harbour close?").stdout
