"""From what happened to what is said: one step reads what is new and settles every open alert.

A step is one transaction: events are read to, alerts change and messages are queued together, so a
kill at any moment loses nothing and says nothing twice. Only one engine works on a store at a time.
"""

from __future__ import annotations

import contextlib
import sqlite3
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from llm_twin.alerting import outbox, silences
from llm_twin.alerting.conditions import Either, Happened, Reading, seconds
from llm_twin.alerting.privacy import Privacy
from llm_twin.alerting.rules import Rule, checked
from llm_twin.alerting.store import ACKNOWLEDGED, FIRING, PENDING, Alert, Event
from llm_twin.errors import TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llm_twin.alerting.conditions import Figure
    from llm_twin.alerting.store import Store

OWN = "events"
FIGURES_SECONDS = 2.0
REST = 20
"""A source is read again after so many times what reading it took."""


@dataclass(frozen=True)
class Sources:
    """Where besides ``alerts.db`` an engine looks.

    Attributes:
        events: by name of the source, from the number that was read to (None: never) to the events
            after it and the new number.
        figures: from the minutes of a window and its end (seconds since the epoch) to its figures.

    """

    events: Mapping[str, Callable[[int | None], tuple[list[Event], int]]] = field(
        default_factory=dict
    )
    figures: Callable[[float, float], Mapping[str, Figure]] | None = None


class Engine:
    """Keeps the alerts of a store in step with what happens.

    Args:
        store: of the alerts.
        rules: what is worth a message.
        sources: where else to look.
        dedup: for rules that do not say: how long a repeat is only counted.
        privacy: applied to what the sources say; what is in the store was redacted before.
        figures_every: seconds between looks at figures, at least.

    Raises:
        ConfigError: the rules do not fit together.

    """

    def __init__(
        self,
        store: Store,
        rules: Sequence[Rule],
        sources: Sources | None = None,
        *,
        dedup: str = "1h",
        privacy: Privacy | None = None,
        figures_every: float = FIGURES_SECONDS,
    ) -> None:
        self.store = store
        self.rules = {rule.name: rule for rule in checked(rules)}
        self.sources = sources or Sources()
        self.dedup = seconds(dedup)
        self.privacy = privacy or Privacy()
        self.figures_every = figures_every
        self._due: dict[str, float] = {}
        self._complaint = ""
        self._starts: dict[str, list[Rule]] = defaultdict(list)
        self._ends: dict[str, list[Rule]] = defaultdict(list)
        for rule in self.rules.values():
            for condition, kinds in ((rule.when, self._starts), (rule.resolves_on, self._ends)):
                if isinstance(condition, Happened | Either):
                    for kind in dict.fromkeys(part.kind for part in condition.parts):
                        kinds[kind].append(rule)

    def step(self, now: float | None = None) -> None:
        """Read what is new and queue what has to be said; ``now`` in seconds since the epoch."""
        now = time.time() if now is None else now
        readings = self._readings(now)
        events, positions = self._outside(now)
        with self.store.transaction():
            own, positions[OWN] = self.store.events(self.store.position(OWN) or 0)
            board = _Board(self, now)
            for event in sorted([*events, *own], key=lambda event: event.at):
                board.take(event)
            for name, reading in readings.items():
                board.measure(self.rules[name], reading)
            board.settle()
            for source, number in positions.items():
                if number != self.store.position(source):
                    self.store.read_to(source, number)

    def _outside(self, now: float) -> tuple[list[Event], dict[str, int]]:
        """What the sources say; read before ``alerts.db``, where causes are told before effects."""
        events: list[Event] = []
        positions: dict[str, int] = {}
        for name, read in self.sources.events.items():
            with self._turn(name, now) as due:
                if due:
                    found, positions[name] = read(self.store.position(name))
                    events += [self.privacy.event(one) for one in found if self._wants(one)]
        return events, positions

    @contextlib.contextmanager
    def _turn(self, name: str, now: float, every: float = 0.0) -> Iterator[bool]:
        """Whether it is a source's turn; one that cannot be read is said, and stops no other."""
        due = now >= self._due.get(name, 0.0)
        started = time.perf_counter()
        try:
            yield due
        except (OSError, sqlite3.Error, TwinError) as error:
            text = f"{name} cannot be read: {error}"
            if text != self._complaint:
                print(f"error: alerts: {text}", file=sys.stderr, flush=True)
                self._complaint = text
        if due:
            self._due[name] = now + max(every, REST * (time.perf_counter() - started))

    def _wants(self, event: Event) -> bool:
        return event.kind in self._starts or event.kind in self._ends

    def _readings(self, now: float) -> dict[str, Reading]:
        """What the figures say for each rule about them; nothing while it is not their turn."""
        read, found, windows = self.sources.figures, {}, {}
        if read is None:
            return {}

        def figures(minutes: float) -> Mapping[str, Figure]:
            if minutes not in windows:
                windows[minutes] = read(minutes, now)
            return windows[minutes]

        with self._turn("figures", now, self.figures_every) as due:
            for rule in self.rules.values() if due else ():
                if not isinstance(rule.when, Happened | Either):
                    found[rule.name] = rule.when.look(figures)
        return found


class _Board:
    """The open alerts, while one step looks at them."""

    def __init__(self, engine: Engine, now: float) -> None:
        self.engine, self.store, self.now = engine, engine.store, now
        self.open = {alert.place: alert for alert in self.store.open_alerts()}
        self.silenced = silences.current(self.store, now)
        self.changed: dict[str, Alert] = {}

    def take(self, event: Event) -> None:
        """Let an event begin, repeat and end what it is about."""
        for rule in self.engine._starts.get(event.kind, ()):
            if rule.when.matches(event):  # type: ignore[union-attr]
                alert = self._alert(rule, event, rule.about(event))
                alert.happened(event)
                self.changed[alert.id] = alert
        ending = self.engine._ends.get(event.kind, ())
        over = [
            (alert, self._untold(rule, alert, event.at))
            for rule in ending
            for alert in self.open.values()
            if alert.rule == rule.name and rule.ended_by(event, alert)
        ]
        by = str(event.data.get("run") or event.subject)
        for alert, untold in over:
            self._end(alert, event.at, by, tell=untold)

    def measure(self, rule: Rule, reading: Reading) -> None:
        """Let a figure begin or end what it is about; one that is unknown ends nothing."""
        known = self.open.get((rule.name, "{}"))
        if reading.bad:
            alert = self._alert(rule, Event("", "", self.now), {})
            alert.count, alert.last, alert.measured = 1, self.now, reading.said
            self.changed[alert.id] = alert
        elif known and (reading.bad is False or known.state == PENDING):
            known.measured = reading.said or known.measured
            self._end(known, self.now, "", tell=False)

    def settle(self) -> None:
        """Say what there is to say, of inhibiting rules first, and write down what changed."""
        order = {name: place for place, name in enumerate(self.engine.rules)}
        ranked = sorted(
            (alert for alert in self.open.values() if alert.rule in order),
            key=lambda alert: order[alert.rule],
        )
        for alert in ranked:
            if self._settle(self.engine.rules[alert.rule], alert):
                self.changed[alert.id] = alert
        for alert in self.changed.values():
            self.store.save(alert)

    def _alert(self, rule: Rule, event: Event, about: dict[str, str]) -> Alert:
        """The open alert that this belongs to, or a new one."""
        alert = rule.alert(event, about)
        if known := self.open.get(alert.place):
            return known
        ended = self.store.last_ended(alert)
        alert.hush = 0.0 if ended is None else ended + seconds(rule.cooldown)
        self.open[alert.place] = alert
        return alert

    def _settle(self, rule: Rule, alert: Alert) -> bool:
        # What was recorded while this step began is a moment in its future.
        lasted = max(0.0, self.now - alert.began)
        began = alert.state == PENDING and lasted >= seconds(rule.for_)
        if began:
            alert.state = FIRING
        what = self._news(rule, alert)
        if what:
            alert.state = FIRING
            if what == "escalated":
                alert.escalated = self.now
            outbox.tell(self.store, alert, what, self.now)
        return began or bool(what)

    def _news(self, rule: Rule, alert: Alert) -> str:
        """Which message is due about an alert; "": none."""
        if alert.state == PENDING or self._held(rule, alert):
            return ""
        repeated = alert.count > alert.told_count
        if alert.acknowledged is not None and alert.state == ACKNOWLEDGED:
            quiet = alert.last - alert.acknowledged < seconds(rule.cooldown)
            return "again" if repeated and alert.told is not None and not quiet else ""
        if alert.told is None or alert.fired is None:
            return "firing" if self.now >= alert.hush else ""
        dedup = seconds(rule.dedup) if rule.dedup else self.engine.dedup
        if repeated and alert.last - alert.told >= dedup:
            return "again"
        late = bool(rule.escalate_after) and self.now - alert.fired >= seconds(rule.escalate_after)
        return "escalated" if late and alert.escalated is None else ""

    def _untold(self, rule: Rule, alert: Alert, at: float) -> bool:
        """Whether something ends that nobody heard of and somebody should."""
        lasted = alert.state != PENDING or at - alert.began >= seconds(rule.for_)
        return alert.told is None and lasted and at >= alert.hush and not self._held(rule, alert)

    def _held(self, rule: Rule, alert: Alert) -> bool:
        """Whether it is silenced, or something that explains it is open."""
        if not self.silenced.isdisjoint((rule.name, alert.id)):
            return True
        return any(
            other.state != PENDING or other.began <= self.now - seconds(inhibitor.for_)
            for name in rule.inhibited_by
            if (inhibitor := self.engine.rules[name])
            for other in self.open.values()
            if other.rule == name and _same(alert, other)
        )

    def _end(self, alert: Alert, at: float, by: str, *, tell: bool) -> None:
        self.open.pop(alert.place)
        self.changed.pop(alert.id, None)
        if tell:
            outbox.tell(self.store, alert, "firing", self.now)
        if alert.state == PENDING and not tell:
            self.store.drop(alert)
        else:
            self.store.end(alert, at, by)


def _same(one: Alert, other: Alert) -> bool:
    """Whether two alerts can be about one thing: they share one, or one names nothing."""
    return not (one.subjects and other.subjects) or not one.subjects.keys().isdisjoint(
        other.subjects
    )
