"""Plots of a training run as inline SVG: lines, bars and intervals, each with its own description.

Colours come from the page (classes and custom properties), so that one picture fits light and dark.
Every label has a row or a column of its own, so that labels cannot meet.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WIDTH = 640
LEFT, RIGHT, TOP, BOTTOM = 64, 30, 12, 40
ROW = 26
LABEL, VALUE = 190, 230
LETTER = 7.2
"""Widest that a letter of a 12-pixel label is on average."""
MOST_POINTS = 400
TICKS = 5


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: of it, for the key.
        points: x and y; where y is None the line is broken.
        kind: the class that gives it its colour.
        dots: draw each point too.

    """

    name: str
    points: Sequence[tuple[float, float | None]]
    kind: str = "candidate"
    dots: bool = False


@dataclass(frozen=True)
class Bar:
    """One bar: its name, its length, and the class that gives it its colour."""

    name: str
    value: float
    kind: str = "candidate"


@dataclass(frozen=True)
class Interval:
    """A difference and where it surely is; each is drawn on a scale of its own.

    Attributes:
        name: of what was compared.
        difference: candidate minus production.
        low: end of the interval.
        high: the other end.
        margin: differences within it say nothing.
        higher_is_better: else the scale is turned around, so that right is always better.
        text: the same in words, beside it.
        kind: the class that gives it its colour.

    """

    name: str
    difference: float
    low: float
    high: float
    margin: float
    higher_is_better: bool
    text: str
    kind: str = "candidate"


def lines(
    title: str, description: str, x: str, y: str, series: Sequence[Series], height: int = 240
) -> str:
    """A plot of lines over one axis of steps.

    Args:
        title: a few words.
        description: what there is to see, for who cannot.
        x: what the horizontal axis counts.
        y: what the vertical axis measures, with its unit.
        series: at least one point in all.
        height: in pixels.

    """
    drawn = [Series(own.name, thin(own.points), own.kind, own.dots) for own in series]
    known = [(px, py) for own in drawn for px, py in own.points if py is not None]
    across = Scale.of([px for px, _ in known], LEFT, WIDTH - RIGHT)
    up = Scale.of([py for _, py in known], height - BOTTOM, TOP + 18)
    parts = [*_axes(across, up, x, y, height), *_key(drawn)]
    for own in drawn:
        parts += _line(own, across, up)
    return _svg(title, description, height, parts)


def bars(title: str, description: str, rows: Sequence[Bar], most: float = 0.0) -> str:
    """Horizontal bars from zero, a row each, the value behind its bar.

    Args:
        title: a few words.
        description: what there is to see, for who cannot.
        rows: from top to bottom; values from 0 up.
        most: the end of the scale; by default the largest value.

    """
    end = max([most, *(row.value for row in rows)]) or 1.0
    room = WIDTH - LABEL - 64
    parts = []
    for at, row in enumerate(rows):
        top = TOP + at * ROW
        length = max(0.0, row.value) / end * room
        parts += [
            _text(LABEL - 8, top + 15, _short(row.name, LABEL - 12), "end"),
            f'<rect class="{row.kind}" x="{LABEL}" y="{top + 4}" width="{length:.1f}"'
            f' height="{ROW - 10}"/>',
            _text(LABEL + length + 6, top + 15, f"{row.value:.3f}"),
        ]
    height = TOP + len(rows) * ROW + 8
    parts.append(f'<path class="axis" d="M{LABEL} {TOP}V{height - 6}"/>')
    return _svg(title, description, height, parts)


def intervals(title: str, description: str, rows: Sequence[Interval]) -> str:
    """Differences with their intervals, a row each; right of the middle the candidate is better."""
    width = WIDTH - LABEL - VALUE
    middle = LABEL + width / 2
    height = TOP + len(rows) * ROW + 26
    parts = [
        f'<path class="axis" d="M{middle} {TOP}V{height - 22}"/>',
        _text(LABEL, height - 6, "worse", "start"),
        _text(LABEL + width, height - 6, "better", "end"),
    ]
    for at, row in enumerate(rows):
        y = TOP + at * ROW + ROW / 2
        turned = 1 if row.higher_is_better else -1
        reach = max(abs(row.low), abs(row.high), abs(row.difference), row.margin) or 1.0
        scale = turned * (width / 2 - 4) / reach
        low, high, at_x = (middle + one * scale for one in (row.low, row.high, row.difference))
        parts += [
            _text(LABEL - 8, y + 4, _short(row.name, LABEL - 12), "end"),
            *(
                f'<path class="axis" d="M{middle + side * row.margin:.1f} {y - 8:.1f}v16"/>'
                for side in (scale, -scale)
                if row.margin
            ),
            f'<path class="line {row.kind}" d="M{low:.1f} {y:.1f}H{high:.1f}"/>',
            f'<circle class="{row.kind}" cx="{at_x:.1f}" cy="{y:.1f}" r="4"/>',
            _text(LABEL + width + 10, y + 4, _short(row.text, VALUE - 12)),
        ]
    return _svg(title, description, height, parts)


@dataclass(frozen=True)
class Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def of(cls, values: Sequence[float], start: float, end: float) -> Scale:
        """A scale that holds all values, and some room when they are all the same."""
        low, high = min(values), max(values)
        if low == high:
            room = abs(low) / 2 or 0.5
            low, high = low - room, high + room
        return cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        """Where a value is, in pixels."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values from end to end, about five."""
        rough = (self.high - self.low) / TICKS
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * one for one in (1, 2, 5, 10) if size * one >= rough)
        first = math.ceil(self.low / step - 1e-9)
        count = math.floor(self.high / step + 1e-9) - first + 1
        return [round((first + at) * step, 12) for at in range(count)]


def thin(
    points: Sequence[tuple[float, float | None]], most: int = MOST_POINTS
) -> list[tuple[float, float | None]]:
    """As many points as can be seen: means of neighbours; a gap stays a gap."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    return [_mean(points[at : at + size]) for at in range(0, len(points), size)]


def _mean(points: Sequence[tuple[float, float | None]]) -> tuple[float, float | None]:
    known = [y for _, y in points if y is not None]
    middle = points[len(points) // 2][0]
    return middle, sum(known) / len(known) if len(known) == len(points) else None


def _axes(across: Scale, up: Scale, x: str, y: str, height: int) -> Iterator[str]:
    for tick in up.ticks():
        at = up(tick)
        yield f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>'
        yield _text(LEFT - 6, at + 4, f"{tick:g}", "end")
    for tick in across.ticks():
        if tick == int(tick):
            yield _text(across(tick), height - BOTTOM + 16, f"{tick:g}", "middle")
    yield f'<path class="axis" d="M{LEFT} {TOP + 18}V{height - BOTTOM}H{WIDTH - RIGHT}"/>'
    yield _text(WIDTH - RIGHT, height - 6, x, "end")
    yield _text(4, TOP + 2, y)


def _key(series: Sequence[Series]) -> Iterator[str]:
    """Names of the lines, from the right at the top, where there is more than one."""
    end = float(WIDTH - RIGHT)
    for own in reversed(series if len(series) > 1 else ()):
        start = end - len(own.name) * LETTER
        yield _text(start, TOP + 2, own.name)
        square = f'x="{start - 16:.1f}" y="{TOP - 7}" width="10" height="10"'
        yield f'<rect class="{own.kind}" {square}/>'
        end = start - 30


def _line(series: Series, across: Scale, up: Scale) -> Iterator[str]:
    path, pen = [], "M"
    for x, y in series.points:
        if y is None:
            pen = "M"
            continue
        path.append(f"{pen}{across(x):.1f} {up(y):.1f}")
        pen = "L"
        if series.dots or len(series.points) == 1:
            yield f'<circle class="{series.kind}" cx="{across(x):.1f}" cy="{up(y):.1f}" r="3.5"/>'
    yield f'<path class="line {series.kind}" d="{"".join(path)}"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _short(text: str, width: float) -> str:
    room = int(width / LETTER)
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _svg(title: str, description: str, height: int, parts: Sequence[str]) -> str:
    number = f"{zlib.crc32(f'{title} {description}'.encode()):08x}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img"'
        f' aria-labelledby="plot-{number}-title plot-{number}-about">'
        f'<title id="plot-{number}-title">{escape(title)}</title>'
        f'<desc id="plot-{number}-about">{escape(description)}</desc>'
        f"{''.join(parts)}</svg>"
    )
