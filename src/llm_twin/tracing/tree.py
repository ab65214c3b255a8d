"""Traces as a person reads them: one line each, or one as a tree with times, tokens and cost."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.tree import Tree

    from llm_twin.tracing.store.listing import Row

QUESTION = 60
SHOWN = 500
SAYS = ("question", "query", "input", "prompt", "messages")
"""Fields of an input that say what was asked, the most telling first."""


def line(trace: Row) -> str:
    """A trace on one line: time, id, name, duration, tokens, cost, scores, error, question."""
    start = datetime.fromisoformat(trace["start_time"]).astimezone()
    parts = [f"{start:%Y-%m-%d %H:%M:%S}", trace["id"], trace.get("name") or "-", *facts(trace)]
    return " ".join(_text("  ".join([*parts, question(trace)[:QUESTION]])).splitlines()).rstrip()


def facts(row: Row) -> list[str]:
    """Duration, tokens, cost, scores and error of a trace or span, those that there are."""
    found = [_duration(row.get("duration"))]
    if tokens := (row.get("usage") or {}).get("total_tokens"):
        found.append(f"{tokens:,.0f} tokens")
    if cost := row.get("total_estimated_cost"):
        found.append(f"${cost:.6g}")
    found += [f"{score['name']} {score['value']:.3g}" for score in row.get("feedback_scores") or []]
    if error := row.get("error_info"):
        found.append(f"ERROR {error.get('exception_type', '')}".rstrip())
    return found


def _duration(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "not ended"
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.2f} s"


def question(trace: Row) -> str:
    """What was asked, on one line."""
    given = trace.get("input")
    if isinstance(given, dict):
        given = next((given[name] for name in SAYS if given.get(name)), given or None)
    return "" if given is None else " ".join(_text(given).split())


def _text(value: Any) -> str:
    """As text that cannot move a terminal's cursor or set its colours."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return "".join(one if one.isprintable() or one == "\n" else " " for one in text)


def tree(trace: Row, spans: list[Row]) -> Tree:
    """A trace with its spans below those that called them; what has no caller is at the top."""
    from rich.tree import Tree

    children: dict[str, list[Row]] = defaultdict(list)
    known = {span["id"] for span in spans}
    for span in spans:
        parent = str(span.get("parent_span_id"))
        children[parent if parent in known else ""].append(span)
    root = Tree(_label(trace))
    for name in ("input", "output", "error_info", "metadata", "tags", "thread_id"):
        if trace.get(name):
            root.add(_said(name, trace[name]))
    _grow(root, children, "")
    for parent in list(children):
        # Spans that call each other in a circle hang on nothing.
        _grow(root, children, parent)
    return root


def _grow(branch: Tree, children: dict[str, list[Row]], parent: str) -> None:
    for span in children.pop(parent, []):
        below = branch.add(_label(span))
        for name in ("input", "output", "error_info"):
            if span.get(name):
                below.add(_said(name, span[name]))
        _grow(below, children, span["id"])


def _label(row: Row) -> Any:
    from rich.text import Text

    about = [row.get("type"), row.get("model"), *facts(row)]
    label = Text(row.get("name") or row["id"], style="bold")
    style = "red" if row.get("error_info") else ""
    label.append(f"  {'  '.join(filter(None, about))}", style=style)
    return label


def _said(name: str, value: Any) -> Any:
    from rich.text import Text

    text = _text(value.get("message") or value if name == "error_info" else value)
    cut = f"{text[:SHOWN]} … ({len(text):,} characters)" if len(text) > SHOWN else text
    return Text(f"{name}: {cut}", style="dim")
