"""Pushes from a real engine to a real registry, and every way in which they fail."""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_twin.delivery.artifacts import attach, attached, document
from llm_twin.delivery.credentials import Credentials
from llm_twin.delivery.engine import Address, Engine
from llm_twin.delivery.local_registry import IMAGE, registry_down, registry_status, registry_up
from llm_twin.delivery.push import push
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import INDEXES, Registry
from llm_twin.errors import BusyError, ConfigError, NotReadyError, RemoteError, TwinError
from tests.integration.registry_fixtures import (
    Wire,
    certificate,
    damage,
    docker_registry,
    free_port,
    import_image,
    put_image,
    running_http,
)

USER = Credentials("twin", "right")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def host(folder):
    """A registry without TLS and password."""
    with docker_registry(folder) as found:
        yield found


@pytest.fixture
def registry(host):
    return Registry.open(host, lambda: None)


@pytest.fixture(scope="module")
def image(engine):
    """An image of 8 MB."""
    return import_image(engine, "llm-twin-push:test", 8_000_000)


def port_of(host):
    return int(host.rpartition(":")[2])


# What goes well


def test_a_pushed_image_is_in_the_registry_whole(engine, registry, host, image):
    ref = Reference.parse(f"{host}/whole:src-1")
    assert registry.head(ref) is None
    lines = []
    digest = push(engine, image, ref, registry, lines.append)
    assert registry.head(ref) == digest
    assert registry.verify(ref, digest) > 7_000_000
    assert any(line.endswith(": pushed") for line in lines)
    assert any("of 8 MB" in line for line in lines)
    lines.clear()
    assert push(engine, image, ref, registry, lines.append) == digest
    assert lines == []


def test_a_moving_tag_needs_no_engine(registry, host):
    ref = Reference.parse(f"{host}/moving:src-1")
    digest = put_image(registry, str(ref))
    assert str(registry.retag(ref, "latest")) == f"{host}/moving:latest"
    assert registry.head(ref.tagged("latest")) == digest
    other = put_image(registry, f"{host}/moving:src-2", b"another layer")
    registry.retag(ref.tagged("src-2"), "latest")
    assert registry.head(ref.tagged("latest")) == other != digest
    assert registry.delete(ref) is True
    assert registry.head(ref) is None
    assert registry.delete(ref) is False


def test_documents_are_attached_to_an_image_and_found_again(registry, host):
    ref = Reference.parse(f"{host}/documents:src-1")
    put_image(registry, str(ref))
    sbom, provenance = "application/vnd.cyclonedx+json", "application/vnd.in-toto+json"
    assert attached(registry, ref) == []
    first = attach(registry, ref, sbom, b'{"a": 1}', {"made": "today"})
    assert attach(registry, ref, sbom, b'{"a": 1}', {"made": "today"}) == first
    attach(registry, ref, provenance, b'{"b": 2}')
    assert len(attached(registry, ref)) == 2
    (found,) = attached(registry, ref, sbom)
    assert found["annotations"] == {"made": "today"}
    assert document(registry, ref, found) == b'{"a": 1}'
    assert attached(registry, ref.tagged("none")) == []


def test_tls_and_a_password(engine, image, folder, tmp_path_factory, monkeypatch):
    """The engine trusts this registry's certificate by the folder that it looks into itself."""
    home = tmp_path_factory.mktemp("tls")
    tls = certificate(home, "localhost")
    with docker_registry(home, tls=tls, user="twin", password=USER.password) as host:
        trusted = Path("/etc/docker/certs.d", host)
        trusted.mkdir(parents=True)
        (trusted / "ca.crt").write_bytes(tls[0].read_bytes())
        try:
            registry = Registry.open(host, lambda: USER)
            ref = Reference.parse(f"{host}/tls:src-1")
            digest = push(engine, image, ref, registry)
            assert registry.head(ref) == digest
            with pytest.raises(ConfigError, match="refuses the user name or password"):
                push(engine, image, ref, Registry.open(host, lambda: Credentials("twin", "x")))
            with pytest.raises(ConfigError, match=f"docker login {host}"):
                Registry.open(host, lambda: Credentials("twin", "x")).head(ref)
            with pytest.raises(ConfigError, match="wants a login"):
                push(engine, image, ref, Registry.open(host, lambda: None))
            with pytest.raises(ConfigError, match="wants a login"):
                Registry.open(host, lambda: None).head(ref)
        finally:
            (trusted / "ca.crt").unlink()
            trusted.rmdir()
        with pytest.raises(ConfigError, match=r"certificate is not trusted.*certs\.d"):
            Registry(connection_over_tls(host)).head(ref)


def connection_over_tls(host):
    """As to a registry elsewhere, with the system's trust only."""
    from llm_twin.delivery.connection import Connection

    connection = Connection(host, lambda: USER)
    connection.url = f"https://{host}"
    return connection


def test_an_index_is_whole_when_every_platform_is(registry, folder, host):
    ref = Reference.parse(f"{host}/index:all")
    digests = [put_image(registry, f"{host}/index:{each}", each.encode()) for each in ("a", "b")]
    items = [registry.manifest(ref.pinned(digest)).descriptor for digest in digests]
    body = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": items}
    digest = registry.put_manifest(ref, json.dumps(body).encode(), INDEXES[0])
    assert registry.verify(ref, digest) == 2 * 87
    damage(folder / "data", registry.manifest(ref.tagged("b")).data["layers"][0]["digest"])
    with pytest.raises(RemoteError, match="does not hold all of the image"):
        registry.verify(ref, digest)


# What goes wrong


def test_a_push_reported_done_with_a_blob_missing_is_not_done(
    engine, host, folder, image, tmp_path
):
    """The registry is asked at a replica of it that has lost a layer."""
    ref = Reference.parse(f"{host}/lost:src-1")
    registry = Registry.open(host, lambda: None)
    digest = push(engine, image, ref, registry)
    layer = registry.manifest(ref).data["layers"][0]["digest"]
    shutil.copytree(folder / "data", tmp_path / "data")
    damage(tmp_path / "data", layer)
    with docker_registry(tmp_path) as other:
        replica = Registry.open(other, lambda: None)
        with pytest.raises(RemoteError) as caught:
            push(engine, image, ref, replica)
        assert str(caught.value) == (
            f"the registry does not hold all of the image ({layer} is missing): {ref}. "
            "Push again with: invoke build-push --force"
        )
        with pytest.raises(RemoteError, match=f"holds {digest} and not what was pushed"):
            replica.verify(ref, layer)


def test_no_registry_answers(engine, image):
    host = f"localhost:{free_port()}"
    ref = Reference.parse(f"{host}/a:b")
    registry = Registry.open(host, lambda: None)
    for ask in (lambda: push(engine, image, ref, registry), lambda: registry.head(ref)):
        with pytest.raises(NotReadyError) as caught:
            ask()
        assert str(caught.value).startswith("no registry answers: ")
        assert str(caught.value).endswith("Start it with: invoke registry.up")


def test_an_unknown_host(engine, image):
    ref = Reference.parse("registry.invalid/a:b")
    with pytest.raises(ConfigError, match="host is unknown"):
        push(engine, image, ref, Registry.open("registry.invalid", lambda: None))


def test_an_image_that_was_not_built(engine, registry, host):
    with pytest.raises(NotReadyError, match=r"no such image: none:here. Build it: invoke build"):
        push(engine, "none:here", Reference.parse(f"{host}/a:b"), registry)


def test_a_connection_that_is_cut_once_in_a_layer_is_survived(engine, host, tmp_path):
    image = import_image(engine, "llm-twin-cut:test", 8_000_000)
    lines = []
    with Wire(port_of(host), cuts=1) as wire:
        registry = Registry.open(wire.host, lambda: None)
        ref = Reference.parse(f"{wire.host}/cut:once")
        digest = push(engine, image, ref, registry, lines.append)
        assert registry.head(ref) == digest
    assert any("the registry failed. Retrying in" in line for line in lines)


@pytest.mark.slow
def test_a_wire_that_is_always_cut_and_a_full_disk(engine, host, tmp_path, small_disk):
    """At the same time, for the engine tries five times and waits 50 s in between."""
    with (
        ThreadPoolExecutor() as pool,
        docker_registry(tmp_path, data=small_disk) as full,
        Wire(port_of(host), cuts=-1) as wire,
    ):
        works = []
        for place in (wire.host, full):
            name = import_image(engine, f"llm-twin-broken:{port_of(place)}", 8_000_000)
            ref = Reference.parse(f"{place}/broken:src-1")
            registry = Registry.open(place, lambda: None)
            works.append(pool.submit(push, engine, name, ref, registry))
        with pytest.raises(
            RemoteError, match=r"connection to the registry was cut: .*/broken:src-1"
        ):
            works[0].result(200)
        with pytest.raises(RemoteError, match=r"the registry failed .its disk may be full"):
            works[1].result(200)
        with pytest.raises(RemoteError, match="disk"):
            Registry.open(full).put_blob("big", os.urandom(8_000_000))


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MB."""
    path = tmp_path / "small"
    path.mkdir()
    options = ["-t", "tmpfs", "-o", "size=4m", "tmpfs"]
    subprocess.run(["mount", *options, path], check=True, timeout=30)
    yield path
    subprocess.run(["umount", "-l", path], check=True, timeout=30)


def test_a_registry_that_never_answers(engine, image):
    patient = Engine.connect(engine.address)
    patient.api.timeout = 2
    with socket.create_server(("127.0.0.1", 0)) as silent:
        host = f"localhost:{silent.getsockname()[1]}"
        ref = Reference.parse(f"{host}/a:b")
        with pytest.raises(RemoteError, match="heard nothing from the registry for 2 s"):
            push(patient, image, ref, Registry.open(host, lambda: None))


def test_an_engine_that_is_killed_in_the_middle(own_engine):
    with own_engine() as engine, socket.create_server(("127.0.0.1", 0)) as silent:
        name = import_image(engine, "llm-twin-killed:test")
        host = f"localhost:{silent.getsockname()[1]}"
        timer = threading.Timer(1, engine.process.kill)
        timer.start()
        with pytest.raises(RemoteError, match="container engine was lost during the push"):
            push(engine, name, Reference.parse(f"{host}/a:b"), Registry.open(host, lambda: None))
        timer.join(10)


# Engines of other kinds, played by a server


@pytest.fixture
def played():
    """An engine that says these events about a push."""
    from docker import APIClient

    with contextlib.ExitStack() as stack:

        def play(*events, status=200):
            body = "".join(json.dumps(event) + "\r\n" for event in events).encode()

            def answer(request):
                if request.path.endswith("/push?tag=src-1"):
                    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
                    return status, {"Transfer-Encoding": "chunked"}, chunk
                return 201, {}, b""

            url = stack.enter_context(running_http(answer))
            return Engine(Address(url), APIClient(url, version="1.41"))

        yield play


def test_the_containerd_store_says_its_digest_in_words_only(played, registry, host):
    ref = Reference.parse(f"{host}/played:src-1")
    digest = put_image(registry, str(ref))
    engine = played(
        {
            "id": "aa",
            "status": "Pushing",
            "progressDetail": {"current": 9_000_000, "total": 8_000_000},
        },
        {"status": f"src-1: digest: {digest} size: 951"},
        {"aux": {"manifestPushedInsteadOfIndex": True}},
    )
    lines = []
    assert push(engine, "any", ref, registry, lines.append) == digest
    assert lines == ["aa: 9 of 8 MB"]


@pytest.mark.parametrize(
    ("events", "status", "words"),
    [
        ([{"status": "Pushed", "id": "aa"}], 200, "ended the push without a digest"),
        ([{"error": "authorization failed: no basic auth credentials"}], 200, "wants a login"),
        ([{"message": "invalid reference format"}], 400, "saying “invalid reference format”"),
        ([{"message": "no space left on device"}], 500, "disk is full"),
    ],
)
def test_a_push_that_failed_is_never_done(played, registry, host, events, status, words):
    ref = Reference.parse(f"{host}/played-badly:src-1")
    put_image(registry, str(ref))
    with pytest.raises(TwinError, match=words):
        push(played(*events, status=status), "any", ref, registry)


# The registry of this machine


@pytest.fixture
def home(tmp_path):
    yield tmp_path
    registry_down(tmp_path)


def start(home):
    """From a process that ends, as a stage does."""
    code = "import sys, pathlib; from llm_twin.delivery.local_registry import registry_up; "
    code += "print(registry_up(pathlib.Path(sys.argv[1])))"
    env = {**os.environ, "TWIN_STAGE_ID": "its stage"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True, env=env
    )


def test_the_local_registry_outlives_its_starter_and_keeps_its_images(home):
    assert registry_status(home) == ""
    starter = start(home)
    url = starter.communicate(timeout=60)[0].strip()
    assert url.startswith("http://localhost:")
    assert registry_status(home) == registry_up(home) == url
    environment = Path("/proc", (home / "registry/pid").read_text().strip(), "environ")
    assert b"TWIN_STAGE_ID" not in environment.read_bytes()
    registry = Registry.open(url.removeprefix("http://"), lambda: None)
    ref = Reference.parse(f"{registry.connection.host}/kept:v1")
    digest = put_image(registry, str(ref))
    assert registry_down(home) is True
    assert registry_status(home) == ""
    assert registry_down(home) is False
    assert registry_up(home) == url
    assert registry.verify(ref, digest)


def test_a_registry_that_was_killed_is_started_again(home):
    url = registry_up(home)
    os.kill(int((home / "registry/pid").read_text()), 9)
    assert registry_up(home) == url
    assert registry_status(home) == url


def test_many_may_start_it_at_once(home):
    starters = [start(home) for _ in range(4)]
    urls = {starter.communicate(timeout=60)[0] for starter in starters}
    assert urls == {registry_status(home) + "\n"}


def test_another_port_where_the_usual_one_is_taken(home, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    try:
        assert registry_up(home) != registry_up(other)
    finally:
        registry_down(other)


def test_a_registry_that_cannot_start_says_where_to_read(home):
    (home / "registry").mkdir()
    (home / "registry" / "data").write_text("no folder")
    url = registry_up(home)
    with pytest.raises(RemoteError, match="the registry failed"):
        Registry.open(url.removeprefix("http://")).put_blob("a", b"b")


def test_without_image_and_program_nothing_is_started(home, monkeypatch):
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(NotReadyError, match=r"no registry can be started here.*apt-get install"):
        registry_up(home)


def test_a_program_that_ends_at_once_is_said(home, monkeypatch):
    program = home / "docker-registry"
    program.write_text("#!/bin/sh\necho broken\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    with pytest.raises(RemoteError, match=r"does not answer.*Read .*/registry/log"):
        registry_up(home)
    assert (home / "registry/log").read_text() == "broken\n"


def test_a_registry_that_another_process_starts_and_starts(home, monkeypatch):
    monkeypatch.setattr("llm_twin.delivery.local_registry.START_SECONDS", 0.2)
    monkeypatch.setattr("llm_twin.delivery.local_registry.STOP_SECONDS", 0.2)
    (home / "registry").mkdir()
    (home / "registry/pid").write_text("")
    with (home / "registry/alive").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another process is starting the local registry"):
            registry_up(home)
        with pytest.raises(BusyError, match="does not end"):
            registry_down(home)


def test_no_free_port(home, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        monkeypatch.setattr("llm_twin.delivery.local_registry.FIRST_PORT", taken.getsockname()[1])
        monkeypatch.setattr("llm_twin.delivery.local_registry.PORTS", 1)
        with pytest.raises(BusyError, match="no port is free"):
            registry_up(home)


def test_it_is_a_container_where_the_engine_has_the_image(home, engine, registry_image):
    url = registry_up(home, engine)
    try:
        assert registry_up(home, engine) == registry_status(home, engine) == url
        assert not (home / "registry/pid").exists()
        registry = Registry.open(url.removeprefix("http://"), lambda: None)
        ref = Reference.parse(f"{registry.connection.host}/kept:v1")
        digest = put_image(registry, str(ref))
        (container,) = engine.api.containers(filters={"ancestor": IMAGE})
        engine.api.stop(container["Id"], timeout=5)
        assert registry_status(home, engine) == ""
        port = port_of(registry.connection.host)
        taken = socket.create_server(("127.0.0.1", port))
        with taken, pytest.raises(RemoteError, match="engine could not start the local registry"):
            registry_up(home, engine)
        assert registry_up(home, engine) == url
    finally:
        assert registry_down(home, engine) is True
    assert registry_down(home, engine) is False
    url = registry_up(home)
    assert Registry.open(url.removeprefix("http://")).verify(ref, digest)


@pytest.fixture
def registry_image(engine, tmp_path):
    """What the image registry:2 is: the program, listening on port 5000, its data in a volume."""
    import io
    import tarfile

    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": "/var/lib/registry"}},
        "http": {"addr": ":5000"},
    }
    archive = io.BytesIO()
    listed = subprocess.run(
        ["ldd", "/usr/bin/docker-registry"], capture_output=True, text=True, timeout=30
    ).stdout
    needed = [word for word in listed.split() if word.startswith("/")]
    with tarfile.open(fileobj=archive, mode="w", dereference=True) as tar:
        for path in ("/usr/bin/docker-registry", *needed):
            tar.add(path)
        member = tarfile.TarInfo("config.yml")
        data = json.dumps(config).encode()
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    command = 'ENTRYPOINT ["/usr/bin/docker-registry", "serve", "/config.yml"]'
    engine.api.import_image_from_data(archive.getvalue(), *IMAGE.split(":"), changes=[command])
    yield
    engine.api.remove_image(IMAGE, force=True)
