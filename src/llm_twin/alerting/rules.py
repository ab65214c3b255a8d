"""Rules: what is worth a message to a person, how bad it is, and what must not be said twice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.alerting.conditions import Either, Happened, seconds
from llm_twin.alerting.store import Alert
from llm_twin.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llm_twin.alerting.conditions import Condition
    from llm_twin.alerting.store import Event

SEVERITIES = ("info", "warning", "error", "critical")
BY_EVENT = ""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One kind of problem. Lengths of time are written ``90s``, ``5m``, ``2h``, ``8d``.

    Attributes:
        when: the condition.
        severity: info, warning, error or critical; "": what the event's data says.
        text: what it means, for a person; ``{name}`` is taken from the event's data.
        look: the command to look with, like ``invoke runs.logs {run}``.
        for_: it has to last so long before anything is said.
        group_by: names in the event's data; a problem with other values is another alert.
        dedup: while it lasts, a repeat is told so long after the last message, and counted until
            then; "": the setting ``TWIN_ALERT_DEDUP``.
        cooldown: after it was resolved, nothing is said of the same for so long.
        to: names of channels; none: the default.
        escalate_after: unacknowledged for so long, it goes to ``escalate_to``; "": never.
        escalate_to: names of channels; none: those of ``to``.
        inhibited_by: rules; while one of theirs is open, nothing is said. When both name runs it
            has to be the same run.
        resolves_on: the event that ends it; a metric ends by itself.

    """

    name: str
    when: Condition
    severity: str = "error"
    text: str = ""
    look: str = ""
    for_: str = "0s"
    group_by: tuple[str, ...] = ()
    dedup: str = ""
    cooldown: str = "1h"
    to: tuple[str, ...] = ()
    escalate_after: str = ""
    escalate_to: tuple[str, ...] = ()
    inhibited_by: tuple[str, ...] = ()
    resolves_on: Happened | Either | None = None

    def __post_init__(self) -> None:
        """Find what is wrong when it is declared.

        Raises:
            ConfigError: a severity or a length of time is none.

        """
        if self.severity not in (*SEVERITIES, BY_EVENT):
            hint = f"Say one of {', '.join(SEVERITIES)}"
            raise ConfigError(f"rule {self.name} has no such severity", self.severity, hint)
        for text in (self.for_, self.cooldown, self.dedup or "0s", self.escalate_after or "0s"):
            seconds(text)

    def about(self, event: Event) -> dict[str, str]:
        """Which of the rule's problems an event belongs to."""
        return {name: _value(event, name) for name in self.group_by}

    def alert(self, event: Event, about: dict[str, str]) -> Alert:
        """A problem that begins with an event, or with a figure (an event without a kind)."""
        said = defaultdict(str, {name: str(value) for name, value in event.data.items()})
        said["subject"] = event.subject
        said["run"] = said["run"] or event.subject
        severity = self.severity or str(event.data.get("severity", ""))
        return Alert(
            self.name,
            about,
            severity if severity in SEVERITIES else "error",
            event.at,
            event.at,
            text=self.text.format_map(said) or str(self.when),
            look=self.look.format_map(said),
            to=list(self.to),
            escalate_to=list(self.escalate_to),
        )

    def ended_by(self, event: Event, alert: Alert) -> bool:
        """Whether an event ends an alert: it fits, is newer, and is about the same."""
        return (
            self.resolves_on is not None
            and event.at >= alert.last
            and self.resolves_on.matches(event)
            and all(_value(event, name) in ("", value) for name, value in alert.about.items())
        )

    @property
    def measured(self) -> bool:
        """Whether it is about figures rather than events."""
        return not isinstance(self.when, Happened | Either)


def _value(event: Event, name: str) -> str:
    return event.subject if name == "subject" else str(event.data.get(name, ""))


def checked(rules: Sequence[Rule]) -> list[Rule]:
    """Rules in an order in which each comes after those that inhibit it.

    Raises:
        ConfigError: a name is there twice or unknown, or rules inhibit one another in a circle.

    """
    known = {rule.name: rule for rule in rules}
    if len(known) < len(rules):
        names = [rule.name for rule in rules]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError("two alert rules have one name", twice, "Rename one in ci/alerts.py")
    done: dict[str, Rule] = {}

    def visit(rule: Rule, below: tuple[str, ...]) -> None:
        for name in rule.inhibited_by:
            if name not in known or name in (*below, rule.name):
                what = "in a circle" if name in known else "by a rule that is not there"
                raise ConfigError(f"an alert rule is inhibited {what}", f"{rule.name}: {name}")
            visit(known[name], (*below, rule.name))
        done.setdefault(rule.name, rule)

    for rule in rules:
        visit(rule, ())
    return list(done.values())
