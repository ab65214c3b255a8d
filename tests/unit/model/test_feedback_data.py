"""What readers corrected: kept in versions that survive, and learned from beside the corpus."""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest

from llm_twin.ct.config import CtConfig
from llm_twin.ct.preflight import corpus_files, preflight
from llm_twin.ct.summary import _feedback as summary_of
from llm_twin.errors import NotReadyError
from llm_twin.model import feedback
from llm_twin.model.dataset import Dataset, Preference, make_dataset
from llm_twin.model.feedback import Correction
from llm_twin.model.profile import Base, Budget, Training
from llm_twin.model.train import train
from llm_twin.settings import Settings

ROWS = [
    Correction("t1", "What does the runner keep?", "The runner keeps the runs.", "It sleeps."),
    Correction("t2", "Wer prüft die “Digests”?", "Die Pipeline.\u2028Immer.", cites=("docs/1.md",)),
]


def test_a_version_is_read_as_it_was_written_whatever_its_order(tmp_path):
    digest = feedback.keep(tmp_path, ROWS, {"dataset": "feedback"})
    assert feedback.keep(tmp_path, ROWS[::-1], {}) == digest
    folder = feedback.current(tmp_path)
    assert folder == tmp_path / "feedback" / digest
    assert feedback.read(folder) == ROWS
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest == {"digest": digest, "rows": 2, "dataset": "feedback"}
    assert feedback.files(tmp_path)[0].read_bytes() == (folder / "rows.jsonl").read_bytes()


def test_other_rows_are_another_version_and_the_former_one_stays(tmp_path):
    first = feedback.keep(tmp_path, ROWS, {})
    second = feedback.keep(tmp_path, ROWS[:1], {})
    assert feedback.current(tmp_path).name == second != first
    assert feedback.read(tmp_path / "feedback" / first) == ROWS
    assert feedback.keep(tmp_path, ROWS, {}) == first
    assert feedback.current(tmp_path).name == first


def test_without_rows_there_is_no_current_version(tmp_path):
    assert feedback.current(tmp_path) is None
    assert feedback.files(tmp_path) == []
    assert feedback.keep(tmp_path, [], {}) == ""
    feedback.keep(tmp_path, ROWS, {})
    assert feedback.keep(tmp_path, [], {}) == ""
    assert feedback.current(tmp_path) is None
    assert feedback.files(tmp_path) == []


@pytest.mark.parametrize("text", ["", "nonsense\n", "[1]\n", '{"trace_id": "t9"}\n'])
def test_a_version_that_was_changed_by_hand_is_refused_in_words(tmp_path, text):
    feedback.keep(tmp_path, ROWS, {})
    folder = feedback.current(tmp_path)
    (folder / "rows.jsonl").write_text(text)
    with pytest.raises(NotReadyError, match=r"not what was curated: .*Make it anew: invoke curate"):
        feedback.read(folder)
    feedback.keep(tmp_path, ROWS, {})
    assert feedback.read(folder) == ROWS


def test_what_is_forgotten_is_in_no_version_and_the_rest_stays_current(tmp_path):
    feedback.keep(tmp_path, ROWS[:1], {})
    feedback.keep(tmp_path, ROWS, {})
    assert feedback.forget(tmp_path, lambda row: row.trace_id == "nobody") == 0
    assert feedback.forget(tmp_path, lambda row: "Digests" in row.question) == 1
    assert feedback.read(feedback.current(tmp_path)) == ROWS[:1]
    assert "Digests" not in "".join(
        path.read_text() for path in (tmp_path / "feedback").rglob("*") if path.is_file()
    )
    assert feedback.forget(tmp_path, lambda row: True) == 1
    assert feedback.current(tmp_path) is None


KILLED = """
import os, signal, sys
from pathlib import Path
from llm_twin.model import feedback
from llm_twin.model.feedback import Correction
left = int(sys.argv[2])
def look(frame, event, arg):
    global left
    left -= 1
    if left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return look
rows = [Correction("t1", "a new question", "a new answer to it")]
sys.settrace(look)
feedback.keep(Path(sys.argv[1]), rows, {})
sys.settrace(None)
"""


@pytest.mark.parametrize("line", [5, 40, 80, 120, 160, 200])
def test_killed_anywhere_the_old_version_is_whole_or_the_new_one_is(tmp_path, line):
    feedback.keep(tmp_path, ROWS, {})
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(line)], timeout=60, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL)
    rows = feedback.read(feedback.current(tmp_path))
    assert rows == ROWS or rows[0].question == "a new question"
    feedback.keep(tmp_path, ROWS, {})
    assert list((tmp_path / "feedback").glob(".building-*")) == []
    assert feedback.read(feedback.current(tmp_path)) == ROWS


def test_corrections_are_learned_from_and_nothing_held_out_moves(write_author):
    documents, chunks = write_author(documents=40)
    plain = make_dataset(documents, chunks)
    told = make_dataset(documents, chunks, 0, ROWS)
    assert told.train_texts == plain.train_texts
    assert told.heldout_texts == plain.heldout_texts
    assert told.heldout_pairs == plain.heldout_pairs
    assert told.questions[: len(plain.questions)] == plain.questions
    assert told.pairs[: len(plain.pairs)] == plain.pairs
    added = [(one.prompt, one.completion) for one in told.pairs[len(plain.pairs) :]]
    assert added == [(row.question, row.wanted) for row in ROWS]
    assert told.preferences[: len(plain.preferences)] == plain.preferences
    assert told.preferences[len(plain.preferences) :] == [
        Preference("What does the runner keep?", "The runner keeps the runs.", "It sleeps.")
    ]
    assert told.feedback["digest"] == feedback.digest_of(ROWS)
    assert (told.feedback["taken"], told.feedback["heldout"]) == (2, 0)
    assert told.digest != plain.digest
    assert Dataset.from_dict(json.loads(json.dumps(told.to_dict()))) == told
    assert plain.feedback == {}


def test_a_correction_that_says_a_held_out_text_is_left_out(write_author):
    documents, chunks = write_author(documents=40)
    held = make_dataset(documents, chunks).heldout_texts[0]
    quoted = Correction("t3", "What did I write?", held[:200], "Nothing.")
    told = make_dataset(documents, chunks, 0, [*ROWS, quoted])
    assert (told.feedback["taken"], told.feedback["heldout"]) == (2, 1)
    assert held in told.heldout_texts
    corrected = Correction("t4", "What did I write?", "Something else entirely.", held[:200])
    told = make_dataset(documents, chunks, 0, [*ROWS, corrected])
    assert told.feedback["taken"] == 3
    assert [row.prompt for row in told.preferences if row.kind == "correction"] == [
        ROWS[0].question
    ]
    told = make_dataset(documents, chunks, 0, [*ROWS, quoted])
    assert "What did I write?" not in [pair.prompt for pair in told.pairs]
    assert sum(row.kind == "correction" for row in told.preferences) == 1


@pytest.mark.parametrize(
    ("cited", "found"),
    [
        ("docs/7.md", "docs/7.md"),
        ("docs/7.md#a-heading", "docs/7.md"),
        ("7.md", "docs/7.md"),
        ("my/notes/docs/7.md", "docs/7.md"),
        ("https://author.example/seven/", "docs/7.md"),
        ("other/7.md", None),
        ("twice.md", None),
        ("docs/77.md", None),
        ("", None),
        ("#top", None),
    ],
)
def test_a_correction_that_names_a_document_asks_for_it(write_author, cited, found):
    documents, chunks = write_author(documents=12)
    documents[7] = dataclasses.replace(documents[7], link="https://author.example/seven")
    for place in (3, 4):
        documents[place] = dataclasses.replace(documents[place], link=f"{place}/twice.md")
    row = Correction("t4", "What about seven?", "See there, it says all of it.", "", (cited,))
    made = make_dataset(documents, chunks, 0, [row, row])
    asked = [one for one in made.questions if one.text == "What about seven?"]
    by_id = {document.id: document.uri for document in documents}
    assert [by_id[one.document_id] for one in asked] == ([found] if found else [])
    assert made.feedback["questions"] == len(asked)


@pytest.mark.torch
def test_preferences_are_tuned_on_after_the_instructions(write_author, tmp_path):
    documents, chunks = write_author(documents=8)
    rows = [
        Correction(f"t{n}", f"What of {n}?", f"The gate keeps run {n}.", f"I sleep on {n}.")
        for n in range(12)
    ]
    lines = []
    made = make_dataset(documents, chunks, 0, rows)
    said = Training(budget=Budget(time="3s"))
    report = train(made, tmp_path / "model", said, Base(), lines.append)
    assert report.dpo["rows"] == len(made.preferences)
    assert report.dpo["steps"] >= 1
    assert report.dpo["loss"] > 0
    assert report.heldout_after_dpo != report.heldout_after_sft
    assert report.heldout_after_dpo < report.heldout_after_sft + 0.2
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert manifest["training"]["dpo"] == report.dpo


def test_feedback_is_an_input_of_training_until_it_is_not_wanted(tmp_path):
    (tmp_path / "a.md").write_text("# A\n\nSome text.")
    settings = Settings(home=tmp_path / "home", embedder="words")
    config = CtConfig.of(str(tmp_path / "a.md"))
    assert corpus_files(config, settings) == [tmp_path / "a.md"]
    feedback.keep(settings.home, ROWS, {})
    assert corpus_files(config, settings)[1:] == feedback.files(settings.home)
    preflight(config, settings)
    feedback.files(settings.home)[0].write_text("changed")
    with pytest.raises(NotReadyError, match="not what was curated"):
        preflight(config, settings)
    without = dataclasses.replace(config, feedback=False)
    preflight(without, settings)
    assert corpus_files(without, settings) == [tmp_path / "a.md"]


def test_the_summary_says_what_became_of_the_corrections():
    found = {"digest": "0123456789abcdef", "taken": 3, "heldout": 0, "questions": 2}
    assert list(summary_of(found)) == ["feedback    3 corrections and 2 questions of 01234567"]
    (line,) = summary_of({**found, "heldout": 1})
    assert line.endswith("of 01234567, 1 left out: they say held-out texts")
    assert summary_of({}) == []
