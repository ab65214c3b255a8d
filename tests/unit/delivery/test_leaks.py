"""What counts as a secret in an image and what does not, and that none is ever printed."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from llm_twin.delivery.layers import Layer
from llm_twin.delivery.leaks import PIECE, Finding, Secrets, scan
from llm_twin.errors import ConfigError
from tests.unit.delivery.test_layers import tar

HIDDEN = "correct-horse-battery"
GITHUB = "ghp_" + "aB3" * 12
BODY = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIBAQC7"
MARK = "RSA PRIVATE KEY-----"
PEM = f"-----BEGIN {MARK}\n{BODY}\n-----END {MARK}\n"
SHAPES = {
    "AWS Access Key": "id = AKIAIOSFODNN7EXAMPLZ",  # pragma: allowlist secret
    "GitHub Token": f"token: {GITHUB}",
    "Slack Token": "xoxb-123456789012-123456789012-abcdefABCDEF",  # pragma: allowlist secret
    "Stripe Access Key": "sk_live_" + "a1B2" * 6,
    "Private Key": PEM,
    "Basic Auth Credentials": "https://me:hunter22@example.org/wheels",  # pragma: allowlist secret
    "JSON Web Token": (
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl"  # pragma: allowlist secret
    ),
    "GitLab Token": "glpat-" + "aB3d" * 5,
}
NO_SECRETS = Secrets()


class HandMade:
    """An image of tars."""

    def __init__(self, *layers: dict[str, bytes], documents: dict | None = None) -> None:
        self._layers = layers
        self._documents = documents or {}

    def documents(self) -> dict:
        return self._documents

    def layers(self):
        return (Layer(io.BytesIO(tar(**files))) for files in self._layers)


def found_in(path: str, data: bytes | str, secrets: Secrets = NO_SECRETS) -> list[Finding]:
    data = data.encode() if isinstance(data, str) else data
    return scan(HandMade({path: data}), secrets)


@pytest.mark.parametrize("kind", SHAPES)
def test_known_shapes_are_found_with_their_line(kind) -> None:
    [finding] = found_in("app__settings.txt", f"# first\n\n{SHAPES[kind]}\nlast\n")

    assert (finding.path, finding.line, finding.kind) == ("app/settings.txt", 3, kind)
    assert finding.where.startswith("layer sha256:")


@pytest.mark.parametrize(
    "text",
    [
        "aws_secret_access_key=" + "aB3/" * 10,
        '"SecretAccessKey_secret_access_key": "' + "aB3/" * 10 + '"',
        "github_pat_" + "1aB_" * 8,
        json.dumps({"key": PEM}),
        PEM.replace("RSA", "ENCRYPTED"),
        PEM.replace("-----\nM", "-----\nProc-Type: 4,ENCRYPTED\n\nM"),
    ],
)
def test_other_ways_to_write_them_are_found_too(text) -> None:
    assert len(found_in("app__x", text)) == 1


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("usr__lib__libgnutls.so.30", b"\x7fELF\0" + PEM.encode()),
        ("usr__bin__gpgv", b"\0-----BEGIN " + b"PGP PRIVATE KEY BLOCK-----\0"),
        ("app__read.py", 'START = "-----BEGIN PRIVATE KEY-----"'),  # pragma: allowlist secret
        ("usr__lib__libunistring.so.2", b"\0AKIA" + b"ISLANDISSHARITALANDMORE\0"),
        (
            "v__site-packages__httpx__urls.py",
            "https://jo:a%20secret@x.org",  # pragma: allowlist secret
        ),
        ("app__binary", b"\0https://me:hunter22@example.org"),  # pragma: allowlist secret
        ("app__.env.example", "KEY="),
    ],
)  # fmt: skip
def test_what_packages_have_and_is_none_is_left_alone(path, data) -> None:
    assert found_in(path, data) == []


def test_a_token_in_a_program_is_found_without_a_line() -> None:
    [finding] = found_in("app__x.pyc", b"\0\n\n" + GITHUB.encode())

    assert (finding.line, finding.kind) == (0, "GitHub Token")


@pytest.mark.parametrize(
    "path",
    [".env", "app__.env.local", "app__.git__config", "root__.aws__credentials", "root__.netrc",
     "root__.docker__config.json", "home__me__.ssh__id_ed25519", "root__.ssh__config"],
)  # fmt: skip
def test_files_that_have_no_business_in_an_image_are_found_by_name(path) -> None:
    [finding] = found_in(path, b"")

    assert finding.path == path.replace("__", "/")
    assert finding.kind == "a file that has no business in an image"


def test_values_are_found_wherever_they_are_and_never_printed(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        'export DB_PASSWORD="from-the-file"\nDEBUG=yes-please\n'  # pragma: allowlist secret
    )
    environ = {
        "TWIN_LLM_KEY": HIDDEN,
        "INDEX": "https://me:in-an-address@x.org",  # pragma: allowlist secret
        "TWIN_SECRETS": "ODD, ",  # pragma: allowlist secret
        "ODD": "declared-one",
        "LINES_SECRET": f"start of it\n{BODY}",
    }
    secrets = Secrets.of(environ, [tmp_path / ".env"])
    documents = {
        "config": {"Env": ["PATH=/bin"], "Labels": {"note": f"x {HIDDEN} y", HIDDEN: ""}},
        "history": [{"CreatedBy": "RUN curl declared-one"}],
    }
    image = HandMade(
        {
            "a": b"\0\0" + HIDDEN.encode(),
            "b": b"one\nfrom-the-file",
            f"c__{HIDDEN}": GITHUB.encode(),
        },
        {"d": f"in-an-address {BODY}".encode(), ".wh.a": b""},
        documents=documents,
    )

    findings = scan(image, secrets, {"SBOM": json.dumps({"x": [HIDDEN]}).encode()})

    told = {(each.where.partition(":")[0], each.path, each.line, each.kind) for each in findings}
    assert told == {
        ("layer sha256", "a", 0, "the value of TWIN_LLM_KEY"),
        ("layer sha256", "b", 2, "what .env holds"),
        ("layer sha256", "the name of a file", 0, "the value of TWIN_LLM_KEY"),
        ("layer sha256", "the name of a file", 1, "GitHub Token"),
        ("layer sha256", "d", 1, "the password in INDEX"),
        ("layer sha256", "d", 1, "the value of LINES_SECRET"),
        ("config", ".Labels.note", 0, "the value of TWIN_LLM_KEY"),
        ("config", ".Labels", 0, "the value of TWIN_LLM_KEY"),
        ("history", "[0].CreatedBy", 0, "the value of ODD"),
        ("SBOM", ".x[0]", 0, "the value of TWIN_LLM_KEY"),
    }
    printed = "\n".join(map(str, findings))
    for value in (HIDDEN, "from-the-file", "declared-one", "in-an-address", BODY, GITHUB):
        assert value not in printed
    assert ": a: the value of TWIN_LLM_KEY (deleted by another layer, and still in" in printed


def test_what_a_folder_hides_is_deleted_too() -> None:
    image = HandMade(
        {"opt__a__.env": b"x", "opt__b__.env": b"x", "opt__c__.env": b"x"},
        {"opt__.wh.a": b"", "opt__b__.wh..wh..opq": b""},
    )

    assert [(each.path, each.deleted) for each in scan(image, NO_SECRETS)] == [
        ("opt/a/.env", True), ("opt/b/.env", True), ("opt/c/.env", False),
    ]  # fmt: skip


def test_names_say_which_variables_are_secret(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("x")
    quiet = {
        "API_KEY": "short",  # pragma: allowlist secret
        "GPG_KEY": "A035C8" * 6,
        "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token", "COSIGN_KEY": str(tmp_path / "key.pem"),
        "KEYBOARD": "english-us", "PATH": "/usr/local/bin", "SIGNING_KEY": "x" * 5000,
    }  # fmt: skip

    assert len(Secrets.of({**quiet, "SIGNING_KEY": "tiny"})) == 0
    assert len(Secrets.of({"SIGNING_KEY": quiet["SIGNING_KEY"], "TOKEN": "12345678"})) == 2


def test_a_variable_of_the_image_that_is_named_like_a_secret_is_found() -> None:
    documents = {"config": {"Config": {"Env": ["API_TOKEN=some-value-or-other", "KEY=", "A=b"]}}}

    [finding] = scan(HandMade(documents=documents), NO_SECRETS)

    assert str(finding) == (
        "config: .Config.Env[0] (API_TOKEN): a variable that is named like a secret"
    )


def test_a_value_across_the_border_of_two_pieces_is_found_once_on_its_line() -> None:
    start = b"line\n" * ((PIECE - 10) // 5)
    data = start + HIDDEN.encode() + b"\n" + b"more\n" * 10 + b"x" * PIECE + HIDDEN.encode()

    findings = found_in("large", data, Secrets([("it", HIDDEN)]))

    lines = len(start) // 5
    assert [(each.line, each.kind) for each in findings] == [(lines + 1, "it"), (lines + 12, "it")]


def test_a_file_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file.*gone"):
        Secrets.of({}, [tmp_path / "gone"])
