"""`invoke curate` as a user types it."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from invoke.context import Context
from invoke.exceptions import Exit
from seeded_traces import scored, seed, told

from ci.curate import curate
from llm_twin.model import feedback
from llm_twin.settings import Settings
from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    opened = Store(tmp_path / "traces", Settings(home=tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def run(store, capsys):
    def call(**flags):
        curate(Context(), **flags)
        return capsys.readouterr().out

    return call


def test_it_says_what_was_kept_and_why_the_rest_was_not(store, run, tmp_path):
    ids = seed(
        store,
        told("What is a gate?", correction="It compares two models, see stages.md."),
        told("What is a lock?", correction="no"),
        told("What is a run?"),
        told("What is a key?"),
    )
    scored(store, ids[2], 0.0)
    out = run().splitlines()
    digest = feedback.current(tmp_path).name
    assert out == [
        "traces    4 looked at, 3 chosen",
        "kept      1, of them 1 with the answer they correct and 1 that name a document",
        "rejected  2",
        "       1  uncorrected: nobody said what the answer should have been",
        "       1  too short: the wanted answer has fewer than 3 words",
        "dataset   feedback v1, with 1 open questions besides",
        f"feedback  {digest}. Take it: invoke ct",
    ]
    assert run().splitlines()[-1] == f"feedback  {digest}. the same as before"


def test_json_names_each_rejected_trace(store, run, tmp_path):
    (kept, short) = seed(
        store,
        told("What is a gate?", correction="It compares two models."),
        told("What is a lock?", correction="no"),
    )
    report = json.loads(run(json=True, name="other"))
    assert report == {
        "traces": 2, "chosen": 2, "rows": 1, "preferences": 1, "questions": 0, "open": 0,
        "rejected": {"too short": 1}, "reasons": {short: "too short"},
        "digest": feedback.current(tmp_path).name, "version": "v1", "changed": True,
    }  # fmt: skip
    assert [row.trace_id for row in feedback.read(feedback.current(tmp_path))] == [kept]


def test_a_dry_run_writes_nothing(store, run, tmp_path):
    seed(store, told("What is a gate?", correction="It compares two models."))
    assert run(dry_run=True).splitlines()[-1] == "Nothing was written"
    assert feedback.current(tmp_path) is None
    assert run().splitlines()[-2].startswith("dataset   feedback v1")


def test_nothing_to_learn_from_is_said(run):
    assert run().splitlines() == ["traces    0 looked at, 0 chosen", *run().splitlines()[1:]]
    assert run().splitlines()[-1] == "feedback  none"


def test_since_leaves_older_traces_alone(store, run):
    old = (datetime.now(UTC) - timedelta(days=9)).isoformat()
    seed(store, told("A gate?", correction="It compares two.", start_time=old, end_time=old))
    assert json.loads(run(since="7d", json=True))["traces"] == 0
    assert json.loads(run(since="2w", json=True))["rows"] == 1


def test_grounded_takes_what_the_corpus_says(store, run, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "gate.md").write_text(
        "# The gate\n\nThe gate compares the candidate with production, item by item, and says"
        " whether the candidate is better, worse or too close to tell.\n"
    )
    ids = seed(
        store,
        told("What is it?", correction="It compares the candidate with production, item by item."),
        told("Who built it?", correction="Carpenters of a northern valley built it of oak."),
    )
    report = json.loads(run(grounded=True, corpus=str(corpus), json=True))
    assert report["reasons"] == {ids[1]: "ungrounded"}
    assert report["rows"] == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"since": "soon"}, "not a length of time: 'soon'. Write it like 90s, 12h or 7d"),
        ({"low_score": 5.0}, "a score is from 0 to 1: 5.0. Say --low-score 0.5"),
        ({"name": ""}, "the dataset needs a name"),
        ({"grounded": True, "corpus": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_used_is_told_in_one_line(run, flags, words, capsys):
    with pytest.raises(Exit) as told_so:
        run(**flags)
    assert told_so.value.code == 2
    said = (told_so.value.message or "") + capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1


def test_importing_the_command_is_light():
    heavy = "('zenml', 'opik', 'torch', 'httpx', 'numpy', 'llm_twin.tracing.store')"
    code = f"import sys, ci.curate; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=60
    )
    assert done.stdout.strip() == "[]"
