"""ECR: its repositories through boto3, and pushes from a real engine to its own host name."""

# ruff: noqa: F811  (fixtures that are imported are arguments too)

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path

import boto3
import docker
import pytest

from llm_twin.delivery.credentials import Credentials
from llm_twin.delivery.ecr import Ecr, is_ecr, lifecycle
from llm_twin.delivery.image import Options, build_push
from llm_twin.delivery.push import push
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import Registry, open_registry
from llm_twin.delivery.supply_chain import verify_image
from llm_twin.errors import ConfigError, RemoteError
from llm_twin.settings import Settings
from tests.integration.registry_fixtures import (
    ACCOUNT,
    ECR_HOST,
    REGION,
    EcrRules,
    certificate,
    docker_registry,
    free_port,
    import_image,
    moto_server,
    put_image,
    running_http,
)
from tests.integration.test_build_push import host, project  # noqa: F401

SETTINGS = Settings()


@pytest.fixture(scope="module")
def moto():
    with moto_server() as url:
        yield url


@pytest.fixture
def ecr(moto):
    """The registry of the account, empty."""
    import httpx

    httpx.post(f"{moto}/moto-api/reset", timeout=10).raise_for_status()
    return Ecr.open(ECR_HOST, SETTINGS)


@pytest.fixture(scope="module")
def rules(moto, engine, tmp_path_factory):
    """ECR's own host name leads to this machine, over TLS, and the engine trusts it."""
    folder = tmp_path_factory.mktemp("ecr")
    cert, key = certificate(folder, ECR_HOST, "localhost")
    hosts, trusted = Path("/etc/hosts"), Path("/etc/docker/certs.d", ECR_HOST)
    before = hosts.read_text()
    trusted.mkdir(parents=True, exist_ok=True)
    (trusted / "ca.crt").write_bytes(cert.read_bytes())
    try:
        hosts.write_text(f"{before}\n127.0.0.1 {ECR_HOST}\n")
        with (
            docker_registry(folder) as upstream,
            EcrRules(upstream).serving(cert, key, 443) as served,
        ):
            wait_until_the_engine_knows_the_host(engine)
            yield served
    finally:
        hosts.write_text(before)
        (trusted / "ca.crt").unlink()
        trusted.rmdir()


def wait_until_the_engine_knows_the_host(engine):
    """It keeps what it read from /etc/hosts for five seconds."""
    for _ in range(60):
        with pytest.raises(docker.errors.APIError) as refused:
            engine.api.login("AWS", "wrong", registry=ECR_HOST, reauth=True)
        if "no such host" not in str(refused.value):
            return
        time.sleep(0.25)
    pytest.fail("the engine does not find this machine under ECR's name")


@pytest.fixture(scope="module")
def image(engine):
    return import_image(engine, "llm-twin-ecr:test", 100_000)


# What boto3 is asked


def test_a_repository_is_made_when_asked_for(ecr):
    with pytest.raises(ConfigError) as caught:
        ecr.ensure_repository("team/llm-twin")
    assert str(caught.value).startswith(
        f"ECR has no such repository: team/llm-twin in account {ACCOUNT}, region {REGION}. "
        "Type: invoke build-push --create"
    )
    assert ecr.ensure_repository("team/llm-twin", create=True, keep=7, tags={"app": "x"}) is True
    assert ecr.ensure_repository("team/llm-twin", create=True) is False
    assert ecr.ensure_repository("team/llm-twin") is False
    (made,) = ecr.client.describe_repositories()["repositories"]
    assert made["imageTagMutability"] == "IMMUTABLE_WITH_EXCLUSION"
    assert [each["filter"] for each in made["imageTagMutabilityExclusionFilters"]] == [
        "latest",
        "git-*",
        "branch-*",
        "sha256-*",
    ]
    assert made["imageScanningConfiguration"] == {"scanOnPush": True}
    assert made["encryptionConfiguration"] == {"encryptionType": "AES256"}
    policy = ecr.client.get_lifecycle_policy(repositoryName="team/llm-twin")["lifecyclePolicyText"]
    assert json.loads(policy) == lifecycle(7)
    tags = ecr.client.list_tags_for_resource(resourceArn=made["repositoryArn"])["tags"]
    assert tags == [{"Key": "app", "Value": "x"}]


def test_every_tag_is_immutable_where_none_moves(ecr):
    assert ecr.ensure_repository("fixed", create=True, moving=()) is True
    (made,) = ecr.client.describe_repositories()["repositories"]
    assert made["imageTagMutability"] == "IMMUTABLE"
    assert ecr._create("fixed", (), 1, {}) is False  # another was faster


def test_the_address_of_a_repository_is_not_its_name(ecr):
    with pytest.raises(ConfigError, match="Leave the registry out: llm-twin"):
        ecr.ensure_repository(f"{ECR_HOST}/llm-twin")


def test_only_addresses_of_ecr_are_ecr():
    assert is_ecr(ECR_HOST)
    assert not is_ecr("localhost:5000")
    with pytest.raises(ConfigError, match="no address of an ECR registry: 'localhost:5000'"):
        Ecr.open("localhost:5000", SETTINGS)


def test_a_password_is_for_the_user_aws_and_is_not_printed(ecr):
    credentials = ecr.login()
    assert credentials.username == "AWS"
    assert credentials.password not in repr(credentials)


@pytest.mark.parametrize(
    ("status", "code", "message", "words"),
    [
        (
            400,
            "AccessDeniedException",
            f"User: arn:aws:iam::{ACCOUNT}:user/ci is not authorized to perform: "
            "ecr:DescribeRepositories on resource: arn:aws:ecr:x",
            "lack the permission ecr:DescribeRepositories",
        ),
        (400, "ExpiredTokenException", "old", "does not accept these credentials any more"),
        (400, "ThrottlingException", "Rate exceeded", "AWS is throttling requests"),
        (500, "ServerException", "", "AWS failed with ServerException"),
    ],
)
def test_refusals_of_aws_in_plain_words(moto, monkeypatch, status, code, message, words):
    body = json.dumps({"__type": code, "message": message}).encode()
    with running_http(lambda request: (status, {"x-amzn-errortype": code}, body)) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        with pytest.raises((ConfigError, RemoteError), match=words):
            Ecr.open(ECR_HOST, SETTINGS).ensure_repository("llm-twin")


# What the engine pushes


def test_an_image_goes_to_the_real_host_name_over_tls(ecr, rules, engine, image):
    ecr.ensure_repository("team/llm-twin", create=True)
    registry = open_registry(ECR_HOST, SETTINGS)
    ref = Reference.parse(f"{ECR_HOST}/team/llm-twin:src-0001")
    assert registry.head(ref) is None
    assert ecr.image_digest(ref) is None
    digest = push(engine, image, ref, registry)
    assert ecr.image_digest(ref) == registry.head(ref) == digest
    assert ecr.image_digest(ref.pinned(digest)) == digest
    moved = registry.retag(ref, "latest")
    assert ecr.image_digest(moved) == digest
    listed = boto3.client("ecr", region_name=REGION).describe_images(repositoryName=ref.name)
    assert {each["imageDigest"] for each in listed["imageDetails"]} == {digest}


def test_build_push_makes_the_repository_and_delivers_to_it(ecr, rules, project):
    root, settings = project
    settings = replace(settings, registry=ECR_HOST)
    with pytest.raises(ConfigError, match=r"no such repository.*build-push --create"):
        build_push(settings, root, Options())
    done = build_push(settings, root, Options(create=True))
    images = ecr.client.describe_images(repositoryName=settings.repository)["imageDetails"]
    (tags,) = [each["imageTags"] for each in images if each["imageDigest"] == done.digest]
    assert sorted(tags) == sorted(done.tags)
    verified = verify_image(open_registry(ECR_HOST, settings), Reference.parse(done.reference))
    assert verified.ok, verified.checks

    assert build_push(settings, root, Options()).image_id == ""
    (root / "src" / "app.py").write_text("print('two')\n")
    assert build_push(settings, root, Options()).digest != done.digest
    with pytest.raises(RemoteError, match="cannot be moved"):
        build_push(settings, root, Options(force=True, pull=False))


def test_a_tag_that_cannot_move(ecr, rules, engine, image):
    ecr.ensure_repository("fixed", create=True)
    registry = open_registry(ECR_HOST, SETTINGS)
    ref = Reference.parse(f"{ECR_HOST}/fixed:src-1")
    push(engine, image, ref, registry)
    other = import_image(engine, "llm-twin-ecr-other:test")
    with pytest.raises(RemoteError) as caught:
        push(engine, other, ref, registry)
    assert str(caught.value).startswith(
        f"the tag is taken by another image and cannot be moved: {ref}. "
    )
    with pytest.raises(RemoteError, match="cannot be moved"):
        put_image(registry, str(ref), b"by hand")
    push(engine, image, ref.tagged("latest"), registry)
    push(engine, other, ref.tagged("latest"), registry)


def test_a_repository_that_is_missing(ecr, rules, engine, image):
    ref = Reference.parse(f"{ECR_HOST}/nope:v1")
    registry = open_registry(ECR_HOST, SETTINGS)
    assert registry.head(ref) is None
    with pytest.raises(ConfigError) as caught:
        push(engine, image, ref, registry)
    assert str(caught.value) == (
        f"the registry has no such repository: {ref}. Create it with: invoke build-push --create"
    )
    with pytest.raises(ConfigError, match="no such repository"):
        ecr.image_digest(ref)


def test_an_expired_password_is_renewed_once(ecr, rules, engine, image):
    ecr.ensure_repository("old", create=True)
    ref = Reference.parse(f"{ECR_HOST}/old:v1")
    stale = Credentials("AWS", "stale")
    rules.old = {"stale"}
    given = iter([stale, ecr.login()])
    registry = Registry.open(ECR_HOST, lambda: next(given))
    digest = push(engine, image, ref, registry)
    assert registry.head(ref) == digest
    rules.refused = 0
    given_again = iter([stale, ecr.login()])
    assert Registry.open(ECR_HOST, lambda: next(given_again)).head(ref) == digest
    assert rules.refused == 1
    for ask in (lambda it: push(engine, image, ref, it), lambda it: it.manifest(ref)):
        with pytest.raises(ConfigError, match="token has expired"):
            ask(Registry.open(ECR_HOST, lambda: stale))


def test_a_permission_that_is_missing_is_named(ecr, rules, engine):
    ecr.ensure_repository("denied", create=True)
    ref = Reference.parse(f"{ECR_HOST}/denied:v1")
    registry = open_registry(ECR_HOST, SETTINGS)
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, rules, "denied", "")
        rules.denied = "ecr:InitiateLayerUpload"
        name = import_image(engine, "llm-twin-denied:test")
        with pytest.raises(ConfigError) as caught:
            push(engine, name, ref, registry)
        assert str(caught.value) == (
            f"this login lacks the permission ecr:InitiateLayerUpload: {ref}. "
            "Add it to the policy of its role"
        )
        with pytest.raises(ConfigError, match="ecr:InitiateLayerUpload"):
            put_image(registry, str(ref))


def test_another_region_has_not_that_repository(ecr, rules):
    ecr.ensure_repository("llm-twin", create=True)
    there = Ecr.open(ECR_HOST.replace(REGION, "us-east-1"), SETTINGS)
    assert there.region == "us-east-1"
    with pytest.raises(ConfigError, match=r"no such repository: .* region us-east-1\. .*region in"):
        there.ensure_repository("llm-twin")


def test_aws_that_does_not_answer(monkeypatch, moto):
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RemoteError, match="AWS does not answer"):
        open_registry(ECR_HOST, SETTINGS).connection.credentials()
