"""Which plots a report has, each with a caption and the table that says the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llm_twin.ct import figures, plots
from llm_twin.ct.figures import Table, number, part, said
from llm_twin.model.rule import GROUPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Report = Mapping[str, Any]

BASELINES = ("trigram", "unigram", "untrained")
SHARES = {
    "retrieval": ("hit@1", "hit@5", "mrr"),
    "answers": (),
    "refusal": (),
    "judged": (),
    "preference": (),
}
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Picture:
    """A plot, what to look for in it, and the same as a table."""

    svg: str
    caption: str
    table: Table


def sections(report: Report) -> Iterator[tuple[str, list[Picture]]]:
    """Headings and their plots; what was not measured has none."""
    points = report.get("curves") or []
    for heading, drawn in (
        ("Candidate beside production", list(_compared(report))),
        ("Training", list(_curves(points))),
        ("Held-out text", list(_language(report))),
        ("Style", list(_style(report))),
        ("Retrieval and answers", list(_shares(report))),
    ):
        if drawn:
            yield heading, drawn


def _compared(report: Report) -> Iterator[Picture]:
    found = figures.differences(report)
    rule = part(report, "profile", "gate")
    rows = [
        plots.Interval(
            name=GROUPS[name].subject,
            difference=one["difference"],
            low=one["low"],
            high=one["high"],
            margin=number(part(rule, "margins").get(name)) or 0.0,
            higher_is_better=GROUPS[name].higher_is_better,
            text=f"{one['difference']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})",
            kind={"better": "better", "worse": "worse"}.get(str(one.get("verdict")), "neither"),
        )
        for name, one in found.items()
    ]
    if not rows:
        return
    sure = (number(rule.get("confidence")) or CONFIDENCE) * 100
    told = "; ".join(f"{GROUPS[name].subject}: {one.get('verdict')}" for name, one in found.items())
    yield Picture(
        plots.intervals("Paired differences, candidate minus production", told, rows),
        f"Dots are mean differences over the same items, bars their {sure:.4g} % intervals, each"
        " row on its own scale; thin marks are the margins within which nothing is said. An"
        " interval that keeps clear of the middle is a verdict.",
        figures.compared(report),
    )


def _curves(points: Sequence[Mapping[str, Any]]) -> Iterator[Picture]:
    table = figures.curves(points)
    for (phase, own), row in zip(figures.phases(points).items(), table.rows, strict=True):
        losses, judged, rates = (_series(own, key) for key in ("loss", "evaluation", "rate"))
        series = [
            plots.Series("training", losses),
            plots.Series("rows set aside", judged, "production", dots=True),
        ]
        drawn = [one for one in series if any(y is not None for _, y in one.points)]
        about = Table(table.heads, [row])
        gaps = sum(y is None for _, y in losses)
        if drawn:
            unit = "loss of pairs" if phase == "dpo" else "loss, nats per token"
            broken = f" At {gaps} steps it was not a number." if gaps else ""
            yield Picture(
                plots.lines(
                    f"Loss in phase {phase}",
                    f"From {row[2]} to {row[3]} in {row[1]} steps; best evaluation {row[4]}.",
                    "step", unit, drawn,
                ),
                f"{phase}: {unit}, by step.{broken}",
                about,
            )  # fmt: skip
        if any(y is not None for _, y in rates):
            peak = said(max(y for _, y in rates if y is not None))
            yield Picture(
                plots.lines(
                    f"Learning rate in phase {phase}", f"At most {peak}.", "step",
                    "learning rate", [plots.Series("rate", rates, "neither")], height=150,
                ),
                f"{phase}: learning rate, by step; at most {peak}.",
                Table((), []),
            )  # fmt: skip


def _series(points: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float | None]]:
    return [(int(one.get("step") or 0), number(one[key])) for one in points if key in one]


def _language(report: Report) -> Iterator[Picture]:
    ours, theirs = part(report, "language"), part(report, "production", "language")
    rows = [
        ("candidate", ours.get("bits_per_character"), "candidate"),
        ("production", theirs.get("bits_per_character"), "production"),
        *((name, ours.get(name), "neither") for name in BASELINES),
    ]
    yield from _bars(
        "Bits per character on held-out text",
        "Bits per character on texts that training did not see; less is better. The trigram,"
        " unigram and the untrained network are baselines.",
        rows,
    )


def _style(report: Report) -> Iterator[Picture]:
    ours, theirs = part(report, "style"), part(report, "production", "style")
    if number(ours.get("author")) is None:
        return
    reference = part(ours, "reference")
    rows = [
        ("candidate", ours.get("author"), "candidate"),
        ("production", theirs.get("author"), "production"),
        ("the author, held out", part(reference, "author").get("author"), "better"),
        *(
            (name, part(reference, name).get("author"), "neither")
            for name in reference
            if name != "author"
        ),
    ]
    accuracy = number(ours.get("accuracy"))
    right = f" The classifier is right for {accuracy:.0%} of texts." if accuracy else ""
    yield from _bars(
        "Probability that a text is the author's",
        "Probability that a text is the author's, from 0 to 1: of what the models write, of the"
        f" author's own held-out texts, and of others' (controls).{right}",
        rows,
        most=1.0,
    )


def _shares(report: Report) -> Iterator[Picture]:
    for group, names in SHARES.items():
        ours, theirs = part(report, group), part(report, "production", group)
        rows = [
            (f"{name}{', production' if kind == 'production' else ''}", side.get(name), kind)
            for name in names or ours
            if name != "n" and all(0 <= value <= 1 for value in _values(ours, theirs, name))
            for kind, side in (("candidate", ours), ("production", theirs))
        ]
        count = f", on {said(ours['n'])} {GROUPS[group].items}" if ours.get("n") else ""
        title = GROUPS[group].subject
        yield from _bars(title, f"{title}: shares and means from 0 to 1{count}.", rows, most=1.0)


def _values(ours: Mapping[str, Any], theirs: Mapping[str, Any], name: str) -> list[float]:
    return [value for side in (ours, theirs) if (value := number(side.get(name))) is not None]


def _bars(
    title: str, caption: str, rows: Sequence[tuple[str, Any, str]], most: float = 0.0
) -> Iterator[Picture]:
    known = [
        plots.Bar(name, value, kind)
        for name, given, kind in rows
        if (value := number(given)) is not None and value >= 0
    ]
    if not known:
        return
    told = "; ".join(f"{bar.name} {bar.value:.3f}" for bar in known)
    table = Table(("what", "value"), [(bar.name, f"{bar.value:.3f}") for bar in known])
    yield Picture(plots.bars(title, told, known, most), caption, table)
