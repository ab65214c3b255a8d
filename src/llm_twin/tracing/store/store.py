"""The store: one function from request to answer, the same in this process and over HTTP."""

from __future__ import annotations

import importlib
import logging
import sqlite3
from typing import TYPE_CHECKING

from llm_twin.tracing.redaction import Redactor
from llm_twin.tracing.store import routing
from llm_twin.tracing.store.database import Database
from llm_twin.tracing.store.routing import MIB, Problem, Request, Response, problem

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.settings import Settings

LOGGER = logging.getLogger(__name__)
BODY_LIMIT = 64 * MIB
ATTACHMENT_LIMIT = 256 * MIB
# Each registers its routes; what is specific comes before what is general.
ENTITIES = (
    "projects", "entities", "scores", "comments", "search", "threads", "attachments",
    "datasets", "dataset_versions", "dataset_items", "experiments", "experiment_items",
    "prompts", "prompt_versions", "environments", "workspace",
)  # fmt: skip


class Store:
    """``traces.db`` and ``attachments/`` in the state folder, spoken to as to an Opik server.

    Attributes:
        database: the SQLite file.
        blobs: the folder of the attachments' bytes.
        body_limit: bytes of a request's body, unpacked; larger is answered with 413.
        attachment_limit: bytes of one attachment.
        redactor: what takes private things out of all that is written.

    """

    def __init__(
        self,
        home: Path,
        settings: Settings | None = None,
        *,
        body_limit: int = BODY_LIMIT,
        attachment_limit: int = ATTACHMENT_LIMIT,
    ) -> None:
        """Open or create the store in a folder.

        Raises:
            SpaceError: the folder cannot be written, or the disk is full.
            NotReadyError: a newer version wrote it.

        """
        for name in ENTITIES:
            importlib.import_module(f"llm_twin.tracing.store.{name}")
        self.settings = settings
        self.redactor = Redactor.of(settings) if settings else Redactor()
        self.database = Database(home / "traces.db")
        self.blobs = home / "attachments"
        self.body_limit = body_limit
        self.attachment_limit = attachment_limit

    def limit_of(self, path: str) -> int:
        """How many bytes the body of a request to a path may have."""
        upload = path.strip("/") == "v1/private/attachment/upload"
        return self.attachment_limit if upload else self.body_limit

    def handle(self, request: Request) -> Response:
        """Answer a request; what was written is on the disk before this returns."""
        request.limit, request.redactor = self.limit_of(request.path), self.redactor
        try:
            return routing.answer(self, request)
        except Problem as refused:
            return problem(refused.status, refused.message)
        except sqlite3.OperationalError as error:
            return _unwritten(error)
        except Exception:
            LOGGER.exception("%s %s failed", request.method, request.path)
            return problem(500, f"the store failed at {request.method} {request.path}; see its log")

    def discard(self, blob: str) -> None:
        """Remove an attachment's bytes once the open ``write`` is on the disk."""
        path = self.blobs / blob
        self.database.after_commit(lambda: path.unlink(missing_ok=True))

    def close(self) -> None:
        """Close the database."""
        self.database.close()


def _unwritten(error: sqlite3.OperationalError) -> Response:
    LOGGER.error("the trace store cannot be used: %s", error)
    busy = error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
    response = problem(429 if busy else 503, f"the store cannot be written now: {error}")
    response.headers["retry-after"] = "1"
    return response
