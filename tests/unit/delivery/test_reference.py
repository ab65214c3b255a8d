"""Image names: docker's defaults, and what is said about a wrong one."""

import pytest

from llm_twin.delivery.reference import Reference, check_name, is_loopback
from llm_twin.errors import ConfigError

DIGEST = "sha256:" + "0a" * 32  # pragma: allowlist secret
ECR = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("llm-twin", "docker.io/library/llm-twin:latest"),
        ("team/llm-twin:v1", "docker.io/team/llm-twin:v1"),
        ("docker.io/llm-twin", "docker.io/library/llm-twin:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("localhost/llm-twin", "localhost/llm-twin:latest"),
        ("localhost:5000/llm-twin:src-0a", "localhost:5000/llm-twin:src-0a"),
        ("[::1]:5000/a__b/c.d-e", "[::1]:5000/a__b/c.d-e:latest"),
        ("Registry/llm-twin", "Registry/llm-twin:latest"),
        (f"{ECR}/team/llm-twin:v1", f"{ECR}/team/llm-twin:v1"),
        (f"host:1/a@{DIGEST}", f"host:1/a@{DIGEST}"),
        (f"host:1/a:b@{DIGEST}", f"host:1/a:b@{DIGEST}"),
        ("a:5000", "docker.io/library/a:5000"),
    ],
)
def test_a_name_is_completed_as_docker_completes_it(text, whole):
    reference = Reference.parse(text)
    assert str(reference) == whole
    assert Reference.parse(whole) == reference


def test_a_digest_wins_over_a_tag_where_the_registry_is_asked():
    reference = Reference.parse(f"localhost:5000/a:b@{DIGEST}")
    assert reference.version == DIGEST
    assert str(reference.tagged("c")) == "localhost:5000/a:c"
    assert reference.tagged("c").version == "c"
    assert str(reference.pinned(DIGEST)) == f"localhost:5000/a@{DIGEST}"
    assert reference.repository == "localhost:5000/a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("https://localhost:5000/a", "has no scheme"),
        ("0a" * 32, "not the id of an image"),
        ("localhost:5000/LLM-Twin", "has no capital letters"),
        ("LLM-Twin", "has no capital letters"),
        ("a@sha256:12", "a digest is sha256: and 64 digits"),
        ("a@", "a digest is sha256: and 64 digits"),
        ("a:", "a tag is up to 128 letters"),
        ("a:-b", "a tag is up to 128 letters"),
        ("a:" + "b" * 129, "a tag is up to 128 letters"),
        ("", "no name of a repository"),
        ("localhost:5000/", "no name of a repository"),
        ("a//b", "no name of a repository"),
        ("a b", "no name of a repository"),
        ("a" * 256, "no name of a repository"),
        ("-x.y/a", "no address of a registry"),
        ("host:port/a", "no address of a registry"),
        ("localhost:5000/localhost:6000/a", "a tag is up to"),
        ("localhost:5000/b.c/a", "not its address"),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        Reference.parse(text)
    assert caught.value.hint.startswith(("Write it like localhost:5000/", "Leave the registry out"))


def test_another_tag_has_to_be_one():
    with pytest.raises(ConfigError, match=r"no tag of an image: 'a/b'"):
        Reference.parse("a").tagged("a/b")


@pytest.mark.parametrize("name", [f"{ECR}/llm-twin", f"https://{ECR}/llm-twin:v1"])
def test_the_address_of_a_repository_is_not_its_name(name):
    with pytest.raises(ConfigError) as caught:
        check_name(name)
    assert str(caught.value) == (
        f"the name of a repository is wanted, not its address: '{name}'. "
        "Leave the registry out: llm-twin"
    )


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.2:443", True),
        ("[::1]:5000", True),
        ("registry.example:5000", False),
        ("10.0.0.1", False),
    ],
)
def test_this_machine_is_told_from_others(host, is_here):
    assert is_loopback(host) is is_here
