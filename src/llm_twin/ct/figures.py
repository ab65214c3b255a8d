"""What a training run measured, as tables of text; whatever an old run does not say is left out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.model.rule import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Report = Mapping[str, Any]
    Points = Sequence[Mapping[str, Any]]

UNITS = {
    "bits_per_character": "bits per character, less is better",
    "untrained": "bits per character of the network before training",
    "unigram": "bits per character of single tokens",
    "trigram": "bits per character of a Kneser-Ney trigram",
    "perplexity": "per token, less is better",
    "characters": "characters",
    "tokens": "tokens",
    "mrr": "mean of 1 / rank",
    "author": "probability that it is the author's",
    "n": "items",
    "short": "samples",
}
SHARE = "share, 0 to 1"
MAIN = (
    "language.bits_per_character", "retrieval.hit@5", "retrieval.mrr", "style.author",
    "answers.groundedness", "answers.cited", "answers.right", "refusal.refused",
)  # fmt: skip
NONE = "–"
EXACT = 1e5
MOST_ROWS, MOST_LETTERS = 120, 300


@dataclass(frozen=True)
class Table:
    """Heads and rows of cells, all of them plain text."""

    heads: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def part(report: Report, *names: str) -> dict[str, Any]:
    """A part of the report; {} when it is not there."""
    found: Any = report
    for name in names:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def said(value: Any) -> str:
    """A figure as text: counts whole, the rest with three places."""
    known = number(value)
    if known is None:
        return NONE if value is None else str(value)
    if isinstance(value, int) or (known == int(known) and abs(known) >= EXACT):
        return f"{known:,.0f}"
    return f"{known:.3f}" if abs(known) >= 0.001 or not known else f"{known:.2e}"


def outcome(report: Report) -> str:
    """What became of the candidate, in a few words."""
    if report.get("version"):
        return f"promoted {report['version']}"
    return f"not promoted: {part(report, 'verdict').get('verdict', 'no verdict')}"


def run(report: Report) -> Table:
    """What went in, what was trained, and what it cost."""
    collected, cleaned = part(report, "collected"), part(report, "cleaned")
    trained, data = part(report, "trained"), part(report, "dataset")
    base = part(report, "trained", "base") or part(report, "profile", "base")
    told = part(report, "feedback")
    rows = [
        ("profile", part(report, "profile").get("name")),
        ("corpus", report.get("corpus")),
        ("documents", _documents(cleaned, collected)),
        ("characters", cleaned.get("characters")),
        ("passages in the index", part(report, "indexed").get("chunks")),
        ("corrections learned from", told.get("taken")),
        ("dataset", str(data.get("digest") or told.get("digest") or "")[:8] or None),
        ("base", _joined((base, "model", ""), (base, "license", ""))),
        ("method", trained.get("method")),
        ("parameters", trained.get("parameters")),
        ("went on from", trained.get("resumed_from") or None),
        ("stopped by", trained.get("stopped_by") or None),
        ("training", _joined((trained, "cpu_seconds", "CPU seconds"))),
        ("whole run", _cost(report)),
    ]
    return Table(("what", "value"), [(name, said(one)) for name, one in rows if one is not None])


def _documents(cleaned: Report, collected: Report) -> str | None:
    counts = [said(one["documents"]) for one in (cleaned, collected) if "documents" in one]
    return " of ".join(counts) or None


def _joined(*parts: tuple[Report, str, str]) -> str | None:
    words = []
    for one, name, unit in parts:
        value = one.get(name)
        if value not in (None, ""):
            text = f"{value:,.1f}" if isinstance(value, float) else said(value)
            words.append(f"{text} {unit}".strip())
    return ", ".join(words) or None


def _cost(report: Report) -> str | None:
    return _joined(
        (report, "wall_seconds", "s wall"),
        (report, "cpu_seconds", "CPU seconds"),
        (report, "peak_mb", "MB at most"),
    )


def groups(report: Report, only: Sequence[str] = ()) -> Table:
    """Every figure of candidate and production, under the names that a gate's floors have."""
    rows = []
    for group in GROUPS:
        ours, theirs = part(report, group), part(report, "production", group)
        for name in dict.fromkeys([*ours, *theirs]):
            full = f"{group}.{name}"
            if (only and full not in only) or not _is_figure(ours, theirs, name):
                continue
            unit = UNITS.get(name, SHARE if only or _is_share(ours, theirs, name) else "")
            rows.append((full, said(ours.get(name)), said(theirs.get(name)), unit))
    return Table(("figure", "candidate", "production", "unit"), rows)


def _is_figure(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> bool:
    return any(isinstance(side.get(name), int | float) for side in (ours, theirs))


def _is_share(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> bool:
    values = [value for side in (ours, theirs) if (value := number(side.get(name))) is not None]
    return all(0 <= value <= 1 for value in values) and name != "n"


def differences(report: Report) -> dict[str, dict[str, Any]]:
    """What the gate compared, by group: verdict, difference, low, high, n and needed."""
    found = part(report, "verdict", "compared")
    return {
        name: own
        for name in GROUPS
        if (own := part(found, name))
        and all(number(own.get(key)) is not None for key in ("difference", "low", "high"))
    }


def compared(report: Report) -> Table:
    """The gate's paired differences, candidate minus production."""
    rows = [
        (
            GROUPS[name].subject,
            str(one.get("verdict", NONE)),
            f"{one['difference']:+.3f} {GROUPS[name].unit}",
            f"{one['low']:+.3f} to {one['high']:+.3f}",
            said(one.get("n")),
            said(one.get("needed")),
        )
        for name, one in differences(report).items()
    ]
    heads = ("group", "verdict", "difference", "interval", "items", "items that would tell")
    return Table(heads, rows)


def phases(points: Points) -> dict[str, list[Mapping[str, Any]]]:
    """Points by phase, in the order in which they were logged."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for point in points:
        found.setdefault(str(point.get("phase")), []).append(point)
    return found


def curves(points: Points) -> Table:
    """A row for each phase: where it began, where it ended, and its best evaluation."""
    rows = []
    for phase, own in phases(points).items():
        losses = [value for one in own if (value := number(one.get("loss"))) is not None]
        judged = [value for one in own if (value := number(one.get("evaluation"))) is not None]
        rows.append(
            (
                phase,
                said(max((int(one.get("step") or 0) for one in own), default=0)),
                said(losses[0] if losses else None),
                said(losses[-1] if losses else None),
                said(min(judged, default=None)),
                said(judged[-1] if judged else None),
                said(_last(own, "tokens")),
                said(_last(own, "seconds")),
            )
        )
    heads = (
        "phase", "steps", "first loss", "last loss", "best evaluation", "last evaluation",
        "tokens so far", "seconds so far",
    )  # fmt: skip
    return Table(heads, rows)


def _last(points: Points, name: str) -> Any:
    return next((one[name] for one in reversed(points) if one.get(name) is not None), None)


def plain(data: Mapping[str, Any]) -> Table:
    """Nested plain data as names with dots and values as text, shortened where it is long."""
    rows = [(name, _short(text)) for name, text in _flat(data, "")]
    more = len(rows) - MOST_ROWS
    return Table(
        ("name", "value"),
        [*rows[:MOST_ROWS], (f"and {more} more", "")] if more > 0 else rows,
    )


def _flat(data: Any, prefix: str) -> Iterator[tuple[str, str]]:
    if not isinstance(data, dict):
        yield prefix, said(data) if isinstance(data, float) else str(data)
        return
    for key, value in data.items():
        yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))


def _short(text: str) -> str:
    return text if len(text) <= MOST_LETTERS else f"{text[: MOST_LETTERS - 1]}…"
