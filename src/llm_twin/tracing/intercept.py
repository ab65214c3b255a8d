"""The one place that reaches into the Opik SDK: its messages go to the journal, not to its queues.

``@opik.track``, ``Opik().trace(...)`` and all else end in ``Streamer.put``, which batches for two
seconds in memory. What is about traces, spans, scores and experiment items is redacted and written
to the journal there instead. Everything else goes the SDK's own way, and so do large records as
well, because the SDK finds attachments embedded in them. The SDK's version is pinned; a test holds
it to this seam.
"""

from __future__ import annotations

import json
import logging
import weakref
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
from opik import config, dict_utils, hooks, jsonable_encoder
from opik.message_processing import encoder_helpers, messages
from opik.message_processing.processors import message_processors_chain
from opik.message_processing.streamer import Streamer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llm_twin.tracing.journal import Journal
    from llm_twin.tracing.redaction import Redactor

LOGGER = logging.getLogger(__name__)
_PLAIN = {
    "id", "trace_id", "parent_span_id", "start_time", "end_time", "last_updated_at", "source",
    "type", "usage", "environment", "project_name", "total_estimated_cost", "experiment_id",
    "dataset_item_id",
}  # fmt: skip
"""Fields that hold no text of a user's."""
_ENTITIES = {
    messages.CreateTraceMessage: "traces",
    messages.CreateSpanMessage: "spans",
    messages.UpdateTraceMessage: "trace",
    messages.UpdateSpanMessage: "span",
}
_SCORES = {
    messages.AddTraceFeedbackScoresBatchMessage: "trace-scores",
    messages.AddSpanFeedbackScoresBatchMessage: "span-scores",
    messages.AddThreadsFeedbackScoresBatchMessage: "thread-scores",
}
_JSON = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z | orjson.OPT_NAIVE_UTC
_JSON |= orjson.OPT_PASSTHROUGH_DATACLASS


class Interceptor:
    """Takes the SDK's messages while it is installed; one at a time in a process.

    Args:
        journal: where records are written down.
        redactor: what is taken out of them first.
        metadata: what every trace carries besides its own.

    """

    def __init__(
        self, journal: Journal, redactor: Redactor, metadata: Mapping[str, str] | None = None
    ) -> None:
        self.metadata = redactor.redact(dict(metadata or {}))
        self._journal = journal
        self._redactor = redactor
        self._large = config.OpikConfig().min_base64_embedded_attachment_size

    def install(self) -> Callable[[], None]:
        """Put this before the SDK's queues; return what takes it away again."""
        seam: Any = Streamer
        put, flush = seam.put, seam.flush

        def take(streamer: Streamer, message: Any, force: bool = False) -> None:
            if not self.take(streamer, message):
                put(streamer, message, force)

        def drain(streamer: Streamer, timeout: float | None, upload_sleep_time: int = 5) -> bool:
            done = flush(streamer, timeout, upload_sleep_time)
            return self._journal.flush(30.0 if timeout is None else timeout) and bool(done)

        def remove() -> None:
            seam.put, seam.flush = put, flush

        seam.put, seam.flush = take, drain
        return remove

    def take(self, streamer: Streamer, message: Any) -> bool:
        """Journal a message; False when the SDK has to send it, redacted where it holds texts."""
        done = type(message) in _JOURNALED
        try:
            for label, item in self._records(message):
                self._journal.append(label, item)
                done &= len(item) <= self._large
        except OSError as error:
            LOGGER.error("a trace cannot be written down, so a kill may lose it: %s", error)
            done = False
        if done:
            _tell_recorder(streamer, message)
        else:
            self._clean(message)
        return done

    def _records(self, message: Any) -> Iterator[tuple[str, bytes]]:
        kind = type(message)
        if entity := _ENTITIES.get(kind):
            yield self._entity(entity, message)
        elif scores := _SCORES.get(kind):
            for score in message.batch:
                yield scores, self._json(self._score(score.as_payload_dict()))
        elif kind is messages.CreateExperimentItemsBatchMessage:
            for item in message.batch:
                yield "experiment-items", self._json(_present(item.as_payload_dict()))

    def _entity(self, kind: str, message: Any) -> tuple[str, bytes]:
        payload = _present(message.as_payload_dict())
        if hooks.has_anonymizers():
            object_type: Any = kind.removesuffix("s")
            payload = encoder_helpers.encode_and_anonymize(
                payload, message.fields_to_anonymize(), object_type
            )
        metadata = payload.get("metadata", {})
        if isinstance(metadata, dict) and "ttft" in metadata:
            payload["ttft"] = metadata["ttft"]  # Opik's field that the SDK has no name for
        for name, value in payload.items():
            if name not in _PLAIN:
                payload[name] = self._field(name, value)
        if kind == "traces" and self.metadata and isinstance(metadata, dict):
            payload["metadata"] = payload.get("metadata", {}) | self.metadata
        if kind in ("trace", "span"):
            # The SDK stamps no updates, and one that is carried on twice must not undo a later one.
            payload["last_updated_at"] = datetime.now(UTC)
            kind = f"{kind} {quote(str(payload.pop('id')), safe='')}"
        return kind, self._json(payload)

    def _field(self, name: str, value: Any) -> Any:
        if name == "thread_id" and isinstance(value, str):
            return self._redactor.identifier(value)
        return self._redactor.redact(value)

    def _score(self, score: dict[str, Any]) -> dict[str, Any]:
        score = _present(score)
        for name in score.keys() - _PLAIN:
            score[name] = self._field(name, score[name])
        return score

    def _json(self, payload: dict[str, Any]) -> bytes:
        """As JSON, whatever users put in; what is not JSON by nature is redacted once it is."""
        try:
            return orjson.dumps(payload, default=self._encoded, option=_JSON)
        except TypeError:  # integers beyond 64 bits, broken surrogates, keys of unusual types
            return json.dumps(self._plain(payload)).encode()

    def _plain(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key if isinstance(key, str) else str(self._encoded(key)): self._plain(item)
                for key, item in value.items()
            }
        if isinstance(value, list):
            return [self._plain(item) for item in value]
        return value if isinstance(value, str | int | float | None) else self._encoded(value)

    def _encoded(self, value: Any) -> Any:
        try:
            return self._redactor.redact(jsonable_encoder.encode(value))
        except Exception as error:
            # A user's object that cannot be put into words must not cost the trace it is in.
            return f"[{type(value).__name__}, which raised {type(error).__name__}]"

    def _clean(self, message: Any) -> None:
        """Redact in place: the SDK writes what it queues to a file of its own."""
        if type(message) is messages.CreateAttachmentMessage:
            self._clean_attachment(message)
        for part in (message, *getattr(message, "batch", ())):
            for name, value in list(vars(part).items()):
                if isinstance(value, str | dict | list) and name not in _UNTOUCHED:
                    setattr(part, name, self._field(name, value))

    def _clean_attachment(self, message: messages.CreateAttachmentMessage) -> None:
        """Redact the SDK's own copy; a user's file stays as it is, and the store redacts it."""
        message.file_name = self._redactor.identifier(message.file_name)
        path = Path(message.file_path)
        if message.delete_after_upload and path.is_file():
            path.write_bytes(self._redactor.document(path.read_bytes()))


_JOURNALED = {*_ENTITIES, *_SCORES, messages.CreateExperimentItemsBatchMessage}
_UNTOUCHED = _PLAIN | {
    "batch", "message_type", "file_path", "file_name", "mime_type", "span_id", "entity_id",
    "entity_type", "secondary_id", "encoded_url_override",
}  # fmt: skip


def _present(payload: dict[str, Any]) -> dict[str, Any]:
    return dict_utils.remove_none_from_dict(payload)


_recorders: weakref.WeakKeyDictionary[Streamer, Any] = weakref.WeakKeyDictionary()


def _tell_recorder(streamer: Streamer, message: Any) -> None:
    """Feed ``opik.record_traces_locally`` and evaluations, which read messages from the queue."""
    local = _recorders.get(streamer)
    if local is None:
        chain: Any = streamer._queue_consumers[0]._message_processor
        local = message_processors_chain.get_local_emulator_message_processor(chain)
        _recorders[streamer] = local
    if local is not None and local.is_active():
        local.process(message)
