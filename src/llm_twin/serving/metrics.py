"""What the service did, as numbers that Prometheus reads, summed over its workers.

The numbers are floats in memory that the workers share since they were forked. Each writes to a
part of its own, on its event loop, so nothing is locked; one that replaces a dead one counts on
where that stopped.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ANSWERING = ("/v1/ask", "/v1/chat/completions", "/invocations")
PATHS = (
    *ANSWERING, "/v1/feedback", "/v1/models", "/healthz", "/readyz", "/ping", "/metrics", "other",
)  # fmt: skip
STATUSES = (
    "200", "400", "401", "404", "405", "408", "413", "422", "429", "500", "502", "503", "504",
    "none", "other",
)  # fmt: skip
"""``none``: the client went away before it got one."""

REFUSALS = {"401": "key", "413": "size", "429": "busy", "504": "slow"}
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
MODES = ("extractive", "local", "openai")


class Family(NamedTuple):
    """A metric, and the labels of its series."""

    name: str
    kind: str
    help: str
    series: tuple[str, ...]


def _pairs(first: str, values: tuple[str, ...], second: str, more: tuple[str, ...]) -> list[str]:
    return [f'{{{first}="{one}",{second}="{two}"}}' for one in values for two in more]


_BOUNDS = (*(f"{bound:g}" for bound in SECONDS), "+Inf")
_LATENCY = "llm_twin_http_request_seconds"
FAMILIES = (
    Family(
        "llm_twin_http_requests_total",
        "counter",
        "Requests by path and status.",
        tuple(_pairs("path", PATHS, "status", STATUSES)),
    ),
    Family(
        _LATENCY,
        "histogram",
        "Seconds from a request's arrival to the end of its answer.",
        tuple(
            [f"_bucket{labels}" for labels in _pairs("path", ANSWERING, "le", _BOUNDS)]
            + [f'_{one}{{path="{path}"}}' for path in ANSWERING for one in ("sum", "count")]
        ),
    ),
    Family("llm_twin_http_requests_in_flight", "gauge", "Requests that are being answered.", ("",)),
    Family(
        "llm_twin_answers_total",
        "counter",
        "Answers by what wrote them, and whether the twin declined.",
        tuple(_pairs("mode", MODES, "declined", ("false", "true"))),
    ),
    Family(
        "llm_twin_tokens_total",
        "counter",
        "Tokens that models read and wrote; words where nothing else is known.",
        ('{kind="prompt"}', '{kind="completion"}'),
    ),
    Family(
        "llm_twin_refusals_total",
        "counter",
        "Requests that were refused, and why.",
        tuple(f'{{reason="{reason}"}}' for reason in REFUSALS.values()),
    ),
)
_NAMES = [family.name + series for family in FAMILIES for series in family.series]
_PLACES = {name: place for place, name in enumerate(_NAMES)}
_IN_FLIGHT = "llm_twin_http_requests_in_flight"
_WIDTH = len(_NAMES)


class Figures:
    """The numbers of some workers.

    Args:
        workers: how many there are at most.

    Attributes:
        worker: number of the one that this process is, from 0.

    """

    def __init__(self, workers: int = 1) -> None:
        self._all = memoryview(mmap.mmap(-1, workers * _WIDTH * 8)).cast("d")
        self.worker = 0

    def become(self, worker: int) -> None:
        """Write as this worker from now on; what one before it had in flight is lost."""
        self.worker = worker
        self._all[worker * _WIDTH + _PLACES[_IN_FLIGHT]] = 0.0

    def begin(self) -> None:
        """Count a request that arrived."""
        self._add(_IN_FLIGHT)

    def end(self, path: str, status: int | None, seconds: float) -> None:
        """Count a request that is done; status is None when its client went away before."""
        self._add(_IN_FLIGHT, -1)
        path = path if path in PATHS else "other"
        shown = "none" if status is None else str(status)
        shown = shown if shown in STATUSES else "other"
        self._add(f'llm_twin_http_requests_total{{path="{path}",status="{shown}"}}')
        if reason := REFUSALS.get(shown):
            self._add(f'llm_twin_refusals_total{{reason="{reason}"}}')
        if path in ANSWERING:
            bound = next((f"{one:g}" for one in SECONDS if seconds <= one), "+Inf")
            self._add(f'{_LATENCY}_bucket{{path="{path}",le="{bound}"}}')
            self._add(f'{_LATENCY}_sum{{path="{path}"}}', seconds)
            self._add(f'{_LATENCY}_count{{path="{path}"}}')

    def answered(self, mode: str, declined: bool, prompt: int, completion: int) -> None:
        """Count an answer and its tokens."""
        said = str(declined).lower()
        self._add(f'llm_twin_answers_total{{mode="{mode}",declined="{said}"}}')
        self._add('llm_twin_tokens_total{kind="prompt"}', prompt)
        self._add('llm_twin_tokens_total{kind="completion"}', completion)

    def render(self) -> str:
        """Return all workers' sums in Prometheus' text format."""
        return "".join(f"{line}\n" for line in self._lines())

    def _add(self, name: str, amount: float = 1.0) -> None:
        self._all[self.worker * _WIDTH + _PLACES[name]] += amount

    def _lines(self) -> Iterator[str]:
        sums = [sum(self._all[place::_WIDTH]) for place in range(_WIDTH)]
        for family in FAMILIES:
            yield f"# HELP {family.name} {family.help}"
            yield f"# TYPE {family.name} {family.kind}"
            total = 0.0
            for series in family.series:
                value = sums[_PLACES[family.name + series]]
                if "_bucket{" in series:  # each holds its own; a reader wants all up to it
                    total = value + (0.0 if f'le="{_BOUNDS[0]}"' in series else total)
                    value = total
                yield f"{family.name}{series} {value:.15g}"
