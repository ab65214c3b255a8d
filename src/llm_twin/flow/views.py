"""What was recorded of runs, as a person and a program read it: tables, JSON, pieces of logs."""

from __future__ import annotations

import codecs
import re
import time
from typing import TYPE_CHECKING, Any

from llm_twin.flow.states import StateType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import IO

    from llm_twin.flow.records import Attempt, Run, StageRun

MOST_REASONS = 5
MOST_LOG_LINES = 2000
SILENT_SECONDS = 60.0
PIECE = 65536
# Bytes at a log's end that are read for its last lines.
LAST_BYTES = 16 * 1024
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])")


def stage_to_dict(done: StageRun) -> dict[str, Any]:
    """A stage of a run as plain JSON types; times are seconds since the epoch."""
    return {
        "stage": done.stage,
        "state": str(done.state),
        "message": done.state.message,
        "started": done.started,
        "ended": done.ended,
        "cpu_seconds": done.cpu,
        "peak_mb": done.peak_mb,
        "result": done.result,
        "key": done.key,
        "parts": done.parts,
        "why": done.why,
        "outputs": done.outputs,
        "attempts": done.attempts,
        "evidence": done.evidence,
    }


def run_to_dict(run: Run, attempts: Sequence[Attempt] | None = None) -> dict[str, Any]:
    """A run as plain JSON types, with its attempts if they are given."""
    data = {
        "id": run.id,
        "flow": run.flow,
        "state": str(run.state),
        "message": run.state.message,
        "parameters": run.parameters,
        "options": run.options,
        "created": run.created,
        "ended": run.ended,
        "pid": run.pid,
        "host": run.host,
        "heartbeat": run.heartbeat,
        "source": run.source,
        "stages": [stage_to_dict(item) for item in run.stages],
    }
    if attempts is not None:
        data["attempts"] = [_attempt_to_dict(item) for item in attempts]
    return data


def _attempt_to_dict(item: Attempt) -> dict[str, Any]:
    return {
        "stage": item.stage,
        "number": item.number,
        "state": str(item.state),
        "message": item.state.message,
        "started": item.started,
        "ended": item.ended,
        "cpu_seconds": item.cpu,
        "peak_mb": item.peak_mb,
    }


def runs_table(runs: Sequence[Run], now: float | None = None) -> str:
    """One line a run, newest first; ``now`` is when it is read, in seconds since the epoch."""
    if not runs:
        return "No runs yet. Start one: invoke ct"
    rows = [("ID", "FLOW", "STATE", "STARTED", "SECONDS", "MESSAGE")]
    rows += [
        (
            run.id,
            run.flow,
            _live_state(run, now),
            _date(run.created),
            _seconds(run.created, run.ended),
            run.state.message,
        )
        for run in runs
    ]
    return table(rows)


def run_details(
    run: Run, attempts: Sequence[Attempt] | None = None, now: float | None = None
) -> str:
    """One run with its stages: where they ran, for which reasons, and what was tried again."""
    took = f"took {_seconds(run.created, run.ended)} s" if run.ended else "has not ended"
    lines = [
        f"run {run.id}: {run.flow}, {_live_state(run, now)}",
        f"started {_date(run.created)}, {took}, process {run.pid}"
        f"{f' on {run.host}' if run.host else ''}, {run.source}",
    ]
    if run.parameters:
        lines.append("with " + ", ".join(f"{k}={v!r}" for k, v in run.parameters.items()))
    if run.state.message:
        lines.append(run.state.message)
    lines += [*_places(run.stages), "", _stages_table(run.stages)]
    reasons = [f"{item.stage} ran because {listing(item.why)}" for item in run.stages if item.why]
    again = [_attempt_line(item) for item in attempts or () if _repeated(item, run.stages)]
    for block in (reasons, again):
        lines += ["", *block] if block else []
    return "\n".join(lines)


def _stages_table(stages: Sequence[StageRun]) -> str:
    rows = [("STAGE", "STATE", "SECONDS", "CPU", "PEAK MB", "TRIES", "OUTPUTS", "MESSAGE")]
    rows += [
        (
            item.stage,
            str(item.state),
            _seconds(item.started, item.ended),
            "" if item.cpu is None else f"{item.cpu:.1f}",
            "" if item.peak_mb is None else f"{item.peak_mb:.0f}",
            str(item.attempts or ""),
            str(len(item.outputs) or ""),
            item.state.message,
        )
        for item in stages
    ]
    return table(rows)


def _places(stages: Sequence[StageRun]) -> list[str]:
    """Where the stages ran; once for all if they ran in the same place."""
    places: dict[str, list[str]] = {}
    for item in stages:
        if "host" in item.evidence:
            places.setdefault(_place(item.evidence), []).append(item.stage)
    if len(places) == 1:
        return [f"ran {place}" for place in places]
    return [f"{', '.join(names)} ran {place}" for place, names in places.items()]


def _place(evidence: dict[str, str]) -> str:
    dirty = {"yes": ", with changes", "unknown": ", perhaps with changes"}
    commit = evidence.get("commit", "")[:12] or "no commit"
    return (
        f"at {commit}{dirty.get(evidence.get('dirty', ''), '')}"
        f" on {evidence.get('host', '?')} ({evidence.get('machine', '?')}),"
        f" {evidence.get('python', '?')}, {evidence.get('source', '?')}"
    )


def _repeated(item: Attempt, stages: Sequence[StageRun]) -> bool:
    return any(stage.stage == item.stage and stage.attempts > 1 for stage in stages)


def _attempt_line(item: Attempt) -> str:
    took = f" after {duration(item.ended - item.started)}" if item.ended else ""
    message = f": {item.state.message}" if item.state.message else ""
    return f"{item.stage}, attempt {item.number}: {item.state}{took}{message}"


def _live_state(run: Run, now: float | None) -> str:
    now = time.time() if now is None else now
    if run.state.type is not StateType.RUNNING or run.heartbeat is None:
        return str(run.state)
    silent = now - run.heartbeat
    return f"{run.state}, silent for {duration(silent)}" if silent > SILENT_SECONDS else "Running"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart; whatever would break a line is taken out."""
    plain = [[plain_line(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in plain) for i in range(len(plain[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in plain
    )


def listing(items: Sequence[str]) -> str:
    """The first few of some reasons, and how many more there are."""
    shown = "; ".join(items[:MOST_REASONS])
    more = len(items) - MOST_REASONS
    return f"{shown}; and {more} more" if more > 0 else shown


def duration(seconds: float) -> str:
    """As a person says it: ``0.4 s``, ``12 s``, ``1 min 40 s``, ``2 h 5 min``."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    for size, unit, smaller, name in ((3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit} {rest} {name}" if rest else f"{whole // size} {unit}"
    return f"{whole} s"


def plain_line(text: str) -> str:
    """A text as one line without colours, control characters and runs of spaces."""
    return " ".join(_printable(without_escapes(text)).split())


def without_escapes(text: str) -> str:
    """A text without the sequences that colour it or move the cursor."""
    return _ESCAPE.sub("", text) if "\x1b" in text else text


def log_pieces(path: Path, start: int = 0, most: int = MOST_LOG_LINES) -> Iterator[str]:
    """A log's text from a byte on, piece by piece; of a long one the middle is left out.

    A log is never in memory as a whole. One that is not there is empty.
    """
    try:
        file = path.open("rb")
    except OSError:
        return
    with file:
        file.seek(start)
        lines = sum(piece.count(b"\n") for piece in iter(lambda: file.read(PIECE), b""))
        file.seek(start)
        decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        if lines <= most:
            yield from (decode(piece) for piece in iter(lambda: file.read(PIECE), b""))
        else:
            yield from (decode(piece) for piece in _lines(file, most // 2))
            yield f".. {lines - most // 2 * 2} lines left out; all of them: {path}\n"
            for _ in _lines(file, lines - most // 2 * 2):
                pass
            yield from (decode(piece) for piece in iter(lambda: file.read(PIECE), b""))
        yield decode(b"", True)


def _lines(file: IO[bytes], count: int) -> Iterator[bytes]:
    """The next lines, a long one in several pieces."""
    while count and (piece := file.readline(PIECE)):
        count -= piece.endswith(b"\n")
        yield piece


def last_lines(path: Path, count: int, start: int = 0) -> list[str]:
    """The last lines of a log as plain text; those of one that is not there are none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(start, size - LAST_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    lines = (_printable(line.expandtabs()) for line in without_escapes(text).splitlines())
    return [line for line in lines if line.strip()][-count:]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _seconds(start: float | None, end: float | None) -> str:
    return "" if start is None or end is None else f"{end - start:.1f}"
