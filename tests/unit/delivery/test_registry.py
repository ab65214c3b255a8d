"""The registry client against servers that answer as a test says, and the words for refusals."""

import base64
import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading

import pytest

from llm_twin.delivery.artifacts import attach, attached
from llm_twin.delivery.connection import Connection
from llm_twin.delivery.credentials import Credentials, find_credentials
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.refusals import explain
from llm_twin.delivery.registry import OCI_MANIFEST, Registry, open_registry
from llm_twin.errors import ConfigError, NotReadyError, RemoteError, TwinError
from llm_twin.settings import Settings
from tests.integration.registry_fixtures import free_port, running_http

MANIFEST = json.dumps({"config": {"digest": "sha256:0", "size": 1}, "layers": []}).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
TYPED = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": DIGEST}
USER = Credentials("twin", "right")
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def serve():
    """Serve what ``answer(request)`` returns: status, headers, body. Keeps the requests."""
    with contextlib.ExitStack() as stack:

        def start(answer, login=lambda: None):
            asked = []

            def kept(request):
                asked.append(request)
                return answer(request)

            host = stack.enter_context(running_http(kept)).removeprefix("http://")
            return Registry.open(host, login, timeout=5), Reference.parse(f"{host}/a:b"), asked

        yield start


# Logging in


def token_server(valid, challenge='Bearer realm="{realm}",service="s",scope="repository:a:pull"'):
    """A registry whose own address gives out tokens; ``valid`` is what it accepts."""

    def answer(request):
        given = request.headers.get("Authorization", "")
        realm = f"http://{request.headers['Host']}/token"
        if request.path.startswith("/token"):
            token = valid["token"] if given in valid["logins"] or b"refresh" in request.data else ""
            status = 200 if token else 401
            return status, JSON, json.dumps({"token": token} if token else {}).encode()
        if given == f"Bearer {valid['token']}":
            return 200, TYPED, MANIFEST
        return 401, {"WWW-Authenticate": challenge.format(realm=realm)}, b""

    return answer


def test_a_token_is_fetched_once_and_again_when_it_is_refused(serve):
    valid = {"token": "one", "logins": [USER.basic]}
    registry, ref, asked = serve(token_server(valid), lambda: USER)
    assert registry.head(ref) == DIGEST
    assert asked[1].path == "/token?service=s&scope=repository%3Aa%3Apull"
    assert registry.head(ref) == DIGEST
    assert len(asked) == 4
    valid["token"] = "two"
    assert registry.manifest(ref).digest == DIGEST
    assert len(asked) == 7


def test_a_token_for_nobody_and_one_for_an_identity(serve):
    registry, ref, asked = serve(token_server({"token": "public", "logins": [""]}))
    assert registry.head(ref) == DIGEST
    identity = Credentials("<token>", "it")
    assert identity.for_engine == {"identitytoken": "it"}
    registry, ref, asked = serve(token_server({"token": "x", "logins": []}), lambda: identity)
    assert registry.head(ref) == DIGEST
    assert b"refresh_token=it" in asked[1].data


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ('Bearer realm="{realm}"', "refuses the user name or password"),
        ('Bearer realm="http://elsewhere.invalid/token"', "token server has no TLS"),
        ("Bearer", "token server has no TLS"),
    ],
)
def test_a_token_server_that_refuses_or_is_not_to_be_trusted(serve, challenge, words):
    registry, ref, _ = serve(token_server({"token": "x", "logins": []}, challenge), lambda: USER)
    with pytest.raises(TwinError, match=words):
        registry.head(ref)


def test_a_token_server_without_tokens(serve):
    def answer(request):
        realm = f'Bearer realm="http://{request.headers["Host"]}/token"'
        is_registry = request.path.startswith("/v2/")
        return (401, {"WWW-Authenticate": realm}, b"") if is_registry else (200, JSON, b"{}")

    registry, ref, _ = serve(answer)
    with pytest.raises(RemoteError, match="token server gave no token: http://"):
        registry.head(ref)


def test_the_password_goes_to_the_registry_only(serve):
    other, _, seen = serve(lambda request: (201, {}, b""))

    def answer(request):
        if request.headers.get("Authorization") != USER.basic:
            return 401, {"WWW-Authenticate": "Basic realm=x"}, b""
        if request.command == "HEAD":
            return 404, {}, b""
        return 202, {"Location": f"{other.connection.url}/upload?id=1"}, b""

    registry, ref, _ = serve(answer, lambda: USER)
    digest = registry.put_blob(ref.name, b"data")
    (upload,) = seen
    assert upload.data == b"data"
    assert upload.path == f"/upload?id=1&digest=sha256%3A{digest[7:]}"
    assert "Authorization" not in upload.headers


def test_credentials_are_fetched_again_once_only(serve):
    calls = []

    def login():
        calls.append(1)
        return Credentials("AWS", f"old {len(calls)}")

    def answer(request):
        status = 403 if "Authorization" in request.headers else 401
        return status, {"WWW-Authenticate": "Basic"}, b""

    registry, ref, asked = serve(answer, login)
    with pytest.raises(ConfigError, match="may not do that"):
        registry.head(ref)
    assert (len(calls), len(asked)) == (2, 3)


# Reading


def test_what_fails_for_a_moment_is_read_again(serve):
    failures = [503, 502, 429]

    def answer(request):
        if failures:
            return failures.pop(), {"Retry-After": "0"}, b""
        return 200, TYPED, MANIFEST

    registry, ref, _ = serve(answer)
    assert registry.head(ref) == DIGEST


def test_what_is_written_is_not_written_again(serve):
    registry, ref, asked = serve(lambda request: (503, {}, b""))
    with pytest.raises(RemoteError, match=r"the registry failed .*: localhost|127\.0\.0\.1"):
        registry.put_manifest(ref, MANIFEST)
    assert len(asked) == 1


def test_a_registry_that_announces_no_digest(serve):
    registry, ref, _ = serve(lambda request: (200, {"Content-Type": OCI_MANIFEST}, MANIFEST))
    assert registry.head(ref) == DIGEST


@pytest.mark.parametrize(
    ("headers", "body", "words"),
    [
        ({**TYPED, "Docker-Content-Digest": "sha256:1"}, MANIFEST, "another image than"),
        ({"Content-Type": "text/html"}, b"<html>", "what answers is no registry"),
        ({"Content-Type": OCI_MANIFEST}, b"[]", "what answers is no registry"),
        ({"Content-Type": OCI_MANIFEST}, b"broken", "what answers is no registry"),
    ],
)
def test_what_is_not_the_image_is_refused(serve, headers, body, words):
    registry, ref, _ = serve(lambda request: (200, headers, body))
    with pytest.raises(RemoteError, match=words):
        registry.manifest(ref)


def test_an_image_that_is_not_there(serve):
    registry, ref, _ = serve(lambda request: (404, JSON, b"{}"))
    with pytest.raises(RemoteError, match=r"no such image: .*/a:b\. Push it: invoke build-push"):
        registry.manifest(ref)
    assert registry.head(ref) is None
    assert registry.has_blob("a", DIGEST) is False


def test_a_blob_that_is_kept_elsewhere_is_there(serve):
    away = {"Location": "https://elsewhere.invalid/it"}
    registry, _, _ = serve(lambda request: (307, away, b""))
    assert registry.has_blob("a", DIGEST, 5) is True


def test_a_blob_of_another_size_is_not_the_blob(serve):
    registry, _, _ = serve(lambda request: (200, {}, b"four"))
    assert registry.has_blob("a", DIGEST) is True
    assert registry.has_blob("a", DIGEST, 5) is False
    with pytest.raises(RemoteError, match="another blob"):
        registry.blob("a", DIGEST)


def test_a_registry_that_does_not_delete(serve):
    registry, ref, _ = serve(
        lambda request: (405, {}, b"") if request.command == "DELETE" else (200, TYPED, MANIFEST)
    )
    with pytest.raises(ConfigError, match="does not delete"):
        registry.delete(ref)


def test_a_registry_that_lists_what_is_attached_itself(serve):
    listed = [{"digest": "sha256:2", "artifactType": "kind"}]

    def answer(request):
        if "/referrers/" in request.path:
            return 200, JSON, json.dumps({"manifests": listed}).encode()
        if request.command == "PUT":
            return 201, {}, b""
        return 200, TYPED, MANIFEST

    registry, ref, asked = serve(answer)
    attach(registry, ref, "kind", b"data")
    (put,) = [each for each in asked if each.command == "PUT"]
    assert json.loads(put.data)["subject"]["digest"] == DIGEST
    assert attached(registry, ref) == listed
    assert attached(registry, ref, "other") == []


# Getting there


def test_tls_is_left_out_on_this_machine_only(tmp_path):
    assert Connection("localhost:5000").url == "http://localhost:5000"
    assert Connection("localhost:5000", ca=tmp_path / "ca").url == "https://localhost:5000"
    assert Connection("registry.example:5000").url == "https://registry.example:5000"
    assert Connection("registry.example", plain_http=True).url == "http://registry.example"
    assert Connection("docker.io").url == "https://registry-1.docker.io"


def test_a_ca_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"CA certificate cannot be read .FileNotFoundError"):
        Registry.open("localhost:1", ca=tmp_path / "none").head(Reference.parse("a"))
    (tmp_path / "no").write_text("certificate")
    with pytest.raises(ConfigError, match=r"CA certificate cannot be read .SSLError"):
        Registry.open("localhost:1", ca=tmp_path / "no").head(Reference.parse("a"))


def test_a_proxy_is_used_where_one_is_set(serve, monkeypatch):
    registry, ref, asked = serve(lambda request: (200, TYPED, MANIFEST))
    monkeypatch.setenv("http_proxy", registry.connection.url)
    beyond = Registry.open("registry.example", lambda: None, plain_http=True)
    assert beyond.head(Reference.parse("registry.example/a:b")) == DIGEST
    assert asked[0].path == "http://registry.example/v2/a/manifests/b"
    assert registry.head(ref) == DIGEST
    assert asked[1].path == "/v2/a/manifests/b"


def test_a_registry_that_hangs_up_or_is_silent(serve):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        ref = Reference.parse(f"{host}/a:b")

        def hang_up():
            for _ in range(6):
                listener.accept()[0].close()

        thread = threading.Thread(target=hang_up, daemon=True)
        thread.start()
        with pytest.raises(RemoteError, match="connection to the registry was cut"):
            Registry.open(host, lambda: None).head(ref)
        with pytest.raises(RemoteError, match=r"was cut|does not answer in time"):
            Registry.open(host, lambda: None, timeout=0.2).put_manifest(ref, MANIFEST)


def test_nothing_listens():
    ref = Reference.parse(f"127.0.0.1:{free_port()}/a:b")
    with pytest.raises(NotReadyError, match=r"no registry answers.*invoke registry\.up"):
        Registry.open(ref.host, lambda: None).head(ref)


def test_opening_ecr_or_any_other_registry_asks_nothing():
    ecr = open_registry("123456789012.dkr.ecr.eu-central-1.amazonaws.com", Settings())
    assert ecr.connection.url.startswith("https://123456789012.dkr.ecr.")
    assert open_registry("localhost:5000", Settings()).connection.credentials() is None


def test_asking_a_registry_imports_no_sdk():
    code = (
        "import sys, llm_twin.delivery.push, llm_twin.delivery.registry, "
        "llm_twin.delivery.local_registry as l; "
        "print(sorted({'docker', 'boto3', 'requests', 'urllib3', 'httpx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"


# docker's own logins


@pytest.fixture
def config(tmp_path):
    """Write docker's config.json and programs, and look a host up."""

    def look(host, content, **programs):
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / "config.json").write_text(text)
        for name, script in programs.items():
            program = tmp_path / f"docker-credential-{name}"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        return find_credentials(host, {"DOCKER_CONFIG": str(tmp_path), "PATH": path})

    return look


def encoded(text):
    return base64.b64encode(text.encode()).decode()


def test_a_login_is_found_where_docker_keeps_it(config, tmp_path, monkeypatch):
    auths = {
        "localhost:5000": {"auth": encoded("twin:a:b")},
        "https://old.example": {"auth": encoded("x:y")},
        "https://index.docker.io/v1/": {"auth": encoded("hub:z")},
        "azure.example": {"auth": encoded("0:"), "identitytoken": "it"},
        "empty.example": {},
    }
    assert config("localhost:5000", {"auths": auths}) == Credentials("twin", "a:b")
    assert config("old.example", {"auths": auths}) == Credentials("x", "y")
    assert config("docker.io", {"auths": auths}) == Credentials("hub", "z")
    assert config("azure.example", {"auths": auths}) == Credentials("<token>", "it")
    assert config("empty.example", {"auths": auths}) is None
    assert config("other.example", {"auths": None}) is None
    assert config("other.example", "[]") is None
    assert find_credentials("a", {"HOME": str(tmp_path)}) is None
    assert "a:b" not in repr(Credentials("twin", "a:b"))


def test_a_credential_helper_is_asked(config):
    says = 'read host; printf \'{"Username": "%s", "Secret": "s"}\' "$host"'
    nothing = "echo credentials not found in native keychain; exit 1"
    helped = {"credHelpers": {"a.example": "one"}, "credsStore": "two"}
    assert config("a.example", helped, one=says, two=nothing) == Credentials("a.example", "s")
    assert config("b.example", helped) is None
    plain = {**helped, "auths": {"b.example": {"auth": encoded("x:y")}}}
    assert config("b.example", plain) == Credentials("x", "y")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "settings cannot be read"),
        ({"auths": {"a": {"auth": "%"}}}, "a login that cannot be read"),
        ({"auths": {"a": {"auth": "/w=="}}}, "a login that cannot be read"),
        ({"credsStore": "missing"}, "gave no answer .FileNotFoundError.: docker-credential-miss"),
        ({"credsStore": "broken"}, "gave no answer .JSONDecodeError"),
        ({"credsStore": "strange"}, "gave no answer .KeyError"),
    ],
)
def test_a_login_that_cannot_be_had_is_said(config, content, words):
    with pytest.raises(ConfigError, match=words):
        config("a", content, broken="exit 1", strange="echo {}")


# What engines and registries say

HOST = "registry.example"


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ("unauthorized: authentication required", ConfigError, "user name or password"),
        (
            "unexpected status from HEAD request to https://x/v2/a/manifests/b: 401 Unauthorized",
            ConfigError,
            "Type: docker login registry.example",
        ),
        ("no basic auth credentials", ConfigError, "wants a login"),
        ("authorization failed: no basic auth credentials", ConfigError, "wants a login"),
        (
            'Get "http://x/v2/": dial tcp: connect: connection refused',
            NotReadyError,
            "Start it, or",
        ),
        ("dial tcp: lookup x on 10.0.0.1:53: no such host", ConfigError, "host is unknown"),
        ("An image does not exist locally with the tag: x/a", NotReadyError, "was not built"),
        (
            "name unknown: The repository with name 'a' does not exist in the registry with id '1'",
            ConfigError,
            "Create it there, or correct its name",
        ),
        ("denied: Your authorization token has expired. Reauthenticate", ConfigError, "expired"),
        (
            "tag invalid: The image tag 'x' already exists in the 'a' repository and cannot be "
            "overwritten because the tag is immutable.",
            RemoteError,
            "cannot be moved",
        ),
        ("denied: requested access to the resource is denied", ConfigError, "may not do that"),
        (
            "denied: User: arn:aws:iam::1:user/x is not authorized to perform: ecr:PutImage on",
            ConfigError,
            "lacks the permission ecr:PutImage",
        ),
        ("write tcp 1->2: use of closed network connection", RemoteError, "was cut"),
        ("unexpected EOF", RemoteError, "was cut"),
        ("received unexpected HTTP status: 500 Internal Server Error", RemoteError, "its disk"),
        ("write /data: no space left on device", RemoteError, "registry's disk is full"),
        ("toomanyrequests: Rate exceeded", RemoteError, "is throttling"),
        ("tls: failed to verify certificate: x509: unknown authority", ConfigError, "certs.d/reg"),
        ("http: server gave HTTP response to HTTPS client", ConfigError, "does not speak TLS"),
        ("Client sent an HTTP request to an HTTPS server.", ConfigError, "wants TLS"),
        ("net/http: request canceled (Client.Timeout exceeded) timed out", RemoteError, "in time"),
        (f"something {'new ' * 60}", RemoteError, "saying “something new new"),
    ],
)
def test_each_refusal_has_its_sentence(said, kind, words):
    error = explain(said, HOST, f"{HOST}/a:b")
    assert type(error) is kind
    assert words in str(error)
    assert f"{HOST}/a:b" in str(error)
    assert len(str(error)) < 300


def test_what_to_do_depends_on_the_registry():
    ecr = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    assert "invoke build-push --create" in str(explain("name unknown: a", ecr))
    assert "aws sts get-caller-identity" in str(explain("token has expired", ecr))
    assert "docker login localhost:5000" in str(explain("401 ", "localhost:5000"))


def test_a_word_of_a_digest_is_no_status():
    assert "no space" not in str(explain("500a", HOST))
    assert "registry.example" in str(explain("odd", HOST))
