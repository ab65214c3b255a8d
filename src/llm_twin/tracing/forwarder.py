"""Sends what the store accepted on to a real Opik, however long that takes.

What the remote answers decides: that it has it; that it cannot take it now (wait, longer each
time); that it will not take this (halve the batch until the item is found, and park that); or that
it does not know us (stop until the settings change). Nothing leaves the outbox before the remote
has it, so a process killed after a request sends it again, and the remote merges by id.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from typing import TYPE_CHECKING, NamedTuple

from llm_twin.tracing import outbox
from llm_twin.tracing.outgoing import Call, calls
from llm_twin.tracing.remote import Answer, Remote
from llm_twin.tracing.store.routing import dumps

if TYPE_CHECKING:
    from llm_twin.settings import Settings
    from llm_twin.tracing.outbox import Queued
    from llm_twin.tracing.store.store import Store

LOGGER = logging.getLogger(__name__)
WINDOW = 500
BATCH_BYTES = 4 * 1024 * 1024
FIRST_WAIT = 0.5
LONGEST_WAIT = 60.0
DECIDED_SECONDS = 300.0
"""After its grace, within which sampling has looked at a trace."""
SUSPECT = 10
"""Failures in a row after which it may be the item, not the remote."""
STRANGER = (401, 403)
"""It does not know us."""
NO_API = (301, 302, 303, 307, 308, 404, 405, 501)
"""Perhaps this is no Opik at all."""


class Later(Exception):
    """The remote cannot take anything now."""

    def __init__(self, why: str, wait: float = 0.0, failed: bool = False) -> None:
        super().__init__(why)
        self.wait = wait
        self.failed = failed
        """Whether the remote did answer, with a failure of its own."""


class Halted(Exception):
    """The remote will not have us with these settings."""


class Item(NamedTuple):
    """A queued entity and the requests that tell of it."""

    queued: Queued
    calls: list[Call]
    size: int


class Forwarder:
    """Forwards one store to the Opik of the settings.

    Args:
        store: where from.
        settings: where to, and with which key.
        timeout: seconds that one answer may take.

    Attributes:
        failures: how often in a row the remote could not take anything.
        sent: entities that are dealt with.

    """

    def __init__(self, store: Store, settings: Settings, timeout: float = 30.0) -> None:
        self.store = store
        self.settings = settings
        self.failures = self.sent = 0
        self._window = WINDOW
        secrets = (outbox.address(settings), settings.opik_workspace, settings.opik_key)
        self._print = hashlib.sha256("\n".join(secrets).encode()).hexdigest()
        self._remote = Remote(settings, timeout)

    def halted(self) -> str:
        """Why the remote refused exactly these settings; "" when it did not."""
        with_, why = outbox.halted(self.store)
        return why if with_ == self._print else ""

    def drain(self) -> None:
        """Send until nothing waits.

        Raises:
            Later: the remote cannot take more now.
            Halted: it does not know us.

        """
        while queued := outbox.head(self.store, self._window, self._before()):
            queued.sort(key=lambda one: (outbox.ORDER[one.kind], one.seq))
            while queued:
                batch = self._load(queued)
                queued = queued[len(batch) :]
                self._send(batch)
                self.failures, self._window = 0, min(WINDOW, self._window * 2)
                self.sent += len(batch)

    def wait(self, error: Later) -> float:
        """Count a failure; return the seconds to wait after it.

        After answers of failure less is tried at a time, until it is one entity that fails.
        """
        self.failures += 1
        if error.failed:
            if self._window == 1 and self.failures > SUSPECT:
                self._suspect(str(error))
            self._window = max(1, self._window // 2)
        longest = min(LONGEST_WAIT, FIRST_WAIT * 2 ** min(self.failures, 10))
        outbox.tell(self.store, str(error))
        return max(error.wait, random.uniform(longest / 2, longest))

    def halt(self, error: Halted) -> None:
        """Remember not to try again with these settings."""
        outbox.tell(self.store, str(error), self._print)

    def close(self) -> None:
        """Close the connections."""
        self._remote.close()

    def _before(self) -> float | None:
        """Only what sampling has decided about goes out."""
        rate, grace = self.settings.trace_rate, self.settings.trace_grace
        return time.time() - grace - DECIDED_SECONDS if rate < 1 else None

    def _suspect(self, why: str) -> None:
        """Let others pass what the remote fails at; park what it failed at twice."""
        for one in outbox.head(self.store, 1, self._before()):
            if not outbox.pass_over(self.store, one):
                outbox.park(self.store, one, 500, why)

    def _load(self, queued: list[Queued]) -> list[Item]:
        """The first entities, those that may share a request."""
        batch: list[Item] = []
        size = 0
        with self.store.database.read() as db:
            for one in queued:
                found = calls(db, one.kind, one.key)
                item = Item(one, found, sum(len(dumps(call.body)) for call in found))
                size += item.size
                if batch and (size > BATCH_BYTES or not _akin(batch[0], item)):
                    break
                batch.append(item)
        return batch

    def _send(self, batch: list[Item]) -> None:
        answer = self._told(batch)
        if answer is None or answer.done:
            outbox.done(self.store, [item.queued for item in batch], told=answer is not None)
            return
        self._judge(answer)
        if len(batch) > 1:
            half = len(batch) // 2
            self._send(batch[:half])
            self._send(batch[half:])
            return
        queued = batch[0].queued
        LOGGER.error("a %s was refused with %d; see traces.status", queued.kind, answer.status)
        outbox.park(self.store, queued, answer.status, answer.said)

    def _told(self, batch: list[Item]) -> Answer | None:
        """The first refusal, or the last answer; None when there was nothing to say."""
        answer = None
        if batch[0].calls and batch[0].calls[0].listed:
            call = batch[0].calls[0]
            body = dict(call.shared) | {call.listed: [item.calls[0].body for item in batch]}
            return self._fine(self._remote.ask(call.method, call.path, body), call)
        for call in batch[0].calls:
            answer = self._fine(self._asked(call), call)
            if not answer.done:
                break
        return answer

    def _asked(self, call: Call) -> Answer:
        if call.method != "UPLOAD":
            return self._remote.ask(call.method, call.path, call.body)
        file = self.store.blobs / call.path
        return self._remote.upload(call.body, file) if file.is_file() else Answer(204)

    def _fine(self, answer: Answer, call: Call) -> Answer:
        return answer._replace(status=204) if answer.status in call.fine else answer

    def _judge(self, answer: Answer) -> None:
        """Raise when an answer says something of the remote rather than of what was sent."""
        status, said = answer.status, answer.said
        if status in STRANGER:
            raise Halted(f"{self._remote.url} refused with {status}: {said}")
        if status in NO_API and not self._remote.ask("GET", "is-alive/ping").done:
            raise Halted(f"{self._remote.url} is not Opik's API: it answered {status}: {said}")
        if status == 0 or status in (408, 425, 429) or (status >= 500 and status != 501):
            what = f"answered {status}: {said}" if status else f"did not answer: {said}"
            raise Later(f"{self._remote.url} {what}", answer.wait, failed=status >= 500)


def _akin(first: Item, other: Item) -> bool:
    """Whether two entities may share a request."""
    if not first.calls or not other.calls:
        return first.calls == other.calls
    one, two = first.calls[0], other.calls[0]
    return bool(one.listed) and one.kin == two.kin
