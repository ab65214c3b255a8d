"""When an automation fires: each trigger turns recorded events and the time into occurrences.

Pure: what is due depends on a trigger's state, the events and the time alone, never on who looks or
how often. So the daemon, ``--once``, ``--simulate`` and a test all agree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_twin.errors import FlowError
from llm_twin.flow.automation.words import declared_at, numbers, seconds, span, utc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

State = dict[str, Any]
FINAL = ("Completed", "Failed", "Cancelled", "Crashed")


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: ``run`` (one ended), ``webhook``, ``files``, ``alert`` or ``event`` (see ``emit``);
            ``contents`` is what watched files held at the last look.
        name: the flow, hook, watch, automation or whatever name it was emitted under.
        at: seconds since the epoch.
        key: unique; the same thing told twice is one event.
        id: position in the history, 0 outside it.

    """

    kind: str
    name: str
    at: float
    data: dict[str, Any] = field(default_factory=dict)
    key: str = ""
    id: int = 0

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its numeric values by dotted name: ``stage.name`` of a run, ``event.name`` of others."""
        if self.kind == "run":
            found: dict[str, float] = self.data["metrics"]
            return found
        return numbers({self.name: self.data}) if self.kind == "event" else {}


@dataclass(frozen=True)
class Occurrence:
    """A reason to act, with a key that no other occurrence of the same trigger has."""

    key: str
    at: float
    reason: str
    payload: dict[str, Any] = field(default_factory=dict)


class Trigger:
    """What all triggers can do; those on single events need only ``matches`` and ``reason``."""

    one_event = True

    def start(self, now: float) -> State:
        """The state of one that is seen for the first time."""
        return {}

    def step(
        self, state: State, events: Sequence[Event], now: float
    ) -> tuple[list[Occurrence], State]:
        """What these new events and the time that passed amount to, and the state after it."""
        return [
            Occurrence(event.key, event.at, self.reason(event), event.data)
            for event in events
            if self.matches(event)
        ], state

    def next_due(self, state: State, now: float) -> float | None:
        """When time alone will make it fire; None when it waits for events."""
        return None

    def matches(self, event: Event) -> bool:
        return False

    def reason(self, event: Event) -> str:
        return str(self)


@dataclass(frozen=True)
class FilesChanged(Trigger):
    """See ``files_changed``."""

    patterns: tuple[str, ...]
    settle: float

    def __str__(self) -> str:
        return f"files {' '.join(self.patterns)} change, settled for {span(self.settle)}"

    def matches(self, event: Event) -> bool:
        return event.kind == "files" and event.name == str(self)

    def reason(self, event: Event) -> str:
        changed = event.data["changed"]
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        return f"{', '.join(changed[:3])}{more} changed"


@dataclass(frozen=True)
class Webhook(Trigger):
    """See ``webhook``."""

    name: str
    secret_env: str

    def __str__(self) -> str:
        return f"webhook {self.name}"

    def matches(self, event: Event) -> bool:
        return event.kind == "webhook" and event.name == self.name


@dataclass(frozen=True)
class Emitted(Trigger):
    """See ``event``."""

    name: str

    def __str__(self) -> str:
        return f"event {self.name}"

    def matches(self, event: Event) -> bool:
        return event.kind == "event" and event.name == self.name


@dataclass(frozen=True)
class RunEnded(Trigger):
    """See ``run_ended``."""

    flow: str
    states: tuple[str, ...]

    def __str__(self) -> str:
        states = "" if self.states == FINAL else " or ".join(self.states)
        return f"a run of {self.flow or 'any flow'} ends {states}".rstrip()

    def matches(self, event: Event) -> bool:
        if event.kind != "run" or self.flow not in ("", event.name):
            return False
        state = event.data["state"]
        return state in self.states or state.partition("(")[0] in self.states

    def reason(self, event: Event) -> str:
        data = event.data
        said = f": {data['message']}" if data["message"] else ""
        return f"run {data['run']} of {event.name} ended {data['state']}{said}"


@dataclass(frozen=True)
class Metric(Trigger):
    """See ``metric``."""

    one_event = False

    name: str
    below: float | None
    above: float | None
    for_last: int

    def __str__(self) -> str:
        bounds = (("below", self.below), ("above", self.above))
        said = " or ".join(f"{word} {bound:g}" for word, bound in bounds if bound is not None)
        return f"{self.name} {said}{f' {self.for_last} times' if self.for_last > 1 else ''}"

    def start(self, now: float) -> State:
        return {"beyond": 0}

    def step(
        self, state: State, events: Sequence[Event], now: float
    ) -> tuple[list[Occurrence], State]:
        beyond, found = state["beyond"], []
        for event in events:
            value = event.metrics.get(self.name)
            if value is None:
                continue
            beyond = beyond + 1 if self._is_beyond(value) else 0
            if beyond == self.for_last:
                reason, payload = f"it is {value:g}: {self}", {**event.data, "value": value}
                found.append(Occurrence(event.key, event.at, reason, payload))
        return found, {"beyond": beyond}

    def _is_beyond(self, value: float) -> bool:
        return (self.below is not None and value < self.below) or (
            self.above is not None and value > self.above
        )


@dataclass(frozen=True)
class Absent(Trigger):
    """See ``absent``."""

    one_event = False

    of: Trigger
    within: float

    def __str__(self) -> str:
        return f"{span(self.within)} without: {self.of}"

    def start(self, now: float) -> State:
        return {"last": now, "told": False}

    def step(
        self, state: State, events: Sequence[Event], now: float
    ) -> tuple[list[Occurrence], State]:
        last, told = min(state["last"], now), state["told"]
        found = []
        for at in [*(event.at for event in events if self.of.matches(event)), None]:
            if not told and (now if at is None else at) - last >= self.within:
                told = True
                reason = f"since {utc(last)}, {self}"
                payload = {"last": utc(last)}
                found.append(Occurrence(f"{last:.3f}", last + self.within, reason, payload))
            if at is not None:
                last, told = max(last, at), False
        return found, {"last": last, "told": told}

    def next_due(self, state: State, now: float) -> float | None:
        return None if state["told"] else float(state["last"] + self.within)


# What is written in ci/automations.py


def files_changed(*patterns: str, settle: str = "2s") -> FilesChanged:
    """Fire when what is in the files that match globs below the project root changed.

    Args:
        patterns: like ``docs/**/*.md``.
        settle: wait until nothing moved for this long.

    """
    for pattern in patterns or ("",):
        if not pattern or pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
            hint = f'Mend it in {declared_at()}: files below the project root, like "docs/*.md"'
            raise FlowError("not a pattern to watch", repr(pattern), hint)
    return FilesChanged(patterns, seconds(settle))


def webhook(name: str, secret_env: str) -> Webhook:
    """Fire on a POST to ``/hooks/NAME``, signed with the secret that an environment variable holds.

    The signature is GitHub's: ``X-Hub-Signature-256: sha256=HMAC``.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or not secret_env:
        hint = f"Mend it in {declared_at()}: letters, digits, - and _, and the variable's name"
        raise FlowError("a webhook needs a plain name and secret_env", repr(name), hint)
    return Webhook(name, secret_env)


def event(name: str) -> Emitted:
    """Fire when something was told with ``emit(store, NAME, data)``."""
    return Emitted(name)


def run_ended(flow: str = "", states: Sequence[str] = FINAL) -> RunEnded:
    """Fire when a run ended; states are types, or finer: ``Completed(Cached)``. Default: any.

    Raises:
        FlowError: a run does not end in such a state.

    """
    unknown = [name for name in states if name.partition("(")[0] not in FINAL]
    if unknown or isinstance(states, str) or not states:
        hint = f'Mend it in {declared_at()}: states=("Failed", "Crashed"), of {", ".join(FINAL)}'
        raise FlowError("no run ends in such a state", repr(states), hint)
    return RunEnded(flow, tuple(states))


def metric(
    name: str, *, below: float | None = None, above: float | None = None, for_last: int = 1
) -> Metric:
    """Fire when a number crosses a threshold, and again only after it came back.

    Args:
        name: ``stage.name`` from what a stage returned, deeper levels with more dots.
        below: fire when it falls below.
        above: fire when it rises above.
        for_last: only once this many values in a row are beyond.

    """
    if (below is None and above is None) or for_last < 1:
        hint = f"Mend it in {declared_at()}: below=0.7 or above=3, and for_last of 1 or more"
        raise FlowError("a metric needs a threshold", name, hint)
    return Metric(name, below, above, for_last)


def absent(of: Trigger, within: str) -> Absent:
    """Fire when an event did not come for a time, once, and again only after it came."""
    if not of.one_event:
        hint = f"Mend it in {declared_at()}: absent(run_ended(...)), a webhook, files or an event"
        raise FlowError("only the absence of an event can be watched", of, hint)
    return Absent(of, seconds(within))
