"""Stages register once, say what they take, and come in an order that respects their needs."""

import pytest

from llm_twin.errors import FlowError
from llm_twin.flow import Registry
from llm_twin.flow.graph import order


@pytest.fixture
def registry():
    return Registry()


def test_a_bare_decorator_registers_the_function_and_returns_it(registry):
    @registry.stage
    def build_push(tag: str = "latest") -> str:
        """Build the image.

        More words.
        """
        return tag

    assert build_push("x") == "x"
    assert "build-push" in registry
    assert len(registry) == 1
    assert registry["build-push"].summary == "Build the image."
    assert registry["build-push"].arguments({"tag": "a", "other": 1}) == {"tag": "a"}


def test_a_stage_without_a_value_for_a_parameter_says_which(registry):
    @registry.stage
    def deploy(target: str) -> None: ...

    with pytest.raises(FlowError, match="deploy needs a value for target"):
        registry["deploy"].arguments({})


def test_an_unknown_stage_names_the_known_ones(registry):
    @registry.stage
    def lint() -> None: ...

    with pytest.raises(FlowError, match=r"no such stage: lnit\. Stages are: lint"):
        registry["lnit"]


def test_two_stages_cannot_share_a_name(registry):
    @registry.stage
    def lint() -> None: ...

    with pytest.raises(FlowError, match="two stages are named lint"):
        registry.stage(lint)


def test_needed_stages_come_first_and_once(registry):
    for name, needs in [("a", []), ("b", ["a"]), ("c", ["a"]), ("d", ["c", "b"]), ("e", [])]:
        registry.stage(name=name, needs=needs)(lambda: None)
    assert [stage.name for stage in order(registry, "d")] == ["a", "c", "b", "d"]
    assert [stage.name for stage in order(registry, "e", "b")] == ["e", "a", "b"]
    assert {stage.name for stage in registry} == set("abcde")


def test_a_circle_is_shown(registry):
    for name, needs in [("a", ["c"]), ("b", ["a"]), ("c", ["b"])]:
        registry.stage(name=name, needs=needs)(lambda: None)
    with pytest.raises(FlowError, match="a -> c -> b -> a"):
        order(registry, "a")
