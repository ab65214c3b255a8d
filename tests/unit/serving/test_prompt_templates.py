"""Prompts are files with versions, and nobody's text can break them."""

from __future__ import annotations

import pytest

from llm_twin.errors import ConfigError
from llm_twin.serving.prompts import load_prompt, names


def test_every_template_has_a_version_and_asks_the_question() -> None:
    prompts = [load_prompt(name) for name in names()]

    assert {prompt.name for prompt in prompts} >= {"answer", "local"}
    assert len({prompt.version for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        system, user = prompt.render(question="Why rye?", passages="[1] Rye\nIt is sticky.")
        assert system
        assert "Why rye?" in user


def test_texts_with_placeholders_arrive_as_they_are() -> None:
    nasty = "$passages ${question} $$ {0} %s \\1"

    _, user = load_prompt("answer").render(question=nasty, passages="costs $5, see $HOME")

    assert nasty in user
    assert "costs $5, see $HOME" in user


def test_an_unknown_template_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no such prompt: haiku. Known: answer, local"):
        load_prompt("haiku")
