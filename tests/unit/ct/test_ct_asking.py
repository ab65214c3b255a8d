"""What `invoke ct` understands, checks beforehand, and says afterwards."""

import os

import pytest

from llm_twin.ct.config import CtConfig
from llm_twin.ct.preflight import check_embedder, check_home, corpus_files, corpus_revision
from llm_twin.ct.run import origin, workspace
from llm_twin.ct.summary import summary
from llm_twin.errors import ConfigError, SpaceError
from llm_twin.model.profile import seconds
from llm_twin.settings import Settings


@pytest.mark.parametrize(
    ("text", "value"), [("60s", 60), ("2m", 120), ("1.5h", 5400), ("90", 90), (".5s", 0.5)]
)
def test_times(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "s", "soon", "-1s", "0", "nan", "inf", "60 s e"])
def test_what_is_no_time(text):
    with pytest.raises(ConfigError, match="a budget is a time above zero"):
        seconds(text)


def test_patterns_are_separated_by_commas():
    config = CtConfig.of("docs", " drafts/*, ,*.bak").with_seed(3)
    assert config.exclude == ("drafts/*", "*.bak")
    assert config.seed == 3


def test_local_corpora_are_files_and_have_no_revision(tmp_path):
    (tmp_path / "a.md").write_text("# A")
    settings = Settings.load({}, tmp_path)
    config = CtConfig.of(str(tmp_path))
    assert corpus_files(config, settings) == [tmp_path / "a.md"]
    assert corpus_revision(config, settings) == {}


@pytest.mark.parametrize("name", ["minilm", "words", "openai:m", "sentence-transformers:x/y"])
def test_known_embedders(name):
    check_embedder(Settings(embedder=name))


@pytest.mark.parametrize("name", ["bogus", "openai", "minilm:x", "openai:"])
def test_unknown_embedders(name):
    with pytest.raises(ConfigError, match="TWIN_EMBEDDER names no embedder"):
        check_embedder(Settings(embedder=name))


def test_a_corpus_that_cannot_fit_is_told_before(tmp_path):
    settings = Settings.load({"TWIN_HOME": str(tmp_path / "deep" / "home")})
    check_home(settings, 1000)
    with pytest.raises(SpaceError, match=r"MB are free where a run needs about \d+ MB"):
        check_home(settings, 2**60)
    assert not (tmp_path / "deep").exists()


def test_temporary_files_stay_in_the_workspace_and_go_with_it(tmp_path):
    import tempfile

    folder = tmp_path / "work"
    (folder / "old").mkdir(parents=True)
    with workspace(folder):
        assert not (folder / "old").exists()
        assert tempfile.mkdtemp().startswith(str(folder))
        assert os.environ["TMPDIR"] == str(folder)
    assert not folder.exists()
    assert "TMPDIR" not in os.environ


def test_the_origin_names_corpus_and_run(monkeypatch):
    monkeypatch.setenv("TWIN_RUN_ID", "r1")
    found = origin(CtConfig.of("docs"))
    assert (found["corpus"], found["run"]) == ("docs", "r1")


def report(**changes):
    base = {
        "corpus": "docs",
        "collected": {"documents": 3, "reused": 2, "skipped": []},
        "cleaned": {"documents": 2, "characters": 12345, "dropped": []},
        "indexed": {"chunks": 9, "indexed": 1, "embedder": ""},
        "trained": {"parameters": 830_000, "cpu_seconds": 59.7},
        "language": {"bits_per_character": 2.1, "untrained": 4, "unigram": 3, "trigram": 1.9},
        "retrieval": {"hit@1": 0.5, "hit@5": 0.75, "mrr": 0.6, "n": 12},
        "verdict": {"verdict": "first", "reasons": ["It is the first model."]},
        "version": "v1",
        "wall_seconds": 80.1,
        "cpu_seconds": 70.2,
        "peak_mb": 800,
    }
    return {**base, **changes}


def test_the_summary_names_what_was_left_out_and_what_is_served():
    skipped = [{"uri": f"{n}.pdf", "reason": "will not parse"} for n in range(12)]
    text = summary(report(collected={"documents": 14, "reused": 0, "skipped": skipped}))
    assert "0.pdf: will not parse" in text
    assert "and 2 more" in text
    assert "embedder: none, words alone" in text
    assert "production  v1" in text
    assert "unchanged: the candidate was not promoted" in summary(report(version=None))
