"""What makes the loop turn, and what its end means for the alerts that it was about.

A turn's steps are the stages of ``ci/loop.py``; what they decide is here.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from llm_twin.alerting import silences
from llm_twin.alerting.store import ACKNOWLEDGED, FIRING, record, resolve
from llm_twin.alerting.store import Store as Alerts
from llm_twin.corpus import Chunk
from llm_twin.errors import ConfigError
from llm_twin.flow.locks import is_held
from llm_twin.loop.audit import CUT_SHORT, FAILED, Audit
from llm_twin.loop.budget import metered
from llm_twin.model import feedback
from llm_twin.model.bundles import Bundles

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from llm_twin.alerting.rules import Rule
    from llm_twin.alerting.store import Alert
    from llm_twin.ct.config import CtConfig
    from llm_twin.loop.audit import Turn
    from llm_twin.loop.budget import Meter
    from llm_twin.model.bundles import Bundle
    from llm_twin.settings import Settings
DONE, NO_HELP, REFUSED = "done", "no help", "refused"
NOT_DEPLOYED, ROLLED_BACK, NOTHING_NEW = "not deployed", "rolled back", "nothing to learn"
WRITE = "there are neither new documents nor corrections; write some, then: invoke loop"
DAY = 86400.0
WEEK = 7 * DAY


@dataclass(frozen=True)
class Reasons:
    """Why the loop may have to turn.

    Attributes:
        alerts: open ones that training may put right, oldest first.
        documents: titles of documents that are new or changed since the last training.
        feedback: how many corrections there are that the served version did not learn from.

    """

    alerts: list[Alert] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)
    feedback: int = 0

    def suffice(self, enough: int) -> bool:
        """Whether to train: with something new, and without an alert with enough feedback."""
        return bool(self.documents) or self.feedback >= (1 if self.alerts else enough)

    def __str__(self) -> str:
        alerts = [f"alert {alert.id} ({alert.rule})" for alert in self.alerts]
        return ", ".join(
            [
                *alerts,
                f"{len(self.documents)} new or changed documents",
                f"{self.feedback} new corrections",
            ]
        )


def open_alerts(home: Path, names: Sequence[str]) -> list[Alert]:
    """The alerts of some rules that somebody was told of, or would have been but for a silence."""
    if not (home / "alerts.db").exists():
        return []
    with contextlib.closing(Alerts(home)) as store:
        return [
            alert
            for alert in store.open_alerts()
            if alert.rule in names and alert.state in (FIRING, ACKNOWLEDGED)
        ]


def new_documents(config: CtConfig, settings: Settings) -> list[str]:
    """Titles of the corpus's documents of which production does not hold every chunk.

    Raises:
        CorpusError: the corpus cannot be read.

    """
    from llm_twin.ct import promotion, work

    rows, _ = work.tidy(work.collect(config.corpus, config.exclude, settings, _quiet)[0])
    served = promotion.served(settings)
    held = {chunk.id for chunk in work.chunks_of(served, settings)} if served else set()
    found = {}
    for row in work.split(rows, settings, _quiet):
        chunk = Chunk.from_dict(row)
        if chunk.id not in held:
            found[chunk.document_id] = chunk.title
    return list(found.values())


def _quiet(text: str) -> None:
    """Nothing: looking around is no news."""


def new_feedback(settings: Settings, rows: int) -> int:
    """How many more corrections there are than the served version learned from.

    Args:
        settings: the state folder.
        rows: that curation would choose now.

    """
    served = served_version(settings)
    digest = str(served.manifest["details"].get("feedback") or "") if served else ""
    folder = settings.home / feedback.FOLDER / digest
    learned = len(feedback.read(folder)) if digest and folder.exists() else 0
    return max(0, rows - learned)


def served_version(settings: Settings) -> Bundle | None:
    """The promoted bundle, if there is one and it is whole."""
    from llm_twin.ct.promotion import served

    return served(settings)


def made_by(settings: Settings, run: str) -> Bundle | None:
    """The version that a run promoted, if it did."""
    bundles = Bundles(settings.home / "models").versions()
    own = [one for one in bundles if one.manifest["details"].get("run") == run]
    return own[-1] if own else None


def switch_to(settings: Settings, version: str) -> None:
    """Make a version production, where it is not.

    Raises:
        NotReadyError: it is gone or damaged.

    """
    from llm_twin.retrieval import open_index

    bundles = Bundles(settings.home / "models")
    bundle = bundles.promote(version)
    if settings.index_url:
        name = str(bundle.manifest["details"]["embedder"])
        with contextlib.closing(open_index(settings, bundle.index_path, version, name)) as index:
            index.promote(version)


def score_of(rule: Rule) -> str:
    """The score of an answer that a rule's figure is made of.

    Raises:
        ConfigError: it is made of something else.

    """
    figure = str(getattr(rule.when, "name", ""))
    if figure == "refusal_rate":
        return "answered"
    if not figure.startswith("score."):
        hint = "Name rules over refusal_rate or score.NAME in ci/loop.py"
        raise ConfigError("training mends answers, and a rule is not about them", rule.name, hint)
    return figure.removeprefix("score.")


def asked_since(alerts: Sequence[Alert], now: float) -> str:
    """From when on questions are replayed: a day before the first alert, else a week ago."""
    begin = min((alert.began for alert in alerts), default=now - WEEK + DAY) - DAY
    return datetime.fromtimestamp(begin, UTC).isoformat()


def begin(audit: Audit, settings: Settings, run: str, why: Reasons, score: str, topic: str) -> None:
    """Begin a turn: what it is about, and what it is measured by."""
    now, served = time.time(), served_version(settings)
    facts = {
        "why": str(why),
        "alerts": [alert.id for alert in why.alerts],
        "score": score,
        "since": asked_since(why.alerts, now),
        "topic": topic,
        "before": served.version if served else "",
    }
    audit.begin(run, now, facts)


@dataclass
class Step:
    """What a step of a turn works with.

    Attributes:
        turn: as it was when the step began.
        meter: of what it costs.

    """

    turn: Turn
    audit: Audit
    settings: Settings
    meter: Meter

    def fact(self, name: str, default: Any = "") -> Any:
        """What earlier steps noted under a name."""
        return self.turn.fact(name, default)

    def note(self, **facts: Any) -> None:
        """Add to what is known of the turn; later steps see it."""
        self.audit.note(self.turn.run, **facts)

    def end(self, outcome: str, reason: str) -> dict[str, Any]:
        """End the turn here; what is left of the flow has nothing to do."""
        if outcome not in (DONE, NO_HELP):
            take_back(self.settings, self.audit.find(self.turn.run) or self.turn)
        finish(self.audit, self.settings, self.turn.run, outcome, reason)
        print(f"{outcome}: {reason}")
        return {"message": f"{outcome}: {reason}"}


@contextlib.contextmanager
def step(settings: Settings, run: str, name: str, planned: float = 0.0) -> Iterator[Step | None]:
    """A step of a run's turn; None when there is no turn, or it is over.

    What it costs is written down. When it fails, that is told at once, and it may be resumed as
    long as no other turn has begun.

    Args:
        settings: the state folder.
        run: id of the run.
        name: of the step.
        planned: CPU seconds to set aside.

    """
    with contextlib.closing(Audit(settings.home)) as audit:
        turn = audit.reopen(run)
        if turn is None or turn.ended is not None:
            yield None
            return
        with metered(audit, run, name, planned) as meter:
            one = Step(turn, audit, settings, meter)
            try:
                yield one
            except Exception as error:
                one.end(FAILED, f"{name}: {error}")
                raise


# Ends


def escalate(home: Path, alerts: Sequence[str], reason: str) -> None:
    """Hand alerts on, unless that was done for this reason."""
    for name in alerts:
        with contextlib.closing(Alerts(home)) as store:
            known = [one for one in store.open_alerts() if one.id == name]
            if known and known[0].note != reason:
                silences.escalate(store, name, reason, time.time())


def finish(audit: Audit, settings: Settings, run: str, outcome: str, reason: str) -> None:
    """End a turn: its alerts are resolved by its run, or handed on, and an event tells of it.

    The turn's row is written last: whoever resumes after a kill says all of it again, which is
    recorded once.
    """
    turn = audit.find(run)
    alerts = list(turn.fact("alerts", [])) if turn else []
    ended = []
    if outcome == DONE:
        ended = [one for name in alerts for one in resolve(settings.home, name, by=run)]
        audit.note(run, resolved=sorted({*ended, *(turn.fact("resolved", []) if turn else [])}))
    else:
        escalate(settings.home, alerts, f"the loop's run {run} {outcome}: {reason}")
    kind = f"loop.{outcome.replace(' ', '_')}"
    said = {"run": run, "message": reason, "alerts": alerts}
    record(settings.home, kind, run, said, f"loop:{run}:{outcome}")
    audit.end(run, outcome, reason, time.time())


def clear(audit: Audit, settings: Settings, run: str) -> Turn | None:
    """End turns whose process died, what they had promoted taken back; return one that lives."""
    for turn in audit.unfinished():
        if turn.run == run:
            continue
        if is_held(settings.home / "logs" / turn.run / "alive"):
            return turn
        take_back(settings, turn)
        finish(audit, settings, turn.run, CUT_SHORT, "its process died and nobody resumed it")
    return None


def take_back(settings: Settings, turn: Turn) -> None:
    """Let the version that served before a turn be production again, unless the turn's is live."""
    served, before = served_version(settings), turn.fact("before")
    own = served is not None and served.manifest["details"].get("run") == turn.run
    if own and before and not turn.fact("live"):
        switch_to(settings, before)
