"""An index of a corpus, kept up to date: `invoke features`."""

from __future__ import annotations

import json as json_format
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


def make_features(
    settings: Settings, corpus: str = "", exclude: str = "", workers: str = "local", index: str = ""
) -> dict[str, Any]:
    """Bring an index to exactly a corpus; see ``ct.features.bring_up_to_date`` for what it returns.

    Args:
        settings: where the state is.
        corpus: folder, file, Git URL, feed or export; empty: as for `invoke ct`.
        exclude: patterns of files to leave out, separated by commas.
        workers: ``local`` or ``ray``.
        index: URL of a Qdrant server; empty: TWIN_INDEX_URL, else a file in the state folder.

    """
    from ci.training import config_of
    from llm_twin.ct.features import bring_up_to_date
    from llm_twin.ct.preflight import check_embedder
    from llm_twin.ct.scale import open_workers

    if index:
        settings = replace(settings, index_url=index)
    check_embedder(settings)
    config = config_of(corpus, exclude, "60s")
    with open_workers(workers) as team:
        return bring_up_to_date(config.corpus, config.exclude, settings, _say, team)


def _say(text: str) -> None:
    print(f"  {text}", flush=True)


@task(
    help={
        "corpus": "folder, file, Git URL, feed or export; default: as for invoke ct",
        "exclude": "patterns of files to leave out, separated by commas",
        "workers": "who does the work: local, or ray (the cluster at RAY_ADDRESS, else its own)",
        "index": "URL of a Qdrant server; default: TWIN_INDEX_URL, else a file",
        "json": "print JSON",
    },
    auto_shortflags=False,
)
@tell_errors
def features(
    c: Context,
    corpus: str = "",
    exclude: str = "",
    workers: str = "local",
    index: str = "",
    json: bool = False,
) -> None:
    """Bring an index to exactly a corpus: what changed is cut, embedded and written, no more."""
    report = make_features(Settings.load(root=ROOT), corpus, exclude, workers, index)
    print(json_format.dumps(report) if json else "\n".join(_lines(report)))


def _lines(report: dict[str, Any]) -> Iterator[str]:
    for uri, reason in report["skipped"]:
        yield f"skipped   {uri}: {reason}"
    yield (
        f"corpus    {report['documents']:,} documents; opened {report['opened']:,},"
        f" cleaned {report['cleaned']:,}, left out {report['dropped']:,} as empty or copies"
    )
    yield (
        f"passages  {report['chunks']:,}; cut {report['cut']:,} documents anew,"
        f" embedded {report['embedded']:,} passages, wrote {report['written']:,},"
        f" deleted {report['deleted']:,} documents"
    )
    yield f"seconds   {', '.join(f'{step} {spent:g}' for step, spent in report['seconds'].items())}"
    yield f"index     {report['index']}, embedder {report['embedder'] or 'words'}"
