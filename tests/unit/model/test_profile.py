"""Profiles: files with defaults, in which no mistake is silent."""

import math
from pathlib import Path

import pytest

from llm_twin.errors import ConfigError
from llm_twin.model import profile
from llm_twin.model.profile import Budget, Profile

SHIPPED = Path(__file__).resolve().parents[3] / "configs" / "ct"


def written(folder: Path, text: str, name: str = "mine") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def test_every_shipped_profile_is_right_and_says_what_it_is_on_one_line():
    found = {path.stem: profile.load(path) for path in SHIPPED.glob("*.yaml")}
    assert {"laptop", "tiny", "gpu", "sagemaker"} <= found.keys()
    for name, one in found.items():
        assert one.line().startswith(name)
        assert one.description in one.line()
        assert one.base.scratch or (len(one.base.revision) == 40 and one.base.license)


def test_sagemaker_is_the_gpu_profile_elsewhere():
    gpu, there = (profile.load(SHIPPED / f"{name}.yaml") for name in ("gpu", "sagemaker"))
    assert there.base == gpu.base
    assert there.training.lora == gpu.training.lora
    assert there.training.sft == gpu.training.sft
    assert (there.remote.stack, gpu.remote.stack) == ("sagemaker", "local")
    assert there.training.budget.seconds == min(2 * 3600, 10 / 1.52 * 3600)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("trainig: {}", "trainig: Extra inputs are not permitted"),
        ("training: {sft: {rate: fast}}", "training.sft.rate: Input should be a valid number"),
        ("training: {sft: {rate: .nan}}", "training.sft.rate"),
        ("base: {model: a/b}", "a base model needs its revision and its license"),
        ("base: {model: a/b, revision: main, license: MIT}", "base.revision"),
        ("training: {budget: {time: soon}}", "a budget is a time above zero"),
        ("training: {budget: {money: 5}}", "needs the price of an hour"),
        ("training: {budget: {money: 5, hourly: 1}}", "set clock to wall"),
        ("training: {device: cpu, lora: {quantize: 4bit}}", "4-bit weights need a GPU"),
        ("remote: {stack: moon}", "remote.stack"),
        ("- a\n- b", "a profile is a mapping"),
        ("a: [", "cannot be read"),
        ("extends: nothing", "there is no such profile"),
        ("extends: mine", "extends itself"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        profile.load(written(tmp_path, text))
    assert said in str(caught.value)


def test_what_extends_another_changes_only_what_it_says(tmp_path):
    written(tmp_path, "training: {sft: {epochs: 5, batch: 2}}\ndescription: low", "low")
    high = profile.load(written(tmp_path, "extends: low\ntraining: {sft: {batch: 4}}"))
    assert (high.name, high.description) == ("mine", "low")
    assert (high.training.sft.epochs, high.training.sft.batch) == (5, 4)
    assert [path.stem for path in profile.files(tmp_path / "mine.yaml")] == ["mine", "low"]


def test_a_profile_is_found_by_name_or_by_path(tmp_path):
    mine = written(tmp_path, "")
    assert profile.find("mine", tmp_path) == mine
    assert profile.find(str(mine), Path("/nowhere")) == mine
    for wrong in ("yours", "../mine", str(tmp_path / "other.yaml")):
        with pytest.raises(ConfigError, match="there is no such profile"):
            profile.find(wrong, tmp_path)


def test_a_budget_on_the_command_line_takes_the_place_of_the_profiles():
    mine = Profile(name="mine", training={"budget": {"time": "3m", "tokens": 600}})
    timed = mine.with_budget("2m").training.budget
    assert (timed.seconds, timed.tokens) == (120, 0)
    counted = mine.with_budget("1.5ktok").training.budget
    assert (counted.seconds, counted.tokens) == (180, 1500)
    assert mine.with_budget("") is mine
    for wrong in ("soon", "0s", "manytok", "0tok", "nantok"):
        with pytest.raises(ConfigError, match="a budget"):
            mine.with_budget(wrong)


def test_money_is_time_at_a_price():
    assert Budget(money=3, hourly=1.5, clock="wall").seconds == 7200
    assert Budget(tokens=5).seconds == math.inf


def test_another_stack_is_one_that_there_is():
    assert Profile(name="mine").with_stack("kubernetes").remote.stack == "kubernetes"
    with pytest.raises(ConfigError, match="Use local, sagemaker, kubernetes"):
        Profile(name="mine").with_stack("moon")
