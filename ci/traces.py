"""Looking at what was traced, and what becomes of it: commands over the trace store."""

from __future__ import annotations

import dataclasses
import json as json_format
import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.tasks import task

from ci.traces_serve import serve
from llm_twin.errors import ConfigError, RemoteError
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

    from llm_twin.tracing.status import Status
    from llm_twin.tracing.store.store import Store

ROOT = Path(__file__).resolve().parents[1]
FILTER = 'Opik\'s filter string, like: name = "answer" and feedback_scores.groundedness < 0.5'
WHICH = {"filter": FILTER, "project": "its traces only; default: those of all projects"}
TAIL_SECONDS = 0.5


@contextmanager
def _store() -> Iterator[tuple[Store, Settings]]:
    from llm_twin.tracing.store.store import Store

    settings = Settings.load(root=ROOT)
    with closing(Store(settings.traces, settings)) as store:
        yield store, settings


@task(
    name="list",
    help={**WHICH, "limit": "how many; 0: all", "json": "print JSON, one a line"},
    auto_shortflags=False,
)
@tell_errors
def list_traces(
    c: Context, filter: str = "", project: str = "", limit: int = 20, json: bool = False
) -> None:
    """List traces, the newest first: time, id, name, duration, tokens, cost, scores, question."""
    from llm_twin.tracing import lookup, tree

    with _store() as (store, _):
        found = lookup.some(store, project, filter, limit)
    for trace in found:
        print(json_format.dumps(trace, ensure_ascii=False) if json else tree.line(trace))
    if not (found or json):
        print("No traces fit" if filter else 'Nothing was traced yet. Type: invoke ask "…"')


@task(
    help={"id": "a trace's id, or how it begins", "json": "print JSON"},
    auto_shortflags=False,
)
@tell_errors
def show(c: Context, id: str, json: bool = False) -> None:
    """Show one trace as a tree of its spans, with times, tokens and cost."""
    from llm_twin.tracing import lookup, tree

    with _store() as (store, _):
        trace, spans = lookup.trace(store, id)
    if json:
        print(json_format.dumps({**trace, "spans": spans}, ensure_ascii=False))
        return
    from rich.console import Console

    Console(highlight=False).print(tree.tree(trace, spans))


@task(help={"count": "stop after so many; 0: never"}, auto_shortflags=False)
@tell_errors
def tail(c: Context, count: int = 0) -> None:
    """Print traces as they are stored. Ctrl-C ends it."""
    from llm_twin.tracing import lookup, tree

    with _store() as (store, _):
        number, shown = lookup.newest(store), 0
        while not count or shown < count:
            number, found = lookup.since(store, number, count - shown if count else 100)
            for trace in found:
                print(tree.line(trace), flush=True)
            shown += len(found)
            time.sleep(0 if found else TAIL_SECONDS)


@task(help={"json": "print JSON"}, auto_shortflags=False)
@tell_errors
def status(c: Context, json: bool = False) -> None:
    """Say what is stored, forwarded, queued, parked and dropped, and what went wrong last."""
    from llm_twin.tracing import status as figures

    with _store() as (store, settings):
        found = figures.status(store)
    if json:
        print(json_format.dumps(dataclasses.asdict(found)))
    else:
        print("\n".join(_lines(found, settings.opik_url)))


def _lines(found: Status, url: str) -> Iterator[str]:
    yield f"stored     {_counted(found.stored)}"
    yield f"now        {_counted(found.kept)}"
    if found.remote:
        yield f"remote     {found.remote}"
        yield f"forwarded  {_counted(found.forwarded)}"
        age = f", the oldest for {found.queued_seconds:,} s" if found.queued else ""
        yield f"queued     {_counted(found.queued)}{age}"
        yield f"parked     {_counted(found.parked)}"
    elif url:
        yield f"remote     {url}, which nothing was forwarded to yet. Type: invoke traces.forward"
    else:
        yield "remote     none; to forward set TWIN_OPIK_URL"
    dropped = (f"{number:,} by {reason}" for reason, number in found.dropped.items())
    yield f"dropped    {', '.join(dropped) or 0}"
    yield f"journal    {found.journal_bytes:,} bytes wait"
    if found.refused_records:
        yield f"refused    {found.refused_records:,} records, in the journal folder"
    for one in found.refusals:
        yield f"  parked {one['kind']} {one['key']}: {one['status']} {one['reason']}"
    if found.parked:
        yield "To try those again: invoke traces.forward --parked"
    if found.error:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.error_at))
        yield f"{when}  {found.error}"
    if found.halted:
        yield (
            "Nothing is sent until TWIN_OPIK_URL, TWIN_OPIK_KEY or TWIN_OPIK_WORKSPACE changes;"
            " to try once: invoke traces.forward"
        )


def _counted(figures: dict[str, int]) -> str:
    named = ((kind.replace("_", " "), number) for kind, number in figures.items())
    return ", ".join(f"{number:,} {kind}{'s' * (number != 1)}" for kind, number in named) or "0"


@task(
    help={"parked": "also what the remote refused before", "tries": "failures before giving up"},
    auto_shortflags=False,
)
@tell_errors
def forward(c: Context, parked: bool = False, tries: int = 3) -> None:
    """Send what waits to the Opik of TWIN_OPIK_URL, now."""
    from llm_twin.tracing import outbox, upkeep
    from llm_twin.tracing.forwarder import Halted, Later

    with _store() as (store, settings), upkeep.only_one(settings):
        if not outbox.aim(store, settings):
            raise ConfigError("there is no Opik to forward to", hint="Set TWIN_OPIK_URL")
        if parked:
            outbox.unpark(store)
        try:
            sent = upkeep.forward(store, settings, tries)
        except Halted as error:
            hint = "Check TWIN_OPIK_URL, TWIN_OPIK_KEY and TWIN_OPIK_WORKSPACE"
            raise RemoteError("Opik refused", error, hint) from None
        except Later as error:
            hint = "Nothing is lost; the rest waits. Type: invoke traces.status"
            raise RemoteError("Opik does not take more now", error, hint) from None
        print(f"{sent:,} sent to {settings.opik_url}")


@task(
    help={
        **WHICH,
        "jsonl": "file of lines that traces.import reads",
        "parquet": "file for analysis; needs pyarrow",
    },
    auto_shortflags=False,
)
@tell_errors
def export(
    c: Context, jsonl: str = "", parquet: str = "", filter: str = "", project: str = ""
) -> None:
    """Write traces with all that is theirs to a file."""
    from llm_twin.tracing import lookup, transfer

    if bool(jsonl) == bool(parquet):
        raise ConfigError("say where to", "traces.export", "Give --jsonl FILE or --parquet FILE")
    with _store() as (store, _):
        found = lookup.traces(store, project, filter)
        if jsonl:
            number = transfer.export_jsonl(store, found, Path(jsonl))
        else:
            number = transfer.export_parquet(store, found, Path(parquet))
    print(f"{number:,} traces in {jsonl or parquet}")


@task(name="import", help={"file": "what traces.export --jsonl wrote"}, auto_shortflags=False)
@tell_errors
def import_traces(c: Context, file: str) -> None:
    """Take traces in from a file; what is there already is left alone."""
    from llm_twin.tracing import transfer

    with _store() as (store, _):
        taken, there = transfer.import_jsonl(store, Path(file))
    print(f"{taken:,} traces taken in, {there:,} were there already")


@task(
    help={**WHICH, "name": "of the dataset; made when there is none", "limit": "0: all"},
    auto_shortflags=False,
)
@tell_errors
def to_dataset(c: Context, name: str, filter: str = "", project: str = "", limit: int = 0) -> None:
    """Make items of an Opik dataset from traces, each content once and redacted again."""
    from llm_twin.tracing import dataset_from_traces, lookup

    with _store() as (store, settings):
        found = lookup.some(store, project, filter, limit)
        made = dataset_from_traces.make(store, settings, name, found)
    print(f"{made.added:,} items added to {name}, {made.known:,} were there already")
    if made.redacted:
        print(f"{made.redacted:,} held something private yet; it was taken out of the items")


@task(
    help={
        "thread": "a conversation's id",
        "contains": "a text, wherever it is",
        "yes": "delete; without it nothing is deleted, only counted",
    },
    auto_shortflags=False,
)
@tell_errors
def forget(c: Context, thread: str = "", contains: str = "", yes: bool = False) -> None:
    """Delete a conversation, or all that mentions a text, and its bytes from the files."""
    from llm_twin.tracing import forget as forgetting

    with _store() as (store, settings):
        found = forgetting.find(store, settings, thread, contains)
        counted = _counted({kind: number for kind, number in found.counts().items() if number})
        if found.stays:
            print(f"Mentions that stay, for you to change: {_counted(found.stays)}")
        if not yes:
            print(f"Found: {counted}. Nothing is deleted yet; to delete add --yes")
            return
        forgetting.forget(store, settings, found)
        print(f"Deleted: {counted}")
        if settings.opik_url:
            print("The remote is told when traces are forwarded: invoke traces.forward")


traces = Collection("traces")
traces.add_task(list_traces, default=True)
for more in (show, tail, status, forward, export, import_traces, to_dataset, forget, serve):
    traces.add_task(more)
