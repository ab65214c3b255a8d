"""Settings come from the environment, with working defaults and one-line errors."""

import dataclasses
from pathlib import Path

import pytest

from llm_twin.errors import ConfigError, RemoteError, TwinError, UserError
from llm_twin.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_defaults_need_nothing(tmp_path):
    settings = Settings.load({}, tmp_path)
    assert settings.home == tmp_path / ".twin"
    assert settings.embedder_home == tmp_path / ".twin" / "embedder"
    assert settings.embedder == "minilm"


def test_variables_override_and_relative_paths_start_at_the_root(tmp_path):
    env = {"TWIN_HOME": "state", "TWIN_LLM_TIMEOUT": "2.5", "TWIN_MAX_DOCUMENT_MB": "7"}
    settings = Settings.load({**env, "TWIN_EMBEDDER_HOME": "/w"}, tmp_path)
    assert settings.home == tmp_path / "state"
    assert settings.embedder_home == Path("/w")
    assert (settings.llm_timeout, settings.max_document_mb) == (2.5, 7)


def test_a_value_that_is_no_number_says_which_variable():
    with pytest.raises(ConfigError, match=r"TWIN_MAX_DOCUMENT_MB is not a number: 'many'\. Set it"):
        Settings.load({"TWIN_MAX_DOCUMENT_MB": "many"})


def test_keys_are_never_printed():
    env = {"TWIN_LLM_KEY": "hush1", "TWIN_EMBEDDER_KEY": "hush2", "TWIN_INDEX_KEY": "hush3"}
    env["TWIN_CACHE_SECRET"] = "hush4"  # pragma: allowlist secret
    assert "hush" not in repr(Settings.load(env))


@pytest.mark.parametrize("text", ["1", "true", "Yes", "ON"])
def test_a_switch_can_be_turned_on_in_the_usual_ways(text):
    env = {"TWIN_CACHE_SECRET": "s", "TWIN_CACHE_SIGNED": text}
    assert Settings.load(env).cache_signed is True


@pytest.mark.parametrize("text", ["0", "false", "No", "OFF", ""])
def test_a_switch_can_be_turned_off_in_the_usual_ways(text):
    assert Settings.load({"TWIN_CACHE_SIGNED": text}).cache_signed is False


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "s3://my.bucket-1/a/b", ""])
def test_a_shared_cache_is_a_bucket_and_a_prefix(url):
    assert Settings.load({"TWIN_CACHE": url}).cache == url


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"TWIN_CACHE": "gs://b/p"}, r"no place for a cache: 'gs://b/p'\. Set it like s3://bucket"),
        ({"TWIN_CACHE": "/srv/cache"}, r"no place for a cache: '/srv/cache'"),
        ({"TWIN_CACHE": "s3://"}, r"no place for a cache: 's3://'"),
        ({"TWIN_CACHE_SIGNED": "maybe"}, r"TWIN_CACHE_SIGNED is neither on nor off: 'maybe'"),
        ({"TWIN_CACHE_SIGNED": "1"}, r"TWIN_CACHE_SIGNED needs a secret\. Set TWIN_CACHE_SECRET"),
        ({"TWIN_CACHE_TIMEOUT": "0"}, r"TWIN_CACHE_TIMEOUT is not above zero: 0\.0"),
        ({"TWIN_CACHE_SIZE": "big"}, r"TWIN_CACHE_SIZE is not a number: 'big'"),
    ],
)
def test_a_cache_that_cannot_be_used_says_what_to_set(env, message):
    with pytest.raises(ConfigError, match=message):
        Settings.load(env)


def test_every_setting_is_documented():
    text = (ROOT / "docs" / "reference" / "settings.md").read_text()
    for field in dataclasses.fields(Settings):
        assert f"`TWIN_{field.name.upper()}`" in text


def test_an_error_is_one_line_with_what_where_and_what_to_type():
    error = UserError("it is\nbroken", "/path", "Type: fix")
    assert str(error) == "it is broken: /path. Type: fix"
    assert str(TwinError("plain")) == "plain"
    assert (UserError("x").exit_code, RemoteError("x").exit_code) == (2, 1)
