"""A real Opik, self-hosted or Comet's, over HTTP: every outcome is an answer, none raises."""

from __future__ import annotations

import base64
import datetime
import email.utils
import gzip
import itertools
import math
import time
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urljoin

from llm_twin.tracing.outbox import address
from llm_twin.tracing.store.attachments import ONE_PIECE
from llm_twin.tracing.store.routing import dumps

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from llm_twin.settings import Settings

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
LONGEST_WAIT = 3600.0
GZIP_FROM = 1024
PART = 8 * 1024 * 1024
"""Bytes; of an attachment, at a time."""
SAID = 200


class Answer(NamedTuple):
    """What became of a request."""

    status: int
    """0: none came."""
    said: str = ""
    wait: float = 0.0
    """Seconds that the remote asks to be left alone for."""
    json: Any = None

    @property
    def done(self) -> bool:
        """Whether the remote has it."""
        return 200 <= self.status < 300


class Remote:
    """Connections to the Opik of the settings."""

    def __init__(self, settings: Settings, timeout: float = ANSWER_SECONDS) -> None:
        import httpx

        self.url = address(settings)
        headers = {"comet-workspace": settings.opik_workspace, "accept-encoding": "gzip"}
        if settings.opik_key:
            headers["authorization"] = settings.opik_key
        limits = httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        self._client = httpx.Client(base_url=self.url, headers=headers, timeout=limits)
        # Where attachments are put may be a bucket of somebody else's, who gets no key.
        self._bucket = httpx.Client(timeout=limits)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._bucket.close()

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """Send JSON."""
        content = dumps(body).encode() if body is not None else b""
        headers = {"content-type": "application/json"}
        if len(content) >= GZIP_FROM:
            content, headers["content-encoding"] = gzip.compress(content, 1), "gzip"
        return _answer(self._client, method, path, content=content, headers=headers)

    def upload(self, about: dict[str, Any], file: Path) -> Answer:
        """Send an attachment's bytes to where the remote wants them: itself, or a bucket.

        Args:
            about: ``entity_type``, ``entity_id``, ``file_name``, ``mime_type``, ``project_name``
                and ``file_size`` in bytes.
            file: the bytes.

        """
        count = max(1, math.ceil(about["file_size"] / PART))
        base = base64.b64encode(self.url.encode()).decode()
        start = {key: value for key, value in about.items() if key != "file_size"}
        start |= {"num_of_file_parts": count, "path": base}
        begun = self.ask("POST", "v1/private/attachment/upload-start", start)
        if not begun.done:
            return begun
        try:
            upload_id, urls = begun.json["upload_id"], list(begun.json["pre_sign_urls"])
        except (KeyError, TypeError):
            return Answer(502, "upload-start was answered with something else")
        if upload_id == ONE_PIECE:
            return self._put_whole(urls[0], file)
        return self._put_parts(about, file, upload_id, urls)

    def _put_whole(self, url: str, file: Path) -> Answer:
        url = urljoin(self.url, url)
        client = self._client if url.startswith(self.url) else self._bucket
        return _answer(client, "PUT", url, content=_parts(file))

    def _put_parts(
        self, about: dict[str, Any], file: Path, upload_id: str, urls: list[str]
    ) -> Answer:
        tags = []
        for number, (url, part) in enumerate(zip(urls, _parts(file), strict=False), 1):
            answer = _answer(self._bucket, "PUT", url, content=part)
            if not answer.done:
                return answer
            tags.append({"e_tag": answer.json, "part_number": number})
        done = about | {"upload_id": upload_id, "uploaded_file_parts": tags}
        return self.ask("POST", "v1/private/attachment/upload-complete", done)


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(PART):
            yield part


def _answer(client: httpx.Client, method: str, url: str, **more: Any) -> Answer:
    import httpx

    try:
        response = client.request(method, url, **more)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return Answer(0, f"{error or type(error).__name__}")
    said = " ".join(itertools.islice(response.text.split(), 40))[:SAID]
    if "html" in response.headers.get("content-type", ""):
        return Answer(404, f"a web page, not Opik's API ({response.status_code})")
    return Answer(response.status_code, said, _wait(response), _json(response))


def _json(response: httpx.Response) -> Any:
    """The answer's JSON; of one without, the tag that a bucket gives a part."""
    try:
        return response.json()
    except ValueError:
        return response.headers.get("etag", "")


def _wait(response: httpx.Response) -> float:
    """Seconds that the answer's headers ask for, 0 when they ask for none."""
    texts = (response.headers.get(name, "") for name in ("retry-after", "ratelimit-reset"))
    return min(LONGEST_WAIT, max(map(_seconds, texts)))


def _seconds(text: str) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        pass
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, moment.timestamp() - time.time())
