"""Where the container engine is found, and what is said when it is not there."""

import contextlib
import hashlib
import http.server
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import llm_twin.delivery.engine as module
from llm_twin.delivery.engine import Address, Engine, find_address, find_engine
from llm_twin.errors import ConfigError, NotReadyError, RemoteError

ID = "sha256:" + "1" * 64
VERSION = {"ApiVersion": "1.41"}


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def answering(folder, answers):
    """An HTTP server on a Unix socket; answers are (status, body) by the end of the path."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            ends = (end for end in answers if self.path.endswith(end))
            status, body = answers.get(next(ends, ""), (404, b"404 page not found"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

        def address_string(self):
            return ""

    path = str(folder / "engine.sock")
    with UnixServer(path, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"unix://{path}"
        finally:
            server.shutdown()


def engine_answers(**more):
    return {"/version": (200, json.dumps(VERSION).encode()), **more}


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def add_context(home, name, host, tls=False):
    digest = hashlib.sha256(name.encode()).hexdigest()
    folder = home / ".docker/contexts/meta" / digest
    folder.mkdir(parents=True)
    endpoint = {"Host": host, "SkipTLSVerify": False}
    (folder / "meta.json").write_text(json.dumps({"Name": name, "Endpoints": {"docker": endpoint}}))
    if tls:
        (home / ".docker/contexts/tls" / digest / "docker").mkdir(parents=True)


def test_docker_host_comes_first(home):
    add_context(home, "colima", "unix:///colima.sock")
    env = {"HOME": str(home), "DOCKER_HOST": "tcp://box:2375", "DOCKER_CONTEXT": "colima"}

    assert find_address(env) == Address("tcp://box:2375", None, False, "DOCKER_HOST")


def test_then_the_context_that_is_named_or_current(home):
    add_context(home, "colima", "unix:///colima.sock")
    add_context(home, "remote", "tcp://box:2376", tls=True)
    (home / ".docker/config.json").write_text('{"currentContext": "colima"}')
    env = {"HOME": str(home)}

    assert find_address(env).host == "unix:///colima.sock"
    remote = find_address({**env, "DOCKER_CONTEXT": "remote"})
    assert remote.host == "tcp://box:2376"
    assert remote.certificates.is_relative_to(home / ".docker/contexts/tls")
    assert remote.verify
    assert find_address({**env, "DOCKER_CONTEXT": "default"}).host == "unix:///var/run/docker.sock"
    elsewhere = {**env, "DOCKER_CONFIG": str(home / "none")}
    assert find_address(elsewhere).host == "unix:///var/run/docker.sock"


def test_certificates_are_found_beside_the_configuration_or_where_the_variable_says(home):
    env = {"HOME": str(home), "DOCKER_HOST": "tcp://box:2376"}

    assert find_address({**env, "DOCKER_TLS_VERIFY": "1"}).certificates == home / ".docker"
    named = find_address({**env, "DOCKER_CERT_PATH": "/certs"})
    assert (named.certificates, named.verify) == (Path("/certs"), False)


def test_a_context_that_does_not_exist_or_cannot_be_read_is_named(home):
    add_context(home, "colima", "unix:///colima.sock")
    next(home.glob(".docker/contexts/meta/*/meta.json")).write_text("{")

    with pytest.raises(ConfigError, match=r"no such docker context: gone\. Type: docker context"):
        find_address({"HOME": str(home), "DOCKER_CONTEXT": "gone"})
    with pytest.raises(ConfigError, match=r"settings cannot be read .*meta\.json"):
        find_address({"HOME": str(home), "DOCKER_CONTEXT": "colima"})


def test_no_engine_at_all(tmp_path):
    with pytest.raises(NotReadyError) as caught:
        find_engine({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"})

    assert str(caught.value) == (
        f"There is no container engine: unix://{tmp_path}/none.sock (DOCKER_HOST). "
        "Start it: systemctl start docker, or dockerd as root"
    )


def test_a_socket_that_a_dead_engine_left_behind(tmp_path):
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    address = Address(f"unix://{path}")

    for ask in (lambda: Engine.connect(address), lambda: address.image_id("x")):
        with pytest.raises(NotReadyError, match=r"has ended and left .*: unix://.*\. Start it"):
            ask()


def test_a_socket_that_is_not_for_this_user(tmp_path):
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    with answering(tmp_path, engine_answers()) as host:
        (tmp_path / "engine.sock").chmod(0)
        # What is imported lies where nobody may look.
        import docker.tls  # noqa: F401

        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(NotReadyError, match=r"may not use .*\. Type: sudo usermod -aG"):
                Engine.connect(Address(host))
        finally:
            os.seteuid(user)


@pytest.mark.parametrize("body", [b"404 page not found", b"<html>"])
def test_something_else_listens_there(tmp_path, body):
    with (
        answering(tmp_path, {"/version": (200 if b"html" in body else 404, body)}) as host,
        pytest.raises(RemoteError, match=r"no container engine answers .*\. Set DOCKER_HOST"),
    ):
        Engine.connect(Address(host))


def test_an_engine_that_accepts_and_says_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.2)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        address = Address(f"unix://{tmp_path}/s")
        for ask in (lambda: Engine.connect(address), lambda: address.image_id("x")):
            with pytest.raises(NotReadyError, match=r"does not answer: .*\. Look whether"):
                ask()


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("ssh://root@box", r"behind ssh .*: ssh://root@box\. Forward its socket: ssh -nNTL"),
        ("http+foo://x", r"address cannot be used: .*\. Set DOCKER_HOST like unix:"),
        ("npipe:////./pipe/docker", r"address cannot be used"),
        ("tcp://box.invalid:2375", r"host is unknown: .*\. Check DOCKER_HOST"),
    ],
)
def test_an_address_that_cannot_work(host, words, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises((ConfigError, NotReadyError), match=words):
        find_engine({"DOCKER_HOST": host})


def test_certificates_that_are_missing_or_do_not_fit(tmp_path):
    tls = {"DOCKER_HOST": "tcp://127.0.0.1:1", "DOCKER_TLS_VERIFY": "1"}
    with pytest.raises(ConfigError, match=r"wants other certificates: .*\. Set DOCKER_TLS_VERIFY"):
        find_engine({**tls, "DOCKER_CERT_PATH": str(tmp_path)})

    for name in ("ca", "cert", "key"):
        (tmp_path / f"{name}.pem").write_text("no certificate")
    with pytest.raises((ConfigError, NotReadyError)):
        find_engine({**tls, "DOCKER_CERT_PATH": str(tmp_path)})


def test_an_image_is_looked_up_with_and_without_the_sdk(tmp_path):
    found = {"/images/r/x:1/json": (200, json.dumps({"Id": ID}).encode()),
             "/images/none/json": (404, b'{"message": "No such image"}'),
             "/images/odd/json": (500, b'{"message": "disk on fire"}')}  # fmt: skip
    with answering(tmp_path, engine_answers(**found)) as host:
        address = Address(host)
        engine = Engine.connect(address)

        assert address.image_id("r/x:1") == engine.image_id("r/x:1") == ID
        assert address.image_id("none") == engine.image_id("none") == ""
        with pytest.raises(RemoteError, match="no answer about an image: disk on fire"):
            address.image_id("odd")
        with pytest.raises(RemoteError, match="no container engine answers"):
            address.image_id("html")


def test_an_engine_elsewhere_is_asked_through_the_sdk():
    with pytest.raises(NotReadyError, match="has ended"):
        Address("tcp://127.0.0.1:1").image_id("x")


def test_finding_the_address_does_not_import_the_sdk(tmp_path):
    code = (
        "import sys; from llm_twin.delivery.engine import find_address;"
        "import llm_twin.delivery.context, llm_twin.delivery.buildkit, llm_twin.delivery.progress;"
        "find_address(); print({'docker', 'requests', 'grpc', 'rich'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]

    assert subprocess.run(command, capture_output=True, text=True, timeout=60).stdout == "set()\n"


def test_stored_logins_are_found_by_registry(tmp_path, monkeypatch):
    login = {"auths": {"localhost:5000": {"auth": "bWU6cGFzcw=="}}}  # pragma: allowlist secret
    (tmp_path / "config.json").write_text(json.dumps(login))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with answering(tmp_path, engine_answers()) as host:
        engine = Engine.connect(Address(host))

        assert engine.credentials("localhost:5000") == ("me", "pass")
        assert engine.credentials("elsewhere:5000") == ("", "")


def test_a_credential_helper_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"credHelpers": {"localhost:5000": "nowhere"}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with (
        answering(tmp_path, engine_answers()) as host,
        pytest.raises(ConfigError, match=r"credentials of localhost:5000 could not be read"),
    ):
        Engine.connect(Address(host)).credentials("localhost:5000")


def test_room_that_the_build_cache_would_give_back(tmp_path):
    cache = [{"Size": 5, "InUse": False}, {"Size": 7, "InUse": True}, {"Size": 9, "InUse": False,
             "Shared": True}]  # fmt: skip
    answers = engine_answers(**{"/system/df": (200, json.dumps({"BuildCache": cache}).encode())})
    with answering(tmp_path, answers) as host:
        assert Engine.connect(Address(host)).reclaimable() == 5
    (tmp_path / "engine.sock").unlink()
    with answering(tmp_path, engine_answers()) as host:
        assert Engine.connect(Address(host)).reclaimable() == 0
