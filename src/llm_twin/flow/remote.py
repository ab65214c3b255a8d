"""The S3 half of the stage cache, which may be slow, wrong or away without anybody waiting for it.

Every request has an overall deadline, name look-up and credential search included, and the first
failure is the last request: a cache must never cost more than the work it saves.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")
CHUNK = 2**20
SLOWEST = 2**20  # bytes a second; a slower transfer is given up
REQUEST = 2**16  # what a request costs besides its bytes, in bytes
ENTRY_LIMIT = 16 * 2**20
WORKERS = 8

CUT = "closed the connection in the middle of an answer"
TROUBLES = {
    "TimeoutError": "did not answer in time",
    "ConnectTimeoutError": "did not answer in time",
    "ReadTimeoutError": "did not answer in time",
    "EndpointConnectionError": "cannot be reached",
    "ConnectionClosedError": CUT,
    "IncompleteReadError": CUT,
    "ResponseStreamingError": CUT,
    "NoCredentialsError": "cannot be used: no AWS credentials were found",
    "ModuleNotFoundError": "cannot be used: boto3 is not installed. Type: pip install boto3",
}


def blob_name(digest: str) -> str:
    """Where a blob is, below the cache's folder or prefix."""
    return f"blobs/{digest[:2]}/{digest}"


def entry_name(key: str, source: str) -> str:
    """Where an entry is, below the cache's folder or prefix."""
    return f"entries/{key}/{source}.json"


class Remote:
    """A prefix of an S3 bucket. What fails is a miss, and a sentence in ``trouble``.

    Args:
        url: ``s3://bucket/prefix``; region, endpoint and credentials as boto3 finds them.
        timeout: seconds to wait for an answer; a transfer gets a second more for each MiB.

    """

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self.trouble = ""
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/".lstrip("/")
        self._client: Any = None
        self._suspect: set[str] = set()

    def prepare(self) -> None:
        """Get ready to ask, without asking."""
        self._ask([])

    def read(self, name: str) -> bytes | None:
        """Return a small object; None when it is not there."""
        found = self._ask([partial(self._read, name)])
        return found[0] if found else None

    def download(self, wanted: Mapping[str, tuple[int, Path]]) -> bool:
        """Write blobs, given as digest: (size, file to write); whether all came and are right."""
        works = [partial(self._download, name, *what) for name, what in wanted.items()]
        done = self._ask(works, sum(size for size, _ in wanted.values()))
        return done is not None and all(done)

    def upload(self, blobs: Mapping[str, Path], name: str, data: bytes) -> bool:
        """Put the blobs that are not there yet, then the object that names them."""
        works = [partial(self._upload, digest, path) for digest, path in blobs.items()]
        done = self._ask(works, sum(path.stat().st_size for path in blobs.values()))
        if done is None or not all(done):
            return False
        return self._ask([partial(self._call, "put_object", name, Body=data)]) is not None

    def _ask(self, works: Sequence[Callable[[], T]], size: int = 0) -> list[T] | None:
        """Return the answers to some requests; None when one fails, now or before."""
        if self.trouble:
            return None
        seconds = self.timeout + (size + REQUEST * len(works)) / SLOWEST
        try:
            self._connect()
            return within(seconds, works)
        except Exception as error:  # whatever boto3 raises, a cache must not fail a run
            self.trouble = f"{self.url} {_explain(error)}"
            return None

    def _connect(self) -> None:
        if self._client is not None:
            return
        import boto3.session  # type: ignore[import-untyped]
        from botocore.config import Config  # type: ignore[import-untyped]
        from botocore.exceptions import NoCredentialsError  # type: ignore[import-untyped]

        session = boto3.session.Session()
        found = None
        with contextlib.suppress(TimeoutError):  # it may ask a metadata server that is not there
            (found,) = within(self.timeout, [session.get_credentials])
        if found is None:
            raise NoCredentialsError
        config = Config(
            connect_timeout=self.timeout,
            read_timeout=self.timeout,
            retries={"total_max_attempts": 1},
            max_pool_connections=4 * WORKERS,
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        self._client = session.client("s3", config=config)

    def _call(self, operation: str, name: str, **more: Any) -> dict[str, Any] | None:
        """One request about one object; None when there is no such object."""
        from botocore.exceptions import ClientError

        try:
            answer: dict[str, Any] = getattr(self._client, operation)(
                Bucket=self._bucket, Key=self._prefix + name, **more
            )
        except ClientError as error:
            if _status(error) == 404 and error.response["Error"]["Code"] != "NoSuchBucket":
                return None
            raise
        return answer

    def _get(self, name: str, limit: int, sink: Callable[[bytes], Any]) -> int:
        """Pass an object's bytes on; return how many, -1 for no object or too many."""
        answer = self._call("get_object", name)
        if answer is None:
            return -1
        total = 0
        with contextlib.closing(answer["Body"]) as body:
            for chunk in body.iter_chunks(CHUNK):
                total += len(chunk)
                if total > limit:
                    return -1
                sink(chunk)
        return total

    def _read(self, name: str) -> bytes | None:
        data = bytearray()
        return bytes(data) if self._get(name, ENTRY_LIMIT, data.extend) >= 0 else None

    def _download(self, digest: str, size: int, path: Path) -> bool:
        with path.open("w+b") as file:
            total = self._get(blob_name(digest), size, file.write)
            file.seek(0)
            found = hashlib.file_digest(file, "sha256").hexdigest()
        right = total == size and found == digest
        if not right:
            self._suspect.add(digest)
        return right

    def _upload(self, digest: str, path: Path) -> bool:
        """Put a blob, also over one of the right size that a download found to be wrong."""
        size = path.stat().st_size
        there = None if digest in self._suspect else self._call("head_object", blob_name(digest))
        if there is not None and there["ContentLength"] == size:
            return True
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                return False
            file.seek(0)
            return self._call("put_object", blob_name(digest), Body=file) is not None


def within(seconds: float, works: Sequence[Callable[[], T]]) -> list[T]:
    """Return what some functions return, called on a few threads that are left behind in time.

    A thread is the one thing that bounds it all: sockets have a timeout for each byte, and
    looking up a name has none.

    Raises:
        TimeoutError: not all had returned after so many seconds.

    """
    waiting = iter(enumerate(works))
    answers: dict[int, T] = {}
    errors: list[Exception] = []

    def work_off() -> None:
        for index, work in waiting:
            if errors:
                return
            try:
                answers[index] = work()
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=work_off, daemon=True) for _ in works[:WORKERS]]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if not errors and len(answers) < len(works):
        errors.append(TimeoutError())  # also tells the threads that it is over
    if errors:
        raise errors[0]
    return [answers[index] for index in range(len(works))]


def _status(error: Exception) -> int:
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _explain(error: Exception) -> str:
    """What is wrong, in words of our own: a server's message may hold anything."""
    status = _status(error)
    if status == 403:
        return "refuses access: it takes s3:GetObject, s3:PutObject and s3:ListBucket"
    if status == 404:
        return "does not exist: there is no such bucket"
    if status:
        return f"answers with status {status}"
    name = type(error).__name__
    return TROUBLES.get(name, f"cannot be used: {name}")
