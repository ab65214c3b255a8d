"""Questions that a person answers, notes, and what may be said of an error."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from llm_twin.alerting import approval, hooks, notes
from llm_twin.alerting.privacy import Privacy
from llm_twin.alerting.store import Store
from llm_twin.errors import ConfigError, NotReadyError, TwinError


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def messages(home):
    with contextlib.closing(Store(home)) as store:
        return store.db.execute("SELECT what, title, body FROM message ORDER BY id").fetchall()


def test_a_question_is_sent_with_what_to_type(home):
    asked = approval.request(home, "Promote 20260101? Ask mary@example.org")
    ((what, title, body),) = messages(home)
    assert (what, title) == ("question", "QUESTION: please answer")
    assert body == (
        "Promote 20260101? Ask [EMAIL]\n"
        f"Yes: invoke alerts.approve {asked.id}\n"
        f"No: invoke alerts.refuse {asked.id}"
    )
    assert approval.recent(home) == [asked]
    assert asked.state == "open"


@pytest.mark.parametrize(("approved", "state"), [(True, "approved"), (False, "refused")])
def test_whoever_asks_waits_for_the_answer(home, approved, state):
    found = []
    waiting = threading.Thread(
        target=lambda: found.append(approval.ask(home, "Promote?", timeout=60, key="run-1"))
    )
    waiting.start()
    asked = approval.request(home, "Promote?", key="run-1")
    approval.answer(home, asked.id[:4], approved, "looks right", "mary")
    waiting.join(10)
    (answered,) = found
    assert (answered.state, answered.by, answered.reason) == (state, "mary", "looks right")
    assert len(messages(home)) == 1


def test_no_answer_in_time_is_a_no(home):
    answered = approval.ask(home, "Promote?", timeout=0)
    assert answered.state == "timed out"
    with pytest.raises(NotReadyError, match=r"not open any more \(timed out\)"):
        approval.answer(home, answered.id, True)


def test_only_the_first_answer_counts(home):
    asked = approval.request(home, "Promote?")
    approval.answer(home, asked.id, False, by="mary")
    with pytest.raises(NotReadyError, match=r"not open any more \(refused by mary\)"):
        approval.answer(home, asked.id, True, by="joe")
    assert approval.find(home, asked.id).state == "refused"


def test_asked_again_after_a_kill_it_is_the_same_question(home):
    code = (
        "import sys; from pathlib import Path; from llm_twin.alerting import approval\n"
        "approval.ask(Path(sys.argv[1]), 'Promote?', 600, 'run-1')"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(home)], env=os.environ)
    try:
        while not (asked := approval.recent(home)) and process.poll() is None:
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait(10)
    approval.answer(home, asked[0].id, True)
    again = approval.ask(home, "Promote?", timeout=0, key="run-1")
    assert (again.id, again.state) == (asked[0].id, "approved")
    assert len(messages(home)) == 1


def test_a_wrong_id_says_where_to_look(home):
    with pytest.raises(NotReadyError, match=r"no such question: abc\. See which there are"):
        approval.answer(home, "abc", True)
    approval.request(home, "One?")
    approval.request(home, "Two?")
    with pytest.raises(NotReadyError, match="more than one question fits"):
        approval.find(home, "")


def test_a_note_is_redacted_and_not_said_twice_in_its_time(home):
    body = notes.lines(Privacy(), "Late.\n\nAsk mary@example.org\n" + "more\n" * 20)
    assert body.splitlines()[:2] == ["Late.", "Ask [EMAIL]"]
    assert len(body.splitlines()) < notes.MOST_LINES
    with contextlib.closing(Store(home)) as store, store.transaction():
        said = [notes.put(store, "note", "info", "t", body, now, 60) for now in (0, 59, 61, 62)]
    assert said == [True, False, True, False]
    assert len(messages(home)) == 2


def test_of_an_error_that_is_not_ours_only_the_type_is_said():
    assert hooks.message(ValueError("password=x")) == "it raised ValueError"
    error = ConfigError("no channel is named", "s3://here", "Set one")
    assert hooks.message(error) == "no channel is named. Set one"
    assert hooks.message(TwinError("it said no", "s3://here")) == "it said no"


def test_an_end_of_a_run_is_the_same_whoever_notices():
    assert hooks.run_key("ct", "r1") == hooks.run_key("ct", "r1", 1) != hooks.run_key("ct", "r1", 2)
