"""The report of a training run: one HTML file that needs nothing else, and Markdown for a summary.

It is made of the plain data that ``ct.run`` returns. Any key may be absent: old runs said less.
"""

from __future__ import annotations

import os
import re
from html import escape
from typing import TYPE_CHECKING, Any

from llm_twin.ct import figures, pictures
from llm_twin.ct.figures import Table, part
from llm_twin.ct.look import STYLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    Report = Mapping[str, Any]

HTML, MARKDOWN = "report.html", "report.md"


def html(report: Report) -> str:
    """The whole report as one page: no scripts, nothing loaded from elsewhere."""
    title = f"Training: {figures.outcome(report)}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<h1>{escape(title)}</h1>{''.join(_body(report))}</main></body></html>\n"
    )


def _body(report: Report) -> Iterator[str]:
    if about := part(report, "profile").get("description"):
        yield f"<p>{escape(str(about))}</p>"
    if reasons := part(report, "verdict").get("reasons"):
        listed = "".join(f"<li>{escape(str(reason))}</li>" for reason in reasons)
        yield f"<h2>Why</h2><ul>{listed}</ul>"
    yield f"<h2>The run</h2>{_table(figures.run(report))}"
    for heading, drawn in pictures.sections(report):
        yield f"<h2>{escape(heading)}</h2>"
        for picture in drawn:
            yield (
                f"<figure>{picture.svg}<figcaption>{escape(picture.caption)}</figcaption></figure>"
                f"{_table(picture.table)}"
            )
    if figures.groups(report).rows:
        yield f"<h2>All figures</h2>{_table(figures.groups(report))}"
        yield "<p>The names are those that a profile's <code>gate.floors</code> takes.</p>"
    for name, heading in (("dataset", "The dataset"), ("profile", "The profile")):
        if found := part(report, name):
            inner = _table(figures.plain(found))
            yield f"<details><summary>{heading}</summary>{inner}</details>"


def _table(table: Table) -> str:
    if not table.rows:
        return ""
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in table.rows
    )
    inner = f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="wide">{inner}</div>'


def markdown(report: Report) -> str:
    """A short report for a job's summary: the verdict and why, the main figures, the cost."""
    reasons = part(report, "verdict").get("reasons") or []
    parts = [
        f"### {cell(f'Training: {figures.outcome(report)}')}",
        "\n".join(f"- {cell(str(reason))}" for reason in reasons),
        _grid(figures.groups(report, figures.MAIN)),
        _grid(figures.compared(report)),
        _grid(figures.run(report)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _grid(table: Table) -> str:
    if not table.rows:
        return ""
    lines = [table.heads, ("---",) * len(table.heads), *table.rows]
    return "\n".join(
        f"| {' | '.join(one if at == 1 else cell(one) for one in line)} |"
        for at, line in enumerate(lines)
    )


def cell(text: str) -> str:
    """Any text as plain text in one line of Markdown."""
    return re.sub(r"[^\w .,;:()/=%+–-]|_", lambda m: f"&#{ord(m[0])};", " ".join(text.split()))


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in ((HTML, html(report)), (MARKDOWN, markdown(report))):
        building = folder / f".{name}.{os.getpid()}"
        building.write_text(text, encoding="utf-8")
        written.append(building.replace(folder / name))
    return written[0], written[1]
