"""A dataset as files: the same bytes, digests that hold, a card, and pushes that are refused."""

import dataclasses
import hashlib
import json

import pytest
import yaml

from llm_twin.errors import ConfigError, NotReadyError
from llm_twin.model.card import card, summary, verdicts
from llm_twin.model.dataset import make_dataset
from llm_twin.model.dataset_files import check, rows_of, write
from llm_twin.model.hub import push


def test_the_same_dataset_has_the_same_bytes_and_another_one_replaces_it(tmp_path, write_author):
    made = make_dataset(*write_author(documents=20))
    first = write(made, tmp_path / "one")
    again = write(make_dataset(*write_author(documents=20)), tmp_path / "two")
    assert first == again
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert {"README.md", "dataset.dvc", "instructions.jsonl", "manifest.json"} < set(names)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    other = write(make_dataset(*write_author(documents=25)), tmp_path / "one")
    assert other["digest"] != first["digest"]
    assert check(tmp_path / "one") == other
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


def test_every_row_is_in_its_file_and_every_digest_holds(tmp_path, dataset):
    manifest = write(dataset, tmp_path / "set")
    for name, rows in rows_of(dataset).items():
        text = (tmp_path / "set" / name).read_text(encoding="utf-8")
        assert [json.loads(line) for line in text.split("\n") if line] == json.loads(
            json.dumps(rows)
        )
    tracked = yaml.safe_load((tmp_path / "set" / "dataset.dvc").read_text())["outs"]
    assert {one["path"] for one in tracked} == set(manifest["files"])
    for one in tracked:
        raw = (tmp_path / "set" / one["path"]).read_bytes()
        assert (one["md5"], one["size"]) == (hashlib.md5(raw).hexdigest(), len(raw))
        assert manifest["files"][one["path"]]["sha256"] == hashlib.sha256(raw).hexdigest()
    assert manifest["digest"] == dataset.digest


def test_odd_characters_are_written_and_read(tmp_path, dataset):
    odd = dataclasses.replace(dataset, train_texts=["line\u2028end \ud800 “Ω”"])
    write(odd, tmp_path / "set")
    assert "Ω" in (tmp_path / "set" / "texts.jsonl").read_text(encoding="utf-8")
    assert len((tmp_path / "set" / "texts.jsonl").read_bytes().splitlines()) == 1
    check(tmp_path / "set")


def test_a_folder_with_something_else_is_left_alone(tmp_path, dataset):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="something else than a dataset"):
        write(dataset, tmp_path / "mine")
    with pytest.raises(ConfigError, match="needs a folder"):
        write(dataset, tmp_path / "mine" / "notes.txt")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep me"


def test_a_folder_that_was_changed_is_not_a_dataset(tmp_path, dataset):
    with pytest.raises(NotReadyError, match=r"there is no dataset.*invoke ct\.dataset"):
        check(tmp_path)
    write(dataset, tmp_path / "set")
    with (tmp_path / "set" / "texts.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(NotReadyError, match=r"not what was written \(texts\.jsonl\)"):
        check(tmp_path / "set")
    with pytest.raises(NotReadyError, match="not what was written"):
        push(tmp_path / "set", "author/twin", "token")


def test_the_card_counts_what_is_there_and_says_what_is_not(dataset):
    text = card(dataset)
    front = yaml.safe_load(text.split("---")[1])
    assert {one["config_name"] for one in front["configs"]} >= {"instructions", "questions"}
    for kind, count in dataset.sources["pairs"].items():
        held = dataset.sources["heldout_pairs"].get(kind, 0)
        assert f"| {kind} | {count} | {held} |" in text
    assert dataset.digest in text
    assert dataset.sources["leakage"] in text
    assert "licence" in text
    assert f"{len(dataset.pairs):,}" in summary(dataset)[1]
    assert verdicts(dataset.sources)[0] == f"leakage: {dataset.sources['leakage']}"


def test_the_card_names_what_is_missing_and_shows_no_empty_file(write_author):
    documents, chunks = write_author(documents=12)
    bare = [
        dataclasses.replace(chunk, headings=(), title="", text=chunk.text[:70]) for chunk in chunks
    ]
    made = make_dataset(documents, bare)
    text = card(made)
    assert "there are no pairs: its texts are too short" in text
    front = yaml.safe_load(text.split("---")[1])
    assert [one["config_name"] for one in front["configs"]] == ["texts"]


def test_a_push_that_cannot_be_is_refused_before_the_hub_is_asked(tmp_path, dataset):
    write(dataset, tmp_path / "set")
    with pytest.raises(ConfigError, match=r"named author/name: 'twin'.*data\.hub"):
        push(tmp_path / "set", "twin", "token")
    with pytest.raises(ConfigError, match="asks for a token: HF_TOKEN"):
        push(tmp_path / "set", "author/twin", " ")
