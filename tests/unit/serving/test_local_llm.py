"""The small model of a bundle, really loaded and really writing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm_twin.errors import NotReadyError
from llm_twin.serving import llm as llm_module
from llm_twin.serving.answer import answer
from llm_twin.serving.llm import open_llm
from llm_twin.serving.render import render
from llm_twin.serving.twin import Twin
from llm_twin.settings import Settings

TEXTS = ["Rye binds water.", "The dough turns sticky.", "Wet your hands and a scraper."] * 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model in the shape that training leaves behind."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from llm_twin.model.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("bundle") / "model"
    tokenizer = train_tokenizer(TEXTS, 64, 400)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    tokenizer.save_pretrained(path)
    LlamaForCausalLM(config).save_pretrained(path)
    (path / "manifest.json").write_text(json.dumps({"files": {}}))
    return path


@pytest.mark.torch
def test_the_local_model_answers_and_is_labelled(
    folder: Path, words_twin: Twin, tmp_path: Path
) -> None:
    twin = replace(words_twin, model_path=folder)
    llm = open_llm("local", Settings(home=tmp_path), twin)

    found = answer("Why are rye loaves sticky?", twin, llm, k=2)

    assert found.mode == "local"
    assert "local smoke model v1" in found.model
    assert "does not know what it says" in found.note
    assert len(found.citations) <= 2
    assert "Written by local smoke model v1" in render(found)


@pytest.mark.torch
def test_a_twin_without_a_model_says_so(words_twin: Twin, tmp_path: Path) -> None:
    twin = replace(words_twin, model_path=tmp_path / "model")

    with pytest.raises(NotReadyError, match="invoke ct"):
        open_llm("local", Settings(home=tmp_path), twin)


def test_without_torch_it_says_what_to_install(
    words_twin: Twin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_module, "find_spec", lambda name: None)

    with pytest.raises(NotReadyError, match="needs torch"):
        open_llm("local", Settings(home=tmp_path), words_twin)
