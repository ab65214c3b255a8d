import json
import sys

import pytest
from remotes import ask, attach, rows, score, span, trace

from llm_twin.errors import CorpusError, NotReadyError, SpaceError
from llm_twin.settings import Settings
from llm_twin.tracing import dataset_from_traces, lookup, transfer
from llm_twin.tracing.store.store import Store


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "one")
    yield opened
    opened.close()


def fill(store):
    for number in range(3):
        identity = trace(store, thread_id="t", input={"question": f"Why {number}?"}, tags=["a"])
        part = span(store, identity, usage={"total_tokens": 7})
        score(store, "trace", identity, value=number, reason="because")
        score(store, "trace", identity, author="anna", value=0)
        score(store, "span", part, category_name="c")
        attach(store, "span", part, data=bytes(range(256)))
        ask(store, "POST", f"traces/{identity}/comments", {"text": "look"})


def exported(store, path):
    number = transfer.export_jsonl(store, lookup.traces(store), path)
    return number, path.read_bytes()


def test_an_import_exports_to_the_same_bytes_and_twice_changes_nothing(store, tmp_path):
    fill(store)
    number, first = exported(store, tmp_path / "out" / "a.jsonl")
    other = Store(tmp_path / "two")
    assert transfer.import_jsonl(other, tmp_path / "out" / "a.jsonl") == (3, 0)
    assert exported(other, tmp_path / "b.jsonl") == (3, first)
    before = rows(other, "SELECT * FROM score")
    assert transfer.import_jsonl(other, tmp_path / "out" / "a.jsonl") == (0, 3)
    assert rows(other, "SELECT * FROM score") == before
    assert number == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.jsonl"]


def test_only_what_fits_is_exported(store, tmp_path):
    fill(store)
    found = lookup.traces(store, "twin", "feedback_scores.helpful > 0.7")
    assert transfer.export_jsonl(store, found, tmp_path / "a.jsonl") == 1
    line = json.loads((tmp_path / "a.jsonl").read_text())
    assert (line["input"], line["project_name"]) == ({"question": "Why 2?"}, "twin")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 3 is no trace"),
        ("[]", "line 3 is no trace"),
        ('{"name": "no id"}', "line 3 is no trace"),
        ('{"id": "x", "spans": 7}', "line 3 is no trace"),
        ('{"id": "x", "attachments": [{"file_name": "n"}]}', "line 3 is no trace"),
        ('{"id": "x", "attachments": [{"file_name": "n", "data": "§"}]}', "line 3 is no trace"),
        ('{"id": "x"}', r"line 3 was refused \(id is no UUID: x\)"),
    ],
)
def test_a_broken_line_is_named_and_its_batch_is_not_taken(store, tmp_path, line, why):
    fill(store)
    _, whole = exported(store, tmp_path / "a.jsonl")
    lines = whole.decode().splitlines()
    path = tmp_path / "broken.jsonl"
    path.write_text("\n".join([lines[0], "", line, lines[1]]))
    other = Store(tmp_path / "two")
    with pytest.raises(CorpusError, match=why):
        transfer.import_jsonl(other, path)
    assert rows(other, "SELECT * FROM trace") == []


def test_a_file_that_is_not_there_or_no_text_is_told(store, tmp_path):
    with pytest.raises(CorpusError, match="cannot be read"):
        transfer.import_jsonl(store, tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(CorpusError, match="cannot be read"):
        transfer.import_jsonl(store, tmp_path / "binary")


def test_a_file_that_cannot_be_written_is_told(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match="the file cannot be written"):
        exported(store, tmp_path / "file" / "a.jsonl")


def test_an_attachment_whose_bytes_are_gone_is_left_out(store, tmp_path):
    attach(store, "trace", trace(store))
    for file in store.blobs.iterdir():
        file.unlink()
    _, line = exported(store, tmp_path / "a.jsonl")
    assert json.loads(line)["attachments"] == []


def test_parquet_holds_a_row_for_each_trace(store, tmp_path):
    import pyarrow.parquet

    fill(store)
    found = lookup.traces(store)
    assert transfer.export_parquet(store, found, tmp_path / "a.parquet") == 3
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet").to_pylist()
    assert [json.loads(row["input"])["question"] for row in table] == ["Why 2?", "Why 1?", "Why 0?"]
    assert {row["project_name"] for row in table} == {"twin"}
    assert {row["span_count"] for row in table} == {1}


def test_without_pyarrow_parquet_is_refused_in_words(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(NotReadyError, match=r"need pyarrow.* invoke traces.export --jsonl FILE"):
        transfer.export_parquet(store, lookup.traces(store), tmp_path / "a.parquet")


def test_traces_become_dataset_items_once_for_each_content(store, tmp_path):
    settings = Settings(home=tmp_path / "one", trace_project="twin")
    trace(store, input={"question": "Why?"}, output={"text": "So."})
    trace(store, input={"question": "Why?"}, output={"text": "So."})
    trace(store, input={"question": "Who?"}, output="me", metadata={"correction": "you"})
    trace(store, input={"question": "Where?"}, output="mail anna@example.com")
    with store.database.write() as db:
        # As an earlier version without redaction may have stored it.
        db.execute("UPDATE trace SET body = replace(body, '[EMAIL]', 'anna@example.com')")
    made = dataset_from_traces.make(store, settings, "golden", lookup.traces(store))
    assert made == (3, 1, 1)
    data = [json.loads(row[0])["data"] for row in rows(store, "SELECT body FROM dataset_item")]
    assert {"input": {"question": "Why?"}, "expected_output": {"text": "So."}} in data
    assert {"input": {"question": "Who?"}, "expected_output": "you"} in data
    assert {"input": {"question": "Where?"}, "expected_output": "mail [EMAIL]"} in data
    again = dataset_from_traces.make(store, settings, "golden", lookup.traces(store))
    assert again == (0, 4, 0)
    assert rows(store, "SELECT count(*) FROM dataset_version") == [(1,)]
