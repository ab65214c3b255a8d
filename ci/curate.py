"""From readers' corrections to training data: `invoke curate`."""

from __future__ import annotations

import json as json_format
from contextlib import closing, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.errors import ConfigError
from llm_twin.flow.project import parse_age
from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]
DATASET = "feedback"
NOT_OF_THE_TEXT = ("latency", "cost", "length")
"""Scores that say nothing about what an answer should have been."""
PASSAGES = 5


def curate_feedback(
    settings: Settings,
    name: str = DATASET,
    low_score: float = 0.5,
    since: str = "",
    grounded: str | None = None,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Choose, clean and publish; return what became of the traces.

    Args:
        settings: where the traces are.
        name: of the Opik dataset.
        low_score: answers with a score below it are looked at.
        since: an age like ``7d``; older traces are left alone.
        grounded: a corpus whose texts have to support every correction; None: not checked.
        dry_run: publish nothing.

    Returns:
        ``traces`` looked at, ``chosen``, ``rows`` to learn from, ``preferences`` and ``questions``
        among them, ``open`` questions, ``rejected`` (a count by reason), ``reasons`` (a reason by
        trace id), and unless dry: ``digest``, ``version`` of the dataset, ``changed``.

    Raises:
        ConfigError: an argument cannot be used.
        CorpusError: the corpus cannot be read.
        SpaceError: the state folder cannot be written.

    """
    from llm_twin.tracing import curation
    from llm_twin.tracing.redaction import Redactor
    from llm_twin.tracing.store.store import Store

    if not 0 < low_score <= 1:
        raise ConfigError("a score is from 0 to 1", low_score, "Say --low-score 0.5")
    begin = datetime.now(UTC) - timedelta(seconds=parse_age(since)) if since else None
    checked = nullcontext() if grounded is None else _corpus(grounded, settings)
    with closing(Store(settings.traces, settings)) as store, checked as passages:
        chosen = curation.choose(
            store, settings.trace_project, low_score, begin, ignored=NOT_OF_THE_TEXT
        )
        made = curation.curate(chosen.rows, Redactor.of(settings), passages)
        report = {
            "traces": chosen.traces,
            "chosen": len(chosen.rows),
            "rows": len(made.rows),
            "preferences": sum(bool(row.answer) for row in made.rows),
            "questions": sum(bool(row.cites) for row in made.rows),
            "open": len(made.open),
            "rejected": made.counts(),
            "reasons": made.rejected,
        }
        if not dry_run:
            report |= curation.publish(store, settings, name, made)._asdict()
    return report


@contextmanager
def _corpus(corpus: str, settings: Settings) -> Iterator[Callable[[str], Sequence[str]]]:
    """Search by words in the texts of a corpus as it is now, before any training on it."""
    from dataclasses import replace

    from ci.training import config_of
    from llm_twin.corpus import Chunk
    from llm_twin.ct import work

    def say(text: str) -> None:
        """Nothing: what is printed is the report."""

    config, settings = config_of(corpus, "", "60s"), replace(settings, embedder="words")
    documents, _ = work.tidy(work.collect(config.corpus, config.exclude, settings, say)[0])
    chunks = [Chunk.from_dict(row) for row in work.split(documents, settings, say)]
    with work.searching(chunks, settings, say) as retriever:
        yield lambda text: [hit.chunk.text for hit in retriever.search(text, PASSAGES)]


@task(
    help={
        "since": "only traces of this age, like 7d; default: all that are stored",
        "low-score": "answers with a score below it are looked at",
        "name": "of the Opik dataset",
        "grounded": "reject corrections that the corpus does not support",
        "corpus": "with --grounded: folder, file, URL; default: as for invoke ct",
        "dry-run": "count, and write nothing",
        "json": "print JSON, with the reason of each trace that was rejected",
    },
    auto_shortflags=False,
)
@tell_errors
def curate(
    c: Context,
    since: str = "",
    low_score: float = 0.5,
    name: str = DATASET,
    grounded: bool = False,
    corpus: str = "",
    dry_run: bool = False,
    json: bool = False,
) -> None:
    """Make training data of what readers said about answers, for the next `invoke ct`."""
    report = curate_feedback(
        Settings.load(root=ROOT), name, low_score, since, corpus if grounded else None, dry_run
    )
    print(json_format.dumps(report) if json else "\n".join(_lines(report, name)))


def _lines(report: dict[str, Any], name: str) -> Iterator[str]:
    from llm_twin.tracing.curation import REASONS

    yield f"traces    {report['traces']:,} looked at, {report['chosen']:,} chosen"
    yield (
        f"kept      {report['rows']:,}, of them {report['preferences']:,} with the answer they"
        f" correct and {report['questions']:,} that name a document"
    )
    yield f"rejected  {sum(report['rejected'].values()):,}"
    for reason, count in report["rejected"].items():
        yield f"  {count:>6,}  {reason}: {REASONS[reason]}"
    if "digest" not in report:
        yield "Nothing was written"
        return
    if report["version"]:
        yield (
            f"dataset   {name} {report['version']}, with {report['open']:,} open questions besides"
        )
    if report["digest"]:
        told = "Take it: invoke ct" if report["changed"] else "the same as before"
        yield f"feedback  {report['digest']}. {told}"
    else:
        yield "feedback  none"
