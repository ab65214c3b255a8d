"""What an image travels with, on a real engine, registry and cosign; and that no secret does."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from ci import supply_chain as stages
from llm_twin.delivery import cosign, provenance, sbom
from llm_twin.delivery.artifacts import attach
from llm_twin.delivery.buildkit import Recipe, build
from llm_twin.delivery.context import context_tar
from llm_twin.delivery.cosign import Signer, find_signer
from llm_twin.delivery.credentials import Credentials
from llm_twin.delivery.image import Options, build_push
from llm_twin.delivery.layers import EngineImage, RegistryImage
from llm_twin.delivery.leaks import Secrets, scan
from llm_twin.delivery.provenance import Provenance
from llm_twin.delivery.push import push
from llm_twin.delivery.reference import Reference
from llm_twin.delivery.registry import INDEXES, OCI_MANIFEST, Registry
from llm_twin.delivery.sources import build_secrets
from llm_twin.delivery.supply_chain import (
    LABELS,
    attach_documents,
    attached_documents,
    verify_image,
)
from llm_twin.errors import ConfigError, NotReadyError, RemoteError, TwinError
from llm_twin.settings import Settings
from tests.integration.conftest import CACHE
from tests.integration.registry_fixtures import damage, docker_registry, import_image, running_http
from tests.integration.test_build_push import promote

pytestmark = pytest.mark.timeout(300)

NAME = f"twin-papers-{os.getpid()}"
FACTS = {
    "commit": "c0ffee" * 6 + "c0ff", "source tag": "src-1", "base digest": "sha256:" + "b2" * 32,
    "model version": "v7", "dataset digest": "d5", "gate": '{"verdict": "better"}',
}  # fmt: skip
USER = Credentials("twin", "right-password")
# Debian 12 has no cosign, the next one does.
SOURCES = """\
Types: deb
URIs: {mirror}
Suites: trixie
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def host(folder):
    """A registry that wants a password."""
    with docker_registry(folder, user=USER.username, password=USER.password) as found:
        yield found


@pytest.fixture(scope="module")
def registry(host):
    return Registry.open(host, lambda: USER)


def make(engine, folder, *lines, tag="x", labels=None, secrets=None):
    """Build an image of a Dockerfile in a folder; its name."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text("\n".join(lines) + "\n")
    recipe = Recipe(tags=[f"{NAME}:{tag}"], labels=labels or {}, network="host")
    build(engine, context_tar(folder), recipe, secrets=secrets)
    return f"{NAME}:{tag}"


@pytest.fixture(scope="module")
def image(engine, base_image, tmp_path_factory):
    """An image with one Python distribution, Debian's packages and the labels of ours."""
    root = tmp_path_factory.mktemp("root")
    info = root / "site" / "demo-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Name: demo\nVersion: 1.2\nLicense-Expression: MIT\n\nText\n")
    labels = {LABELS[name]: value for name, value in FACTS.items()}
    yield make(
        engine, root, f"FROM {base_image}", "COPY site /opt/site", "RUN rm /etc/motd; useradd me",
        "USER me", 'ENTRYPOINT ["false"]', labels=labels,
    )  # fmt: skip
    for found in engine.api.images(name=NAME):
        engine.api.remove_image(found["Id"], force=True)


@pytest.fixture
def pushed(engine, image, registry, host, request):
    """The image in a repository of this test's own, by digest."""
    name = request.node.name.partition("[")[0].replace("_", "-")
    ref = Reference.parse(f"{host}/{name}:x")
    return ref.pinned(push(engine, image, ref, registry))


def statement(ref, **changes):
    made = Provenance(
        name=ref.repository, digest=ref.digest, source_tag=FACTS["source tag"],
        commit=FACTS["commit"], base="base", base_digest=FACTS["base digest"],
        model_version=FACTS["model version"], dataset_digest=FACTS["dataset digest"],
        gate=json.loads(FACTS["gate"]), started="2026-11-23T12:00:00+00:00",
        finished="2026-11-23T12:01:00+00:00",
    )  # fmt: skip
    return replace(made, **changes).document()


@pytest.fixture(scope="module")
def parts(engine, image, host):
    """The parts list of the image for a reference; the image is asked once."""
    inside = sbom._inside(engine, image)
    created = sbom.datetime(2026, 11, 23)
    return lambda ref: sbom.document(inside, ref, created, "v7")


def states(verified):
    return {(check.name, check.state) for check in verified.checks}


def test_the_sbom_lists_what_the_image_says_itself(engine, image):
    ref = Reference.parse("localhost:1/twin").pinned("sha256:" + "a1" * 32)
    first = sbom.make(engine, image, ref)
    second = sbom.make(engine, image, ref)

    host = engine.api.create_host_config(network_mode="none")
    container = engine.api.create_container(
        image, ["-W", "-f", "${Package} ${Version}\n"], entrypoint=["dpkg-query"], host_config=host
    )["Id"]
    engine.api.start(container)
    engine.api.wait(container, timeout=60)
    listed = set(engine.api.logs(container).decode().splitlines())
    engine.api.remove_container(container)
    assert first == second
    assert sbom.problem(first) == ""
    components = json.loads(first)["components"]
    debian = {f"{each['name']} {each['version']}" for each in components
              if each.get("purl", "").startswith("pkg:deb/debian/")}  # fmt: skip
    assert debian == listed
    assert len(listed) > 50
    named = {each["name"]: each for each in components}
    assert named["demo"]["licenses"] == [{"license": {"id": "MIT"}}]
    assert named["python"]["version"].startswith("3.")
    assert named["twin"]["version"] == "v7"
    assert not [each for each in engine.api.containers(all=True) if each["Image"] == image]


def test_an_image_that_cannot_be_asked_is_said(engine, tmp_path, base_image):
    ref = Reference.parse("localhost:1/twin").pinned("sha256:" + "a1" * 32)
    empty = make(engine, tmp_path / "a", "FROM scratch", "COPY Dockerfile /", tag="empty")
    broken = make(
        engine, tmp_path / "b", f"FROM {base_image}",
        "RUN mkdir /x.dist-info && ln -s /x.dist-info/METADATA /x.dist-info/METADATA && "
        "printf '#!/bin/sh\\necho odd >&2; exit 3' > /usr/local/bin/python3 && "
        "chmod +x /usr/local/bin/python3", tag="broken",
    )  # fmt: skip

    with pytest.raises(NotReadyError, match="without python3 cannot be asked"):
        sbom.make(engine, empty, ref)
    with pytest.raises(RemoteError, match=r"cannot be asked what is in it \(odd"):
        sbom.make(engine, broken, ref)
    with pytest.raises(NotReadyError, match="no such image: twin-none:x"):
        sbom.make(engine, "twin-none:x", ref)


def test_an_engine_that_goes_away_is_said(own_engine):
    ref = Reference.parse("localhost:1/twin").pinned("sha256:" + "a1" * 32)
    with own_engine() as engine:
        engine.process.kill()
        engine.process.wait(10)
        with pytest.raises(RemoteError, match="engine failed while it ran the image"):
            sbom.make(engine, "any", ref)
        with pytest.raises(RemoteError, match="engine was lost while it handed out"):
            EngineImage(engine, "any").documents()


def test_an_engine_that_goes_away_while_it_hands_out_an_image_is_said(own_engine):
    with own_engine() as engine:
        image = EngineImage(engine, import_image(engine, f"{NAME}:large", 40_000_000))
        layers = image.layers()
        files = next(layers).files()
        file = next(files)
        assert len(file.read(1000)) == 1000
        engine.process.kill()
        engine.process.wait(10)
        with pytest.raises(RemoteError, match=r"engine was lost while it handed out .*docker info"):
            file.read()


def test_an_image_and_its_papers_belong_together(registry, pushed, parts):
    documents = attach_documents(registry, pushed, parts(pushed), statement(pushed))

    done = verify_image(registry, pushed, expect={"commit": FACTS["commit"]})

    assert done.ok, done.checks
    assert [str(check).split()[:2] for check in done.checks] == [
        ["image", "ok"], ["commit", "ok"], ["SBOM", "ok"], ["provenance", "ok"], ["labels", "ok"],
    ]  # fmt: skip
    assert set(documents) == {sbom.KIND, provenance.KIND}
    assert verify_image(registry, replace(pushed, tag="x", digest="")).ref == pushed


TAMPERED = {
    "an SBOM of another image": (
        lambda ref, parts: (sbom.KIND, parts(ref.pinned("sha256:" + "d4" * 32))),
        ("SBOM", "differs"), "it describes sha256:d4",
    ),
    "an SBOM that is none": (
        lambda ref, parts: (sbom.KIND, b'{"bomFormat": "CycloneDX"}'),
        ("SBOM", "differs"), "required property",
    ),
    "provenance of another image": (
        lambda ref, parts: (provenance.KIND, statement(ref, digest="sha256:" + "d4" * 32)),
        ("provenance", "differs"), "it is about sha256:d4",
    ),
    "provenance that is none": (
        lambda ref, parts: (provenance.KIND, b"[]"), ("provenance", "differs"), "not of type",
    ),
    "another commit": (
        lambda ref, parts: (provenance.KIND, statement(ref, commit="bad")),
        ("labels", "differs"), f"commit: {FACTS['commit']} and not bad",
    ),
    "another gate": (
        lambda ref, parts: (provenance.KIND, statement(ref, gate={"verdict": "worse"})),
        ("labels", "differs"), "gate: ",
    ),
    "another dataset": (
        lambda ref, parts: (provenance.KIND, statement(ref, dataset_digest="")),
        ("labels", "differs"), "dataset digest: d5 and not empty",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERED)
def test_a_document_that_was_put_there_is_found_beside_the_right_one(registry, pushed, parts, what):
    forge, check, words = TAMPERED[what]
    attach_documents(registry, pushed, parts(pushed), statement(pushed))
    kind, data = forge(pushed, parts)
    other = pushed.pinned(copied(registry, pushed, what))
    attach_documents(registry, other, parts(other), statement(other))
    forged = data.replace(pushed.digest.encode(), other.digest.encode())
    attach(registry, other, kind, forged.replace(hexed(pushed), hexed(other)))

    done = verify_image(registry, other)

    assert not done.ok
    assert check in states(done)
    assert any(words in check.note for check in done.checks), done.checks
    assert verify_image(registry, pushed).ok


def hexed(ref):
    return ref.digest.removeprefix("sha256:").encode()


def copied(registry, ref, note):
    """The same image under another digest."""
    data = registry.manifest(ref).data
    body = json.dumps({**data, "mediaType": OCI_MANIFEST, "annotations": {"note": note}}).encode()
    return registry.put_manifest(ref.pinned(""), body)


def test_what_is_missing_is_found(registry, pushed, parts, folder):
    bare = verify_image(registry, pushed)
    assert {("SBOM", "missing"), ("provenance", "missing")} <= states(bare)
    gone = verify_image(registry, pushed.tagged("none"))
    assert states(gone) == {("image", "missing")}
    assert not gone.ok

    attach_documents(registry, pushed, parts(pushed), statement(pushed))
    [attached] = attached_documents(registry, pushed, sbom.KIND)
    layer = registry.manifest(pushed.pinned(attached.digest)).data["layers"][0]["digest"]
    damage(folder / "data", layer)
    assert ("SBOM", "differs") in states(verify_image(registry, pushed))

    [*_, last] = registry.manifest(pushed).data["layers"]
    damage(folder / "data", last["digest"])
    assert states(verify_image(registry, pushed)) == {("image", "differs")}


def test_labels_that_are_not_what_is_expected_or_attested_are_found(
    engine, registry, pushed, parts, tmp_path, host, base_image
):
    labels = {"llm-twin.gate": "{broken"}
    other = make(engine, tmp_path / "a", f"FROM {base_image}", tag="bare", labels=labels)
    ref = Reference.parse(f"{host}/bare:x")
    ref = ref.pinned(push(engine, other, ref, registry))
    attach_documents(registry, ref, parts(ref), statement(ref))

    done = verify_image(registry, ref, expect={"commit": "c1"})

    assert {("labels", "differs"), ("commit", "differs"), ("SBOM", "ok")} <= states(done)
    assert any("commit: no label and not c0ffee" in check.note for check in done.checks)


def test_what_is_no_image_is_said(registry, host):
    ref = Reference.parse(f"{host}/odd:x")
    blob = {"digest": registry.put_blob(ref.name, b"no json"), "size": 7, "mediaType": "x/y"}
    body = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": blob, "layers": [blob]}
    registry.put_manifest(ref, json.dumps(body).encode())

    [check] = verify_image(registry, ref).checks

    assert str(check) == "image           differs  that is no image, or its configuration is broken"


def test_documents_that_are_not_valid_are_not_attached(registry, pushed, parts):
    with pytest.raises(RemoteError, match=r"not valid is not attached \('bomFormat'"):
        attach_documents(registry, pushed, b"{}", statement(pushed))
    with pytest.raises(RemoteError, match="not valid is not attached"):
        attach_documents(registry, pushed, parts(pushed), b"{}")


@pytest.fixture(scope="module")
def cosign_path(tmp_path_factory):
    """cosign on the PATH: the machine's, else Debian's, unpacked once."""
    place = CACHE / "cosign"
    if not shutil.which("cosign") and not place.exists():
        with contextlib.suppress(OSError, StopIteration, subprocess.SubprocessError):
            _fetch_cosign(tmp_path_factory.mktemp("apt"), place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{os.environ['PATH']}{os.pathsep}{CACHE}")
        if not shutil.which("cosign"):
            pytest.skip("optional: there is no cosign, and Debian's archive does not give it")
        patch.setenv("COSIGN_PASSWORD", "pass-of-the-key")
        yield


def _fetch_cosign(folder, place):
    lines = [line for file in Path("/etc/apt/sources.list.d").glob("*.sources")
             for line in file.read_text().splitlines()]  # fmt: skip
    mirror = next(line for line in lines if line.startswith("URIs:") and line.endswith("/debian"))
    (folder / "debian.sources").write_text(SOURCES.format(mirror=mirror.removeprefix("URIs: ")))
    (folder / "lists" / "partial").mkdir(parents=True)
    options = [f"Dir::Etc::sourcelist={folder}/debian.sources", "Dir::Etc::sourceparts=-",
               f"Dir::State::lists={folder}/lists", f"Dir::Cache={folder}/cache",
               "APT::Sandbox::User=root"]  # fmt: skip
    apt = ["apt-get", *(word for option in options for word in ("-o", option))]
    run = lambda *command: subprocess.run(  # noqa: E731
        command, cwd=folder, check=True, capture_output=True, timeout=120
    )
    run(*apt, "update")
    run(*apt, "download", "cosign")
    run("dpkg-deb", "--extract", str(next(folder.glob("cosign_*.deb"))), str(folder / "x"))
    shutil.copy(folder / "x/usr/bin/cosign", place.with_suffix(".new"))
    place.with_suffix(".new").rename(place)


@pytest.fixture(scope="module")
def keys(cosign_path, tmp_path_factory):
    """Two pairs of keys, as folders."""
    folders = [tmp_path_factory.mktemp("keys") for _ in range(2)]
    for folder in folders:
        subprocess.run(
            ["cosign", "generate-key-pair"], cwd=folder, check=True, capture_output=True, timeout=60
        )
    return folders


def test_an_image_and_its_papers_are_signed_and_the_signatures_checked(
    registry, pushed, parts, keys
):
    right, wrong = keys
    documents = attach_documents(registry, pushed, parts(pushed), statement(pushed))
    public = Signer(str(right / "cosign.pub"))
    unsigned = verify_image(registry, pushed, signer=public)
    assert ("signature", "differs") in states(unsigned)

    signer = find_signer("", False, {"COSIGN_KEY": str(right / "cosign.key")})
    signer.sign(registry, [pushed, *map(pushed.pinned, documents.values())])

    done = verify_image(registry, pushed, signer=public)
    assert done.ok, done.checks
    signed = [check.note for check in done.checks if check.name == "signature"]
    assert signed == ["SBOM", "provenance", "image"]
    other = verify_image(registry, pushed, signer=Signer(str(wrong / "cosign.pub")))
    assert [c.state for c in other.checks if c.name == "signature"] == ["differs"] * 3
    assert "cosign verify failed" in other.checks[-1].note

    attach(registry, pushed, provenance.KIND, statement(pushed, builder="somebody else"))
    forged = verify_image(registry, pushed, signer=public)
    assert [c.state for c in forged.checks if c.name == "signature"].count("differs") == 1


def test_signing_that_fails_says_why(registry, pushed, keys, monkeypatch, tmp_path):
    signer = Signer(str(keys[0] / "cosign.key"))
    with pytest.raises(ConfigError, match="only a digest is signed"):
        signer.sign(registry, [pushed.tagged("x")])
    with pytest.raises(RemoteError, match=r"cosign sign failed .*no such file"):
        Signer(str(tmp_path / "none.key")).sign(registry, [pushed])
    monkeypatch.setenv("COSIGN_PASSWORD", "another")
    with pytest.raises(RemoteError, match="is COSIGN_PASSWORD the key's"):
        signer.sign(registry, [pushed])
    slow = tmp_path / "cosign"
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(cosign, "SECONDS", 0.2)
    with pytest.raises(RemoteError, match="did not end within"):
        signer.sign(registry, [pushed])
    monkeypatch.setenv("PATH", str(keys[0]))
    with pytest.raises(NotReadyError, match=r"cosign is not installed: sign\. Install it"):
        signer.sign(registry, [pushed])


def test_without_a_login_cosign_has_the_environment_as_it_is(monkeypatch, tmp_path):
    said = tmp_path / "said"
    fake = tmp_path / "cosign"
    fake.write_text(f'#!/bin/sh\necho "$@ ${{TWIN_COSIGN_LOGIN-none}}" >> {said}\nexit $FAIL\n')
    fake.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("FAIL", "0")
    digest = "sha256:" + "a1" * 32
    ref = Reference.parse(f"registry.example.org/twin@{digest}")
    registry = Registry.open(ref.host, lambda: None)
    identity = "https://github.com/me/twin/.github/workflows/cd.yml@refs/heads/main"

    find_signer("", True, {"ACTIONS_ID_TOKEN_REQUEST_URL": "x"}).sign(registry, [ref])
    Signer(identity=identity).verify(registry, ref)
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(RemoteError, match=r"cosign verify failed \(without a word\)"):
        Signer(identity=identity).verify(registry, ref)

    assert said.read_text().splitlines()[:2] == [
        f"sign --yes {ref} none",
        f"verify --certificate-identity {identity} --certificate-oidc-issuer "
        f"https://token.actions.githubusercontent.com {ref} none",
    ]
    assert find_signer("", False, {}) is None
    with pytest.raises(ConfigError, match="Only a GitHub job can sign without a key"):
        find_signer("", True, {})


VALUES = {
    "TWIN_LLM_KEY": "value-of-a-secret-setting",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",  # pragma: allowlist secret
    "REGISTRY_PASSWORD": "password-of-the-day",  # pragma: allowlist secret
}
IN_FILE = "password-of-the-proxy"
IN_ENV_FILE = "value-of-the-dotenv-file"
ALL = [*VALUES.values(), IN_FILE, IN_ENV_FILE]


@pytest.fixture
def checkout(tmp_path, monkeypatch, base_image, host):
    """A checkout with secrets all around it, and settings."""
    root = tmp_path / "checkout"
    (root / "src").mkdir(parents=True)
    (root / "src" / "app.py").write_text("print('one')\n")
    (root / ".env").write_text(f"API_TOKEN={IN_ENV_FILE}\n")
    (root / ".dockerignore").write_text("**/.*\n")
    conf = tmp_path / "pip.conf"
    conf.write_text(f"[global]\nproxy = http://me:{IN_FILE}@proxy.example.org:3128\n")
    for name, value in {**VALUES, "PIP_CONFIG_FILE": str(conf)}.items():
        monkeypatch.setenv(name, value)
    promote(tmp_path / "home")
    return root, Settings(
        home=tmp_path / "home", embedder="words", base_image=base_image, registry=host,
        repository=f"planted/{tmp_path.name.replace('_', '-')}", build_network="host",
        llm_key=VALUES["TWIN_LLM_KEY"],
    )  # fmt: skip


SOUND = ["ARG BASE=nothing", "FROM ${BASE}", "COPY bundle /twin/models/image", "COPY . /app"]


def secrets_of(checkout):
    root, _ = checkout
    return Secrets.of(os.environ, [root / ".env", Path(os.environ["PIP_CONFIG_FILE"])])


@pytest.fixture
def docker_login(tmp_path, monkeypatch, host):
    """The registry's password where ``docker login`` keeps it."""
    import base64

    auth = base64.b64encode(f"{USER.username}:{USER.password}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def test_a_planted_secret_is_in_nothing_that_is_pushed(
    engine, checkout, registry, docker_login, saved, capsys, monkeypatch
):
    root, settings = checkout
    run = "RUN --mount=type=secret,id=pip,target=/etc/pip.conf cat /etc/pip.conf && ls -a /app"
    (root / "Dockerfile").write_text("\n".join([*SOUND, run]) + "\n")
    said: list[str] = []

    done = build_push(settings, root, Options(), said.append)

    ref = Reference.parse(done.reference)
    events: list[object] = []
    build(
        engine, context_tar(root, extra_files={"bundle": root / "src"}),
        Recipe(tags=[f"{NAME}:again"], network="host", build_args={"BASE": settings.base_image}),
        secrets=build_secrets(), on_event=events.append,
    )  # fmt: skip
    assert any("***" in repr(event) for event in events)
    assert verify_image(registry, ref).ok
    documents = {
        kind: attached_documents(registry, ref, kind)[0].data
        for kind in (sbom.KIND, provenance.KIND)
    }
    everything = b"\n".join(
        [
            "\n".join(said).encode(),
            repr(events).encode(),
            json.dumps(done.to_dict()).encode(),
            json.dumps(engine.api.inspect_image(done.image_id)).encode(),
            json.dumps(engine.api.history(done.image_id)).encode(),
            json.dumps(RegistryImage(registry, ref).documents()).encode(),
            *documents.values(),
            saved(done.image_id).getvalue(),
        ]
    )
    for value in ALL:
        assert value.encode() not in everything
    assert scan(EngineImage(engine, done.image_id), secrets_of(checkout), documents) == []

    monkeypatch.setattr(stages, "ROOT", root)
    stages.verify(Context(), done.reference)
    stages.scan(Context(), done.reference)
    told = capsys.readouterr().out.splitlines()
    assert told[-1] == "no secret was found"
    assert [line.split()[:2] for line in told[-5:-1]] == [
        ["image", "ok"], ["SBOM", "ok"], ["provenance", "ok"], ["labels", "ok"],
    ]  # fmt: skip


def test_a_dockerfile_that_copies_secrets_in_is_found_out(
    engine, checkout, registry, docker_login, capsys, monkeypatch
):
    root, settings = checkout
    (root / ".dockerignore").unlink()
    (root / "Dockerfile").write_text(
        "\n".join(
            [
                *SOUND,
                f"ENV LLM_KEY={VALUES['TWIN_LLM_KEY']}",
                f'LABEL note="it is {VALUES["REGISTRY_PASSWORD"]}"',
                "RUN --mount=type=secret,id=pip,target=/run/pip cp /run/pip /etc/pip.conf",
                f"RUN printf 'a\\nb\\n{VALUES['AWS_SECRET_ACCESS_KEY']}' > /opt/odd",
                "RUN rm /etc/pip.conf /app/.env",
            ]
        )
        + "\n"
    )
    done = build_push(settings, root, Options(), lambda line: None)

    found = scan(EngineImage(engine, done.image_id), secrets_of(checkout))

    told = {(each.path, each.line, each.kind, each.deleted) for each in found}
    assert {
        ("app/.env", 0, "a file that has no business in an image", True),
        ("app/.env", 1, "what .env holds", True),
        ("etc/pip.conf", 2, "what pip.conf holds", True),
        ("etc/pip.conf", 2, "Basic Auth Credentials", True),
        ("opt/odd", 3, "the value of AWS_SECRET_ACCESS_KEY", False),
        (".Config.Labels.note", 0, "the value of REGISTRY_PASSWORD", False),
    } <= {(path.replace(".Labels", ".Config.Labels") if path == ".Labels.note" else path, *rest)
          for path, *rest in told}  # fmt: skip
    environment = [each for each in found if ".Env[" in each.path]
    assert {each.kind for each in environment} == {
        "the value of TWIN_LLM_KEY", "a variable that is named like a secret",
    }  # fmt: skip
    assert any(each.where == "history" for each in found)
    monkeypatch.setattr(stages, "ROOT", root)
    with pytest.raises(Exit) as ended:
        stages.scan(Context(), done.reference)
    assert ended.value.code == 1
    pulled = capsys.readouterr().out
    for each in found:
        if each.where.startswith("layer"):
            assert str(each).partition(": ")[2] in pulled
    printed = pulled + repr(found) + str(ended.value)
    for value in ALL:
        assert value not in printed


def test_an_image_is_the_same_from_the_engine_and_from_the_registry(
    engine, image, registry, pushed, monkeypatch
):
    monkeypatch.setattr("llm_twin.delivery.layers.RANGE", 1 << 20)
    read = lambda image: {  # noqa: E731
        (file.path, file.hides, len(file.read()))
        for layer in image.layers()
        for file in layer.files()
    }

    here, there = read(EngineImage(engine, image)), read(RegistryImage(registry, pushed))

    assert here == there
    assert ("opt/site/demo-1.2.dist-info/METADATA", "", 54) in here
    assert ("etc/.wh.motd", "etc/motd", 0) in here
    with pytest.raises(NotReadyError, match="no such image: twin-none:x"):
        EngineImage(engine, "twin-none:x").documents()
    with pytest.raises(NotReadyError, match="no such image: twin-none:x"):
        list(EngineImage(engine, "twin-none:x").layers())


def test_every_platform_of_an_image_is_looked_at(registry, pushed, parts):
    item = {"mediaType": OCI_MANIFEST, "size": 1, "digest": pushed.digest}
    attestation = {**item, "digest": copied(registry, pushed, "x"), "annotations": {"about": "it"}}
    data = {"schemaVersion": 2, "mediaType": INDEXES[0], "manifests": [item, attestation]}
    body = json.dumps(data).encode()
    index = pushed.pinned(registry.put_manifest(pushed.pinned(""), body, INDEXES[0]))
    image = RegistryImage(registry, index)
    attach_documents(registry, index, parts(index), statement(index))

    assert [each["layers"] for each in image.manifests()] == [
        registry.manifest(pushed).data["layers"]
    ]
    assert verify_image(registry, index).ok


def test_a_registry_without_ranges_is_read_too():
    blob = gzip.compress(b"x" * 20_000)

    def answer(asked):
        return (200, {}, blob) if "/blobs/" in asked.path else (404, {}, b"")

    with running_http(answer) as url:
        host = url.removeprefix("http://")
        image = RegistryImage(Registry.open(host, lambda: None), Reference.parse(f"{host}/x:1"))
        assert list(image._blob("sha256:1", 50_000_000)) == [blob]


def test_the_dockerfile_stage_says_what_hadolint_says(tmp_path, monkeypatch, capfd):
    stages.dockerfile()
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp\n")
    monkeypatch.setattr(stages, "ROOT", tmp_path)

    with pytest.raises(TwinError, match="hadolint complains; see above: Dockerfile"):
        stages.dockerfile()
    assert "DL3007" in capfd.readouterr().out


def test_the_layers_stage_builds_and_looks(engine, checkout, docker_login, monkeypatch, capsys):
    root, settings = checkout
    settings = replace(settings, base_image=import_image(engine, f"{NAME}:base"))
    (root / "Dockerfile").write_text("\n".join(SOUND) + "\n")
    monkeypatch.setattr(stages, "ROOT", root)
    for name in ("home", "embedder", "base_image", "registry", "repository"):
        monkeypatch.setenv(f"TWIN_{name.upper()}", str(getattr(settings, name)))

    assert stages.outside()["engine"] == "answers"
    stages.layers()
    stages.scan(Context())

    assert capsys.readouterr().out.count("no secret was found") == 2
    (root / ".dockerignore").unlink()
    with pytest.raises(TwinError, match=r"2 secrets are in the image; see above\. Change them"):
        stages.layers()
    with pytest.raises(Exit, match="secrets are in the image"):
        stages.scan(Context())
    with pytest.raises(Exit, match="the image is not what it should be"):
        stages.verify(Context(), f"{settings.registry}/none:x")


def test_without_an_engine_the_layers_are_left_to_ci(checkout, monkeypatch, capsys):
    root, settings = checkout
    (root / "Dockerfile").write_text("\n".join(SOUND) + "\n")
    monkeypatch.setattr(stages, "ROOT", root)
    monkeypatch.setenv("TWIN_HOME", str(settings.home))
    monkeypatch.setenv("TWIN_BASE_IMAGE", f"{settings.registry}/base@sha256:{'a1' * 32}")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{root}/none.sock")
    monkeypatch.delenv("CI", raising=False)

    assert stages.outside()["engine"] == "none"
    stages.layers()
    assert "nothing was looked at, and CI will: There is no container engine" in (
        capsys.readouterr().out
    )
    monkeypatch.setenv("CI", "true")
    with pytest.raises(NotReadyError, match="There is no container engine"):
        stages.layers()
