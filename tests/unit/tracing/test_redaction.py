"""Redaction: what is private goes, what is not stays, and doing it twice changes nothing."""

from __future__ import annotations

import base64
import random
import re
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reading_back import CARD, EMAIL, KEY

from llm_twin.errors import ConfigError, NotReadyError, SpaceError
from llm_twin.settings import Settings
from llm_twin.tracing import redaction
from llm_twin.tracing.redaction import Redactor

PRIVATE = {
    "write to jane.roe@example.org!": "write to [EMAIL]!",
    "?to=jane%40example.org": "?to=[EMAIL]",
    "card 4111 1111 1111 1111.": "card [CARD].",
    "4111-1111-1111-1111": "[CARD]",
    "371449635398431": "[CARD]",
    "IBAN DE89 3704 0044 0532 0130 00 today": "IBAN [IBAN] today",
    "gb82west12345698765432": "[IBAN]",
    "call +49 171 1234567": "call [PHONE]",
    "call 0049 171 1234567": "call [PHONE]",
    "(0171) 234 567 89": "[PHONE]",
    "030/1234567": "[PHONE]",
    "555-123-4567": "[PHONE]",
    KEY: "[KEY]",
    "AKIAIOSFODNN7EXAMPLE": "[KEY]",  # pragma: allowlist secret
    "ghp_abcdefghijklmnopqrstuvwxyz0123456789": "[KEY]",  # pragma: allowlist secret
    "aws_secret_access_key=wJalrXUtnFEMI/K7MDENG/bPx": (  # pragma: allowlist secret
        "aws_secret_access_key=[KEY]"
    ),
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.dozjgNryP4J3": "[KEY]",  # pragma: allowlist secret
    "X-Auth: Bearer abcdefghijklmnop": "X-Auth: Bearer [KEY]",
    "postgres://user:hunter22@host/db": (  # pragma: allowlist secret
        "postgres://user:[KEY]@host/db"
    ),
    '{"password": "hunter22"}': '{"password": "[KEY]"}',  # pragma: allowlist secret
    "-----BEGIN PRIVATE KEY-----\nMIIE\n-----END PRIVATE KEY-----": (  # pragma: allowlist secret
        "[KEY]"
    ),
}
PUBLIC = (
    "2026-11-23T14:10:33.120000Z",
    "2024-05-17 10:33:12 and 01/02/2024 12:00",
    "01a208da-a488-7cca-84c0-0a2ed1dc5781",
    "order 4111 1111 1111 1112",
    "DE88370400440532013000",
    "192.168.100.200:8080 and 3.11.7",
    "1,234,567.89 in 2024",
    "max_tokens: 600 and the key: something",
    "pages 100-200, 300-400",
    "@opik.track def f(): ...",
)


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(salt=b"salt")


@pytest.mark.parametrize("text", PRIVATE)
def test_what_is_private_is_taken_out(text: str, redactor: Redactor) -> None:
    assert redactor.text(text) == PRIVATE[text]


@pytest.mark.parametrize("text", PUBLIC)
def test_what_only_looks_like_it_stays(text: str, redactor: Redactor) -> None:
    assert redactor.text(text) == text


def test_redacting_twice_changes_nothing() -> None:
    chance = random.Random(5)
    redactor = Redactor([re.compile("RED|MAIL"), re.compile(r"proj\w+")], b"salt")
    parts = [*PRIVATE, *PUBLIC, *"[]= @1\n", "projX", "[EMAIL]", "key", "://"]
    for _ in range(2000):
        text = "".join(chance.choices(parts, k=4))
        once = redactor.text(text)
        assert redactor.text(once) == once
        name = redactor.identifier(text)
        assert redactor.identifier(name) == name


def test_an_encoded_image_is_left_alone(redactor: Redactor) -> None:
    image = base64.b64encode(random.Random(3).randbytes(300_000)).decode()

    assert redactor.text(image) == image


def test_every_text_of_a_value_is_redacted(redactor: Redactor) -> None:
    value: dict[str, Any] = {
        "list": [EMAIL, {"deep": (CARD, {KEY})}],
        "number": int(CARD.replace(" ", "")),
        "api_key": "short",  # pragma: allowlist secret
        "count": 3,
        "none": None,
    }

    assert redactor.redact(value) == {
        "list": ["[EMAIL]", {"deep": ["[CARD]", ["[KEY]"]]}],
        "number": "[CARD]",
        "api_key": "[KEY]",
        "count": 3,
        "none": None,
    }


def test_names_stay_different(redactor: Redactor) -> None:
    clean = redactor.redact({"a@example.org": 1, "b@example.org": 2, 3: 4})

    assert sorted(clean.values()) == [1, 2, 4]
    assert not any("example" in str(name) for name in clean)


def test_what_holds_itself_ends(redactor: Redactor) -> None:
    loop: list[Any] = [EMAIL]
    loop.append(loop)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]

    assert redactor.redact(loop) == ["[EMAIL]", "[NESTED TOO DEEP]"]
    assert "TOO DEEP" in str(redactor.redact(deep))


def test_threads_keep_apart_under_pseudonyms(redactor: Redactor) -> None:
    mine, other = redactor.identifier(EMAIL), redactor.identifier("x@example.org")

    assert re.fullmatch(r"\[EMAIL-[a-p]{8}\]", mine)
    assert mine == redactor.identifier(EMAIL)
    assert mine not in (other, Redactor(salt=b"another").identifier(EMAIL))
    assert redactor.identifier("thread-7") == "thread-7"


def test_text_documents_are_redacted_and_others_left(redactor: Redactor) -> None:
    assert redactor.document(f"Ask {EMAIL}".encode()) == b"Ask [EMAIL]"
    assert redactor.document(b"\xff\xfe@") == b"\xff\xfe@"


def test_a_long_text_is_redacted_to_its_end(redactor: Redactor) -> None:
    assert redactor.text("word " * 10_000 + EMAIL).endswith("[EMAIL]")


def test_own_patterns_are_added(tmp_path: Path) -> None:
    own = Redactor.of(Settings(home=tmp_path, trace_patterns="PRJ-\\d+\n\n(?i)project zeus\n"))

    assert own.text("PRJ-77 is Project Zeus") == "[REDACTED] is [REDACTED]"


@pytest.mark.parametrize(("pattern", "why"), [("a(", "unterminated"), ("x*", "nothing at all")])
def test_a_pattern_that_cannot_be_used_is_named_with_its_line(
    tmp_path: Path, pattern: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=f"line 2.*{why}.*a line"):
        Redactor.of(Settings(home=tmp_path, trace_patterns=f"fine\n{pattern}"))


def test_the_salt_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "new")
    found: list[str] = []

    def pseudonym() -> None:
        found.append(Redactor.of(settings).identifier(EMAIL))

    threads = [threading.Thread(target=pseudonym) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert len(set(found)) == 1
    assert stat.S_IMODE((settings.traces / "redaction.salt").stat().st_mode) == 0o600
    assert [path.name for path in settings.traces.iterdir()] == ["redaction.salt"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(SpaceError, match="TWIN_HOME"):
        Redactor.of(Settings(home=tmp_path / "file" / "home"))


def test_presidio_that_is_not_installed_is_told(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; sys.modules['presidio_analyzer'] = None\n"
            "from pathlib import Path\n"
            "from llm_twin.settings import Settings\n"
            "from llm_twin.tracing.redaction import Redactor\n"
            f"Redactor.of(Settings(home=Path({str(tmp_path)!r}), trace_presidio='en'))\n",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert NotReadyError.__name__ in done.stderr
    assert "Install it and a model for it, or unset TWIN_TRACE_PRESIDIO" in done.stderr


class Finding:
    def __init__(self, start: int, end: int) -> None:
        self.start, self.end, self.entity_type = start, end, "PERSON"


class Names:
    """An engine with Presidio's interface that finds capitalised words."""

    def analyze(self, text: str, language: str) -> list[Finding]:
        assert language == "de"
        return [Finding(*match.span()) for match in re.finditer(r"[A-Z][A-Za-z]+", text)]


def test_an_engine_is_asked_besides_and_leaves_what_is_done() -> None:
    redactor = Redactor(salt=b"", engine=Names(), language="de")
    once = redactor.text(f"Ask Jane Roe at {EMAIL}")

    assert once == "[PERSON] [PERSON] [PERSON] at [EMAIL]"
    assert redactor.text(once) == once


def test_an_installed_presidio_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("presidio_analyzer")
    monkeypatch.setattr(module, "AnalyzerEngine", Names, raising=False)
    monkeypatch.setitem(sys.modules, "presidio_analyzer", module)
    settings = replace(Settings(home=tmp_path), trace_presidio="de")

    assert redaction.Redactor.of(settings).text("by Jane") == "by [PERSON]"


@pytest.mark.parametrize(
    "text",
    [
        "20261123-163317-cfcc",
        "01a20900-dfe6-7d40-4111-111111111111",
        "2026112316331",
    ],
)
def test_an_id_whose_digits_pass_for_a_card_is_left_alone(tmp_path: Path, text: str) -> None:
    for number in range(100):
        one = text if not number else f"{text[:-5]}{number:05}"
        assert Redactor.of(Settings(home=tmp_path)).redact(one) == one


@pytest.mark.parametrize(
    "text",
    [
        "4111111111111111",  # pragma: allowlist secret
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "378282246310005",
        "3782 822463 10005",
        "2223003122003222",
        "no:5555555555554444,",
        "\\n4111 1111 1111 1111",
    ],
)
def test_cards_are_found_however_they_are_written(tmp_path: Path, text: str) -> None:
    assert "[CARD]" in Redactor.of(Settings(home=tmp_path)).redact(text)
