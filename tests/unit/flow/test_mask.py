"""No secret passes, whole or in part, however its bytes arrive; ordinary text passes unchanged."""

import base64
import hashlib
import json
import random
import string
import uuid
from urllib.parse import quote

import pytest

from llm_twin.flow.mask import Masker, declared_secrets

LETTERS = random.Random(7)


def letters(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(LETTERS.choices(alphabet, k=count))


LITERAL = 'pa"ss/w ö%rd-' + letters(8)
ACCESS_ID = "AKIA" + letters(16, string.ascii_uppercase + string.digits)
ACCESS_KEY = letters(38, string.ascii_letters + string.digits) + "/+"
GITHUB = "ghp_" + letters(36)
GITHUB_PAT = "github_pat_" + letters(22) + "_" + letters(59)
SLACK = "xoxb-" + letters(12, string.digits) + "-" + letters(24)
CLAIMS = base64.urlsafe_b64encode(b'{"sub":"repo:a/b:ref:refs/heads/main"}').decode().rstrip("=")
JWT = "eyJhbGciOiJSUzI1NiJ9." + CLAIMS + "." + letters(86)
BEARER = letters(30) + "7." + letters(40) + "-_." + letters(20)
PASSWORD = "p@ss:" + letters(12)  # pragma: allowlist secret
BODY = "\n".join(base64.b64encode(letters(48).encode()).decode() for _ in range(4))
KIND = "RSA PRIVATE KEY"
PRIVATE = f"-----BEGIN {KIND}-----\n{BODY}\n-----END {KIND}-----"
LINES = f"first line of it {letters(8)}\nshort\nsecond line {letters(8)}"
BASE64 = base64.b64encode(LITERAL.encode()).decode()
BASIC = base64.b64encode(f"user:{LITERAL}".encode()).decode()

# Text, what must not be in it afterwards, and what must still be.
CASES = {
    "literal": (f"password is {LITERAL}.\n", [LITERAL], ["password is ***."]),
    "json": (f"x {json.dumps({'p': LITERAL})} y\n", [json.dumps(LITERAL)[1:-1]], ['{"p": "***"}']),
    "url": (f"?p={quote(LITERAL, safe='')}&q=1\n", [quote(LITERAL, safe="")], ["?p=***&q=1"]),
    "base64": (f"data: {BASE64}\n", [BASE64[:-4]], ["data: ***"]),
    "inside base64": (f"data: {BASIC}\n", [BASIC[8:-4]], ["data: "]),
    "lines": (f"a\n{LINES}\nb\n", LINES.splitlines()[::2], ["a\n***\nshort\n***\nb"]),
    "lines as json": (json.dumps([LINES]), LINES.splitlines()[::2], ['["***"]']),
    "access id": (f"id {ACCESS_ID} and\n", [ACCESS_ID], ["id *** and"]),
    "ini": (f"aws_secret_access_key = {ACCESS_KEY}\n", [ACCESS_KEY], ["_key = ***"]),
    "env": (f"AWS_SECRET_ACCESS_KEY={ACCESS_KEY}\n", [ACCESS_KEY], ["AWS_SECRET_ACCESS_KEY=***"]),
    "sts": (f'"SecretAccessKey": "{ACCESS_KEY}",\n', [ACCESS_KEY], ['"SecretAccessKey": "***",']),
    "header": ("Authorization: Bearer abcdef\n", ["abcdef"], ["Authorization: Bearer ***"]),
    "basic": ("'authorization': b'Basic eDp5'\n", ["eDp5"], ["'authorization': b'Basic ***'"]),
    "bearer": (f"sent Bearer {BEARER}, got 401\n", [BEARER, BEARER[-20:]], ["Bearer ***, got"]),
    "github": (f"token {GITHUB}\n", [GITHUB], ["token ***"]),
    "github pat": (f"https://{GITHUB_PAT}:x@github.com/\n", [GITHUB_PAT], ["https://***:***@github"]),
    "jwt": (f'{{"value":"{JWT}"}}\n', [CLAIMS, JWT[-80:]], ['{"value":"***"}']),
    "slack": (f"({SLACK})\n", [SLACK], ["(***)"]),
    "password": (f"postgres://me:{PASSWORD}@db:5432/x\n", [PASSWORD], ["//me:***@db:5432/x"]),
    "no user": (f"redis://:{PASSWORD}@db/0\n", [PASSWORD], ["redis://:***@db/0"]),
    "coloured": (f"\x1b[32m{GITHUB}\x1b[0m\n", [GITHUB], ["\x1b[32m***\x1b[0m"]),
    "private key": (f"key:\n{PRIVATE}\nafter\n", BODY.splitlines(), ["key:\n***\nafter"]),
    "endless key": (f"key:\n{PRIVATE[:-9]}\nafter\n", [*BODY.splitlines(), "after"], ["key:\n***"]),
    "two keys": (f"{PRIVATE}{PRIVATE}.\n", BODY.splitlines(), ["******.\n"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def masker():
    return Masker([LITERAL, LINES, "1", "short"])


@pytest.mark.parametrize("name", CASES)
def test_a_secret_is_masked_wherever_its_bytes_are_cut(masker, name):
    text, secrets, kept = CASES[name]
    whole = masker.text(text)
    assert not [secret for secret in secrets if secret in whole]
    assert all(part in whole for part in kept)
    data = text.encode()
    for cut in range(len(data)):
        stream = masker.stream()
        shown = stream.feed(data[:cut]) + stream.feed(data[cut:]) + stream.close()
        assert shown.decode() == whole
    stream = masker.stream()
    shown = b"".join(stream.feed(bytes([byte])) for byte in data) + stream.close()
    assert shown.decode() == whole


@pytest.mark.parametrize("name", CASES)
def test_a_slow_writer_never_has_half_a_secret_shown(masker, name):
    text, secrets, _ = CASES[name]
    for width in (1, 2, 3, 7):
        stream = masker.stream()
        data = text.encode()
        pieces = [data[at : at + width] for at in range(0, len(data), width)]
        shown = b"".join(stream.feed(piece) + stream.idle() for piece in pieces) + stream.close()
        for secret in secrets:
            size = max(4, len(secret) // 2)
            halves = {secret[at : at + size] for at in range(len(secret) - size + 1)}
            assert not [half for half in halves if half in shown.decode("utf-8", "replace")]


def test_every_kind_in_one_log_in_random_pieces(masker):
    text = "".join(text for name, (text, *_) in CASES.items() if name != "endless key") * 3
    whole = masker.text(text)
    data = text.encode()
    for seed in range(50):
        chance = random.Random(seed)
        stream, at, shown = masker.stream(), 0, b""
        while at < len(data):
            size = chance.choice((1, 5, 60, 500))
            shown += stream.feed(data[at : at + size])
            at += size
        assert (shown + stream.close()).decode() == whole


@pytest.mark.parametrize(
    "text",
    [
        "commit " + hashlib.sha1(b"x").hexdigest(),
        "sha256:" + hashlib.sha256(b"x").hexdigest(),
        str(uuid.UUID(int=2**100 + 17)),
        "data:image/png;base64," + base64.b64encode(bytes(range(256)) * 8).decode(),
        "https://example.com:8080/a/b?c=d#e mailto:me@example.com git@github.com:a/b.git",
        "oci://localhost:5000/repo@sha256:" + "a" * 64,
        "Bearer of bad news; bearer responsibilities, Bearer AuthenticationError",
        "Bearer authentication-schemes,RFC6750",
        "authorization token expired",
        "SecretAccessKey is not set, AKIA is a prefix, ghp_ and xoxb- too",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        "AKIAIOSFODNN7EXAMPLE0and-more",  # pragma: allowlist secret
        "10%|█         | 1/10 [00:00<00:01,  7.5it/s]",
        "a 1 is not masked, nor is short",
    ],
)
def test_ordinary_text_passes_unchanged(masker, text):
    assert masker.text(text) == text


def test_a_prompt_and_a_progress_bar_show_at_once(masker):
    for text in (b"Continue? [y/N] ", b"\r 45% |####  | 45/100", b"Your secret_access_key: "):
        stream = masker.stream()
        assert stream.feed(text) + stream.idle() == text
        assert stream.idle() == b""
        assert stream.feed(b"ok\n") + stream.close() == b"ok\n"


def test_what_named_a_secret_still_counts_after_it_was_shown(masker):
    stream = masker.stream()
    assert stream.feed(b"aws_secret_access_key=") + stream.idle() == b"aws_secret_access_key="
    assert stream.feed(ACCESS_KEY[:20].encode()) + stream.idle() == b""
    assert stream.feed(ACCESS_KEY[20:].encode() + b"\n") == b"***\n"


def test_what_was_shown_masked_is_not_shown_again(masker):
    stream = masker.stream()
    assert stream.feed(f"{GITHUB} is it".encode()) + stream.idle() == b"*** is it"
    assert stream.feed(b", or\n") == b", or\n"


def test_a_key_in_the_middle_of_which_nothing_comes(masker):
    stream = masker.stream()
    head, tail = PRIVATE[:70].encode(), PRIVATE[70:].encode()
    assert stream.feed(head) + stream.idle() + stream.idle() == b"***"
    assert stream.feed(tail + b" x") + stream.idle() == b" x"


def test_long_lines_and_invalid_utf_8_pass_in_bounded_memory(masker):
    noise = bytes(range(256)).replace(b"\n", b"").replace(b"\r", b"") * 257
    stream = masker.stream()
    fed = shown = 0
    for _ in range(160):
        fed += len(noise)
        shown += len(stream.feed(noise))
        assert fed - shown < 32 * 1024
    assert shown + len(stream.close()) == fed > 10_000_000


def test_a_secret_at_the_seam_of_a_long_line(masker):
    line = ("x " * 9000 + GITHUB + " y" * 9000).encode()
    stream = masker.stream()
    shown = b"".join(stream.feed(line[at : at + 1000]) for at in range(0, len(line), 1000))
    assert shown + stream.close() == line.replace(GITHUB.encode(), b"***")


def test_a_short_secret_that_begins_like_a_token_does_not_uncover_it():
    masker = Masker(["github", f"{ACCESS_ID}:whole"])
    assert masker.text(f"github {GITHUB_PAT}") == "*** ***"
    assert masker.text(f"{ACCESS_ID}:whole {ACCESS_ID}:x") == "*** ***:x"


def test_one_secret_that_begins_another():
    masker = Masker(["secret-one", "secret-one-more"])
    assert masker.text("secret-one secret-one-more secret-on") == "*** *** secret-on"


def test_a_private_key_among_the_secrets_does_not_hide_the_start_of_another():
    other = PRIVATE.replace(BODY, "\n".join(letters(64) for _ in range(3)))
    masked = Masker([PRIVATE]).text(f"{PRIVATE}\n{other}\n{json.dumps(PRIVATE)}\nend")
    assert masked == '***\n***\n"***"\nend'


def test_a_secret_may_begin_with_dashes():
    assert Masker(["-----dashes"]).text("a -----dashes b") == "a *** b"


def test_values_are_masked_through_and_through(masker):
    value = {
        "message": f"with {LITERAL}",
        "deep": [{"x": (GITHUB, 1, None, 2.5, True)}],
        "SecretAccessKey": ACCESS_KEY,
        f"k {GITHUB}": {"SecretAccessKey": [ACCESS_ID]},
    }
    assert masker.value(value) == {
        "message": "with ***",
        "deep": [{"x": ["***", 1, None, 2.5, True]}],
        "SecretAccessKey": "***",
        "k ***": {"SecretAccessKey": ["***"]},
    }


def test_any_text_survives(masker):
    text = "lone \udcff surrogate, ünïcödé, \x00, 字"
    assert masker.text(text) == text


def test_which_values_are_declared_as_secrets():
    environ = {
        "TWIN_EMBEDDER_KEY": "embedder-key",
        "TWIN_LLM_KEY": "llm-key",
        "TWIN_LLM_MODEL": "a-model",
        "TWIN_SECRETS": "MY_URL, OTHER,MISSING",  # pragma: allowlist secret
        "MY_URL": "my-url",
        "OTHER": "other",
        "GITHUB_TOKEN": "github",
        "npm_config_api_key": "npm",  # pragma: allowlist secret
        "AWS_SECRET_ACCESS_KEY": "aws",  # pragma: allowlist secret
        "AWS_ACCESS_KEY_ID": "id",
        "EMPTY_PASSWORD": "",
        "PATH": "/bin",
    }
    assert sorted(declared_secrets(environ)) == sorted(
        ["embedder-key", "llm-key", "my-url", "other", "github", "npm", "aws"]
    )
