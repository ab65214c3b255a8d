"""From lines to requests: in order, many at a time, and one bad record harms no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_twin.tracing.delivery import REFUSED, Unavailable, carry


class Requests:
    """Answers 400 to a body that holds ``bad``, else 204."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bytes]] = []

    def __call__(self, method: str, path: str, body: bytes) -> int:
        if b"bad" in body:
            return 400
        self.seen.append((method, path, body))
        return 204


def test_what_exists_is_sent_before_what_is_said_about_it(tmp_path: Path) -> None:
    requests = Requests()
    lines = b"".join(
        [
            b'trace-scores\t{"id":1}\n',
            b'trace 5\t{"name":"new"}\n',
            b'spans\t{"id":2}\n',
            b'traces\t{"id":3}\n',
            b'traces\t{"id":4}\n',
        ]
    )
    carry(lines, requests, tmp_path)

    assert requests.seen == [
        ("POST", "v1/private/traces/batch", b'{"traces":[{"id":3},{"id":4}]}'),
        ("POST", "v1/private/spans/batch", b'{"spans":[{"id":2}]}'),
        ("PATCH", "v1/private/traces/5", b'{"name":"new"}'),
        ("PUT", "v1/private/traces/feedback-scores", b'{"scores":[{"id":1}]}'),
    ]


def test_a_request_has_at_most_a_thousand_items(tmp_path: Path) -> None:
    requests = Requests()
    carry(b'traces\t{"id":1}\n' * 2001, requests, tmp_path)

    assert [len(json.loads(body)["traces"]) for _, _, body in requests.seen] == [1000, 1000, 1]


def test_a_refused_record_is_kept_aside_and_the_others_arrive(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    requests = Requests()
    carry(b'traces\t{"id":1}\ntraces\t{"id":"bad"}\ntraces\t{"id":3}\n', requests, tmp_path)

    assert [body for _, _, body in requests.seen] == [
        b'{"traces":[{"id":1}]}',
        b'{"traces":[{"id":3}]}',
    ]
    kept = json.loads((tmp_path / REFUSED).read_bytes())
    assert (kept["status"], kept["body"]["traces"]) == (400, [{"id": "bad"}])
    assert "refused.ndjson" in caplog.text


def test_a_line_of_an_unknown_kind_is_kept_aside(tmp_path: Path) -> None:
    requests = Requests()
    carry(b"dreams\t{}\n", requests, tmp_path)

    assert requests.seen == []
    assert (tmp_path / REFUSED).read_bytes() == b"dreams\t{}\n"


@pytest.mark.parametrize("status", [429, 503])
def test_a_store_that_is_busy_is_asked_again(tmp_path: Path, status: int) -> None:
    with pytest.raises(Unavailable, match=str(status)):
        carry(b'traces\t{"id":1}\n', lambda *request: status, tmp_path)
