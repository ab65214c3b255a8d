"""The one guard that every training passes, whatever asked for it.

One training at a time, one cooldown and one budget of a day, shared with the loop. The decision and
its row are one transaction on ``loop.db``: of two that ask at the same moment one trains.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_twin.errors import ConfigError
from llm_twin.flow.locks import is_held
from llm_twin.flow.records import new_run_id
from llm_twin.loop.audit import CUT_SHORT, FAILED, TRAINED, UNCHANGED, Audit
from llm_twin.loop.budget import Limits, Meter, metered, refusal, resting
from llm_twin.loop.requests import BY_HAND, NOT_NOW, Request, Requests
from llm_twin.sqlite import transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llm_twin.model.profile import Profile
    from llm_twin.settings import Settings

BESIDES_TRAINING = 60.0
"""CPU seconds of a run on top of the budget for training."""
UNKNOWN = 3600.0
"""Seconds that are set aside where only tokens limit a training."""
LONGEST = 500
ADDRESS = re.compile(r"((https?|ssh)://|\w[\w.-]*@\w[\w.-]*:)[\w/][^\s\\]*", re.ASCII)
PROFILE = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Plan:
    """What a training may cost at most.

    Attributes:
        cpu: seconds of this machine's processors.
        dollars: for other machines, and for models that are asked over the network.
        hourly: price of an hour while it goes on.

    """

    cpu: float
    dollars: float = 0.0
    hourly: float = 0.0

    @classmethod
    def of(cls, profile: Profile) -> Plan:
        """What a profile says."""
        budget, generate = profile.training.budget, profile.data.generate
        seconds = budget.seconds if math.isfinite(budget.seconds) else UNKNOWN
        here = seconds if profile.remote.stack == "local" else 0.0
        dollars = budget.hourly * seconds / 3600 + (generate.cost if generate.model else 0.0)
        return cls(here + BESIDES_TRAINING, dollars, budget.hourly)


@dataclass(frozen=True)
class Guard:
    """What holds for all trainings together.

    Attributes:
        home: the state folder.
        limits: of a day.
        cooldown: seconds between the end of one and the begin of the next.

    """

    home: Path
    limits: Limits
    cooldown: float

    def not_now(self, audit: Audit, run: str, plan: Plan, now: float) -> str:
        """Why a run may not train now; "" if it may."""
        return (
            going_on(audit, self.home, run)
            or resting(audit, run, self.cooldown, now)
            or refusal(audit, self.limits, plan.cpu, now, plan.dollars)
        )

    def admit(self, audit: Audit, one: Request, plan: Plan, ask: bool = True) -> Request:
        """Let a request begin, or write down why not; the same run gets the same answer.

        Args:
            audit: open.
            one: the request.
            plan: what it may cost.
            ask: whether cooldown and budget count; a second one at a time never begins.

        """
        requests = Requests(audit)
        with transaction(audit.db):
            if known := requests.find(one.run):
                again = requests.reopen(one.run)
                return replace(known, ended=None, outcome="", reason="") if again else known
            now = time.time()
            why = self.not_now(audit, one.run, plan, now) if ask else going_on(audit, self.home, "")
            if why:
                one = replace(one, asked=now, ended=now, outcome=NOT_NOW, reason=why)
            else:
                one = replace(one, asked=now, began=now, training=one.training or new_run_id())
            requests.add(one)
        return one


def going_on(audit: Audit, home: Path, run: str) -> str:
    """Which other training goes on, in words; "" if none does. Dead ones are ended."""
    requests = Requests(audit)
    for one in requests.unfinished():
        alive = [
            is_held(home / "logs" / name / "alive") for name in (one.run, one.training) if name
        ]
        if one.run != run and any(alive):
            return f"a training goes on ({one.cause}, run {one.run})"
        if one.run != run:
            requests.end(one.run, CUT_SHORT, "its process died", time.time())
    for turn in audit.unfinished():
        if turn.run != run and is_held(home / "logs" / turn.run / "alive"):
            return f"the loop is turning (run {turn.run})"
    return "invoke ct is running already" if is_held(home / "locks" / "ct") else ""


@contextlib.contextmanager
def counted(
    settings: Settings, run: str, corpus: str, profile: str, plan: Plan
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Count a training in the ledger; one that the guard or the loop began is counted there.

    Args:
        settings: the state folder.
        run: id of the run of ``ct``; "" outside of one.
        corpus: as it was asked for.
        profile: likewise.
        plan: what it may cost; killed inside, it counts as that.

    Yields:
        a function to call with the report at the end.

    """
    with contextlib.closing(Audit(settings.home)) as audit:
        requests, name = Requests(audit), run or new_run_id()
        known = requests.find(name)
        if audit.find(name) or (known and known.run != name):
            yield lambda report: None
            return
        now, told = time.time(), list[dict[str, Any]]()
        requests.add(Request(name, now, BY_HAND, corpus, profile, name, now))
        requests.reopen(name)
        with metered(audit, name, "train", plan.cpu, plan.dollars) as meter:
            try:
                yield told.append
            except Exception as error:
                requests.end(name, FAILED, str(error), time.time())
                raise
            finally:
                charge(meter, plan, time.time() - now, told[0] if told else {})
        requests.end(name, *outcome_of(told[0] if told else {}), time.time())


def charge(meter: Meter, plan: Plan, seconds: float, report: dict[str, Any]) -> None:
    """Add what a training cost besides processors: the machine's price, and models asked.

    Args:
        meter: of the training.
        plan: for the price of an hour.
        seconds: how long it took.
        report: of ``invoke ct``; its ``spent`` has ``tokens`` and ``dollars``, if it has them.

    """
    spent = report.get("spent") or {}
    meter.tokens += int(spent.get("tokens") or 0)
    meter.dollars += plan.hourly * seconds / 3600 + float(spent.get("dollars") or 0)


def outcome_of(report: dict[str, Any]) -> tuple[str, str]:
    """How a training ended, from the report of ``invoke ct``."""
    promoted, refused = TRAINED
    return (promoted if report.get("version") else refused), str(report.get("message") or "")


def unchanged(reason: str) -> tuple[str, str]:
    """How a training ended that had nothing to learn."""
    return UNCHANGED, reason


# What comes from outside


def checked_profile(name: str) -> str:
    """A profile's name that somebody sent.

    Raises:
        ConfigError: it is a path, or anything but letters, digits, - and _.

    """
    if name and not PROFILE.fullmatch(name):
        hint = "Send the name of a file in configs/ct, without its suffix"
        raise ConfigError("no name of a profile", repr(name[:LONGEST]), hint)
    return name


def checked_corpus(corpus: str, root: Path, settings: Settings) -> str:
    """A corpus that somebody sent: an address, a path in the project, or what is set anyway.

    Raises:
        ConfigError: it is another place of this machine, or no place at all.

    """
    if corpus in ("", settings.corpus) or ADDRESS.fullmatch(corpus[: LONGEST + 1]):
        if len(corpus) <= LONGEST:
            return corpus
    elif len(corpus) <= LONGEST and re.fullmatch(r"[^-~:][^:]*", corpus) and corpus.isprintable():
        place = (root / corpus).resolve()
        inside = place.is_relative_to(root.resolve()) and not Path(corpus).is_absolute()
        if inside and not place.is_relative_to(settings.home.resolve()):
            return corpus
    hint = "Send an address, or a path below the project's folder"
    raise ConfigError("not a corpus that may be named from outside", repr(corpus[:80]), hint)
