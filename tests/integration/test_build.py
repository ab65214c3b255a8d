"""Images built by a real engine with BuildKit: what comes out, and what goes wrong."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time

import pytest

from llm_twin.delivery.buildkit import Recipe, build
from llm_twin.delivery.context import context_tar
from llm_twin.delivery.engine import Engine, find_engine
from llm_twin.delivery.events import LogLine, Step
from llm_twin.delivery.failure import BuildFailed
from llm_twin.delivery.progress import PlainView
from llm_twin.errors import ConfigError, NotReadyError, RemoteError
from tests.integration.conftest import imported_base
from tests.integration.registry_fixtures import docker_registry

pytestmark = pytest.mark.timeout(300)

SECRET = b"s3cr3t-of-the-build"  # pragma: allowlist secret
# Names of this test run's images, so that two runs on one engine do not meet.
NAME = f"twin-test-{os.getpid()}"


class Story:
    """What a build said."""

    def __init__(self):
        self.events = []
        self.out = io.StringIO()
        self.view = PlainView(self.out)

    def __call__(self, event):
        self.events.append(event)
        self.view(event)

    @property
    def lines(self):
        return [event.text for event in self.events if isinstance(event, LogLine)]

    def ended(self, part):
        return [step for step in self.steps if part in step.name and step.seconds is not None]

    @property
    def steps(self):
        return [event for event in self.events if isinstance(event, Step)]


@pytest.fixture
def story():
    return Story()


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    return root


@pytest.fixture(autouse=True)
def cleaned(engine: Engine):
    yield
    for image in engine.api.images(name=f"{NAME}*"):
        engine.api.remove_image(image["Id"], force=True)


def dockerfile(root, *lines):
    (root / "Dockerfile").write_text("\n".join(lines) + "\n")
    return root


def built(engine, root, story=lambda event: None, secrets=None, credentials=None, **recipe):
    recipe = Recipe(**{"tags": [NAME], "network": "host", **recipe})
    return build(
        engine, context_tar(root), recipe,
        secrets=secrets, credentials=credentials, on_event=story,
    )  # fmt: skip


def failing(engine, root, story=lambda event: None, **arguments):
    with pytest.raises(BuildFailed) as caught:
        built(engine, root, story, **arguments)
    return caught.value


def test_steps_are_told_with_their_times_and_done_once(engine, base_image, root, story):
    (root / "päth").mkdir()
    (root / "päth/run").write_text("#!/bin/sh\necho ran it\n")
    (root / "päth/run").chmod(0o700)
    (root / "link").symlink_to("päth/run")
    dockerfile(
        root,
        f"FROM {base_image} AS unused",
        "RUN exit 1",
        f"FROM {base_image}",
        "ARG WORD",
        "COPY . /app",
        f"RUN --mount=type=cache,target=/cache /app/link; stat -c %a:%u /app/päth/run; echo {NAME}",
        "RUN echo $WORD",
    )

    arguments = {"build_args": {"WORD": "hello"}, "labels": {"made-by": "test"}}
    first = built(engine, root, story, **arguments)
    again = Story()
    second = built(engine, root, again, **arguments)

    assert story.lines == ["ran it", "755:0", NAME, "hello"]
    run = next(step for step in first.steps if "--mount=type=cache" in step.name)
    assert not run.cached
    assert run.seconds > 0
    assert (
        first.image_id == second.image_id == engine.image_id(NAME) == engine.address.image_id(NAME)
    )
    assert engine.api.inspect_image(NAME)["Config"]["Labels"]["made-by"] == "test"
    assert again.lines == []
    assert [step.cached for step in again.ended("RUN")] == [True, True]
    assert "RUN echo hello  CACHED\n" in again.out.getvalue()
    assert "internal" not in story.out.getvalue()


def test_no_cache_does_every_step_again(engine, base_image, root, story):
    dockerfile(root, f"FROM {base_image}", f"RUN echo again {NAME}")
    built(engine, root)
    built(engine, root, story, no_cache=True, platform="linux/amd64")

    assert story.lines == [f"again {NAME}"]
    assert engine.api.inspect_image(NAME)["Architecture"] == "amd64"


def test_a_build_secret_is_in_no_layer_label_log_or_event(engine, base_image, root, story, saved):
    (root / ".env").write_text(f"KEY={SECRET.decode()}")
    (root / ".dockerignore").write_text(".env\n")
    (root.parent / "ca").write_bytes(b"other-secret\n")
    dockerfile(
        root,
        f"FROM {base_image}",
        "COPY . /app",
        "RUN --mount=type=secret,id=token,required=true --mount=type=secret,id=ca "
        "cp /run/secrets/token /tmp/x && wc -c < /tmp/x && cat /tmp/x /run/secrets/ca && rm /tmp/x "
        f"&& echo {NAME}",
    )
    secrets = {"token": SECRET, "ca": root.parent / "ca"}
    made = built(engine, root, story, secrets=secrets)

    assert story.lines == [str(len(SECRET)), "******", NAME]
    archive = saved(NAME).getvalue()
    assert b"app" in archive
    said = repr((story.events, made, engine.api.inspect_image(NAME), engine.api.history(NAME)))
    for secret in (SECRET, b"other-secret"):
        assert secret not in archive
        assert secret.decode() not in said


def test_a_step_that_fails_leaves_its_name_last_lines_and_exit_code(
    engine, base_image, root, story
):
    dockerfile(
        root, f"FROM {base_image}", "RUN for i in $(seq 40); do echo line $i; done; cat /t; exit 3"
    )
    failed = failing(engine, root, story)

    assert str(failed).startswith("A build step ended with exit code 3: [2/2] RUN for i in")
    assert "Its last line was:" in str(failed)
    assert failed.exit_code == 1
    assert failed.status == 3
    assert len(failed.tail) == 30
    assert any("No such file" in line for line in failed.tail)
    shown = story.out.getvalue()
    assert "exit 3  FAILED\n    line 12\n" in shown
    assert "line 40\n" in shown


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["RUNN echo"],
         r"The Dockerfile is wrong \(unknown instruction: RUNN.*\): Dockerfile:2\. Correct"),
        (["COPY nope.txt /"], r"The build context has no such file: /?nope\.txt\. .*dockerignore"),
        (["RUN --mount=type=secret,id=gone,required=true true"],
         "could not be built: .*gone.*secret gone"),
        (["RUN echo 'OSError: [Errno 28] No space left on device'; exit 1"],
         r"The engine's disk is full: \[2/2\] RUN .*(builder|system) prune"),
        (["FROM 127.0.0.1:{port}/none:1"],
         r"base image cannot be had: 127\.0\.0\.1:{port}/none:1\. Check its name.*refused"),
    ],
)  # fmt: skip
def test_mistakes_are_named(engine, base_image, root, lines, words):
    port = str(free_port())
    dockerfile(root, f"FROM {base_image}", *(line.replace("{port}", port) for line in lines))

    failed = failing(engine, root)

    assert re.search(words.replace("{port}", port), str(failed)), str(failed)


def test_a_target_and_a_name_that_are_none(engine, base_image, root):
    dockerfile(root, f"FROM {base_image}")

    assert "nowhere" in str(failing(engine, root, target="nowhere"))
    assert "invalid reference format" in str(failing(engine, root, tags=["Upper Case"]))


def test_a_context_that_breaks_off_fails_with_its_own_words(engine, caplog):
    def pieces():
        yield bytes(512)
        raise ConfigError("A file changed while it was read", "x", "Try again")

    with pytest.raises(ConfigError, match="changed while it was read"):
        build(engine, pieces(), Recipe())
    assert not caplog.records


def test_dockerignore_is_read_as_docker_reads_it(engine, root, tmp_path, saved):
    for name in ("a/b/c.md", "a/b/keep.txt", "a/x.py", "b.pyc", "deep/er/b.pyc", "docs/d.md",
                 "docs/README.md", "e[1].txt", "e1.txt", ".env", "conf/.env", "n/m/__pycache__/z",
                 "tmp/one", "tmp/two", "x.txt", "päth/ü.md"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "link").symlink_to("a")
    (root / ".dockerignore").write_text(
        "# comment\n\n**/*.pyc\n**/__pycache__\n.env\n**/.env\na/b\n!a/b/keep.txt\n/docs/*\n"
        "!docs/README.md\ne[1].txt\n tmp/**\n!tmp/two\n?.txt\n./päth/../päth/*.md\n"
    )
    dockerfile(root, "FROM scratch", "COPY . /")

    docker = shutil.which("docker")
    assert docker
    command = [docker, "build", "-q", "-t", f"{NAME}-cli", "."]
    env = {**os.environ, "DOCKER_BUILDKIT": "0", "DOCKER_CONFIG": str(tmp_path)}
    subprocess.run(command, cwd=root, env=env, check=True, timeout=60, capture_output=True)
    built(engine, root)

    assert layer_files(saved(NAME)) == layer_files(saved(f"{NAME}-cli"))
    assert "a/b/keep.txt" in layer_files(saved(NAME))


def layer_files(archive):
    with tarfile.open(fileobj=archive) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))
        names = set()
        for layer in manifest[0]["Layers"]:
            with tarfile.open(fileobj=tar.extractfile(layer)) as files:
                names |= {info.name for info in files if not info.isdir()}
        return names


BUILD = """
import signal
import sys
from pathlib import Path
from llm_twin.delivery.buildkit import Recipe, build
from llm_twin.delivery.context import context_tar
from llm_twin.delivery.engine import find_engine

def said(event):
    print(event, flush=True)

# A shell in the background has it ignored, and what it starts too.
signal.signal(signal.SIGINT, signal.default_int_handler)
build(find_engine(), context_tar(Path(sys.argv[1])), Recipe(network="host"), on_event=said)
"""


def building(root, engine):
    """A process that has reached the middle of a long step."""
    env = {**os.environ, "DOCKER_HOST": engine.address.host}
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, str(root)], env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    for line in process.stdout:
        if "text='begun'" in line:
            return process
    raise AssertionError(process.stderr.read())


def is_running(word):
    found = subprocess.run(["pgrep", "-fx", f"sleep {word}"], timeout=10, capture_output=True)
    return found.returncode == 0


def test_ctrl_c_ends_the_build_in_the_engine_too(engine, base_image, root):
    seconds = f"{1000 + os.getpid() % 1000}.{os.getpid()}"
    dockerfile(root, f"FROM {base_image}", f"RUN echo begun; sleep {seconds}")
    with building(root, engine) as process:
        assert is_running(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)

    assert errors.rstrip().endswith("KeyboardInterrupt")
    for _ in range(100):
        if not is_running(seconds):
            break
        time.sleep(0.1)
    assert not is_running(seconds)


def test_a_full_disk_of_the_engine_is_said(own_engine, root):
    dockerfile(root, "FROM scratch", "COPY . /")
    with (root / "large").open("wb") as file:
        file.truncate(80 << 20)
    with own_engine(size_mb=60) as engine:
        failed = failing(engine, root)

    assert str(failed).startswith("The engine's disk is full: [internal] load remote build context")
    assert str(failed).endswith("prune")


def test_an_engine_that_is_killed_meanwhile_is_said(own_engine, root):
    dockerfile(root, "FROM scratch", "COPY . /")
    with own_engine() as engine:

        def pieces():
            yield from context_tar(root)
            os.killpg(engine.process.pid, signal.SIGKILL)
            engine.process.wait(10)

        with pytest.raises(RemoteError, match=r"engine went away while .*: unix:.*docker info"):
            build(engine, pieces(), Recipe())
        with pytest.raises(NotReadyError, match=r"engine has ended .*: unix:.*\. Start it"):
            build(engine, context_tar(root), Recipe())


def certificates(folder):
    """A certificate authority, and one certificate of it for both ends of 127.0.0.1."""
    for name in ("ca", "cert"):
        signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem"] if name == "cert" else []
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
                   "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", *signed,
                   "-keyout", f"{name}-key.pem", "-out", f"{name}.pem"]  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, timeout=60, capture_output=True)
    (folder / "cert-key.pem").rename(folder / "key.pem")


def test_an_engine_over_tls_is_used_like_any_other(own_engine, root, tmp_path, monkeypatch, story):
    certificates(tmp_path)
    port = free_port()
    dockerfile(root, "FROM scratch", "COPY Dockerfile /")
    address = {"DOCKER_HOST": f"tcp://127.0.0.1:{port}", "DOCKER_TLS_VERIFY": "1"}
    files = [f"--tls{kind}={tmp_path}/{name}.pem"
             for kind, name in (("cacert", "ca"), ("cert", "cert"), ("key", "key"))]  # fmt: skip
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    with own_engine(options=["--host", address["DOCKER_HOST"], "--tlsverify", *files]):
        engine = find_engine({**address, "DOCKER_CERT_PATH": str(tmp_path)})
        made = built(engine, root, story)
        assert engine.image_id(NAME) == made.image_id
        with pytest.raises(ConfigError, match="wants other certificates"):
            find_engine({"DOCKER_HOST": address["DOCKER_HOST"]})


def test_a_builder_that_has_forgotten_all_takes_the_steps_of_an_earlier_image(
    own_engine, root, story
):
    with own_engine() as engine:
        base = imported_base(engine)
        dockerfile(root, f"FROM {base}", "RUN echo long ago", "COPY Dockerfile /")
        built(engine, root, cache_from=[f"{NAME}:missing"], tags=[f"{NAME}:cache"])
        assert engine.reclaimable() >= 0
        engine.api.prune_builds()
        dockerfile(root, f"FROM {base}", "RUN echo long ago", "COPY Dockerfile /", "# new")
        built(engine, root, story, cache_from=[f"{NAME}:cache"])

    assert [step.cached for step in story.ended("RUN echo long ago")][-1:] == [True]
    assert story.lines == []


@pytest.fixture
def private_registry(tmp_path):
    """A registry that wants a password, as host:port."""
    with docker_registry(tmp_path, user="me", password="pass") as host:  # pragma: allowlist secret
        yield host


def test_a_private_base_image_is_fetched_with_the_credentials_given(
    own_engine, root, private_registry
):
    base = f"{private_registry}/team/base:1"
    login = {"username": "me", "password": "pass"}  # pragma: allowlist secret
    with own_engine() as engine:
        dockerfile(root, "FROM scratch", "COPY Dockerfile /")
        built(engine, root, tags=[base])
        pushed = list(engine.api.push(base, auth_config=login, stream=True, decode=True))
        assert not [event for event in pushed if "error" in event]
        engine.api.remove_image(base)
        dockerfile(root, f"FROM {base}", "COPY Dockerfile /again")

        refused = failing(engine, root, pull=True)
        made = built(engine, root, pull=True, credentials={private_registry: ("me", "pass")})

    assert str(refused).startswith(f"The base image cannot be had: {base}. Check its name")
    assert made.image_id.startswith("sha256:")
