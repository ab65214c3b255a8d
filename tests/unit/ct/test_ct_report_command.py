"""`invoke ct.report` finds what a run returned, and says what to type when there is nothing."""

from contextlib import closing

import pytest
from invoke.collection import Collection
from invoke.program import Program

from ci.report import found, report
from llm_twin.errors import NotReadyError
from llm_twin.flow.records import StageRun
from llm_twin.flow.states import completed
from llm_twin.flow.store import Store


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TWIN_HOME", str(tmp_path))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    return tmp_path


def record(home, run, corpus=None, stages=("ct",)):
    """A run in the history, with what its training returned, if it did."""
    result = {"corpus": corpus, "verdict": {"verdict": "worse"}} if corpus else None
    with closing(Store(home)) as store, store.hold(run):
        store.start(run, "ct", {}, stages, "test")
        done = [StageRun(name, completed(), result=result) for name in stages if corpus]
        store.stages_ended(run, done)


def invoke(line):
    program = Program(namespace=Collection(Collection("ct", report)))
    try:
        program.run(f"invoke {line}")
    except SystemExit as end:
        return end.code
    return 0


def test_the_newest_run_is_told_of_in_its_folder(home, capsys):
    record(home, "20260101-one", "first")
    record(home, "20260102-two", "second")
    assert invoke("ct.report") == 0
    page = home / "logs" / "20260102-two" / "report.html"
    assert str(page) in capsys.readouterr().out
    assert "second" in page.read_text()
    assert "second" in page.with_suffix(".md").read_text()


def test_a_run_is_told_of_by_a_part_of_its_id_where_one_likes(home, tmp_path):
    record(home, "20260101-one", "first")
    record(home, "20260102-two", "second", ("check", "ct"))
    assert invoke(f"ct.report 20260101 --out {tmp_path / 'made'}") == 0
    assert "first" in (tmp_path / "made" / "report.html").read_text()
    with closing(Store(home)) as store:
        assert found(store, "two")[1]["corpus"] == "second"


def test_markdown_alone_writes_nothing(home, capsys):
    record(home, "20260101-one", "first")
    before = sorted(home.rglob("*.md")) + sorted(home.rglob("*.html"))
    assert invoke("ct.report --markdown") == 0
    assert capsys.readouterr().out.startswith("### Training: not promoted: worse")
    assert sorted(home.rglob("*.md")) + sorted(home.rglob("*.html")) == before


def test_what_is_missing_is_said_with_what_to_type(home, tmp_path, capsys):
    with closing(Store(home)) as store, pytest.raises(NotReadyError, match="Type: invoke ct"):
        found(store, "")
    record(home, "20260101-one")
    for line, told in (("ct.report no-such", "no such run"), ("ct.report one", "did not finish")):
        assert invoke(line) == 2
        assert told in capsys.readouterr().err
    record(home, "20260102-two", "second")
    (tmp_path / "file").write_text("")
    assert invoke(f"ct.report --out {tmp_path / 'file'}") == 2
    assert "the report cannot be written" in capsys.readouterr().err
