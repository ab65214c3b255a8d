"""Watch a run whose work happens elsewhere until it ends, or has to be given up.

Two things are looked at, because either can be wrong: what ZenML knows, which hears from the job
itself, and what the place knows that the job runs at. A job that dies says nothing to ZenML.
"""

from __future__ import annotations

import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from llm_twin.errors import RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from llm_twin.model.profile import Remote

WAITING, RUNNING, COMPLETED, FAILED = "waiting", "running", "completed", "failed"
EVERY = 5.0
LAG = 30.0
"""Seconds in which ZenML has to learn of the end of a job that ended well."""


class JobLostError(RemoteError):
    """A job was given up; whoever raises it has not stopped it yet."""


@dataclass(frozen=True)
class Sight:
    """What the place that a job runs at says of it.

    Attributes:
        state: ``waiting``, ``running``, ``completed`` or ``failed``.
        said: the same for a person, with the reason.

    """

    state: str
    said: str

    @property
    def ended(self) -> bool:
        """Whether it will not change any more."""
        return self.state in (COMPLETED, FAILED)


class Job(Protocol):
    """A job at the place it runs at."""

    @property
    def name(self) -> str:
        """How it is called there."""

    def look(self) -> Sight:
        """How it is doing."""

    def lines(self) -> list[str]:
        """Lines of its log that were not returned yet."""

    def stop(self) -> None:
        """End it; one that has ended is fine."""


@dataclass(frozen=True)
class Progress:
    """What ZenML knows of a run.

    Attributes:
        status: of the run.
        finished: whether that will not change any more.
        good: whether it completed.
        steps: status of each step so far, by name.
        created: when the run was submitted; seconds since the epoch.
        began: when its first step began; None before that.
        failure: what the failed step said, for a person.

    """

    status: str
    finished: bool
    good: bool
    steps: Mapping[str, str]
    created: float
    began: float | None = None
    failure: str = ""


@dataclass(frozen=True)
class Limits:
    """Seconds after which a run is given up; see ``profile.Remote``."""

    start: float
    silence: float
    time: float

    @classmethod
    def of(cls, remote: Remote) -> Limits:
        """Those of a profile."""
        from llm_twin.model.profile import seconds

        return cls(seconds(remote.start), seconds(remote.silence), seconds(remote.time))


@contextmanager
def remembering() -> Iterator[Callable[[], bool]]:
    """Remember a Ctrl-C; what is given says whether there was one.

    The exception alone is not enough: one that is raised in a callback out of C, as in a library's
    finalizer, is printed there and lost.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def take(number: int, frame: object) -> None:
        asked.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, take)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass
class Follower:
    """Follows one run.

    Attributes:
        progress: asks ZenML.
        job: asks the place.
        limits: when to give up.
        say: takes a line for a person.
        every: seconds between two looks.
        lag: see ``LAG``.
        interrupted: whether a person asked to stop following.

    """

    progress: Callable[[], Progress]
    job: Job
    limits: Limits
    say: Callable[[str], None]
    every: float = field(default_factory=lambda: EVERY)
    lag: float = LAG
    clock: Callable[[], float] = time.time
    pause: Callable[[float], None] = time.sleep
    interrupted: Callable[[], bool] = lambda: False
    _told: dict[str, str] = field(default_factory=dict)
    _news: float = 0.0
    _ended: float | None = None

    def follow(self) -> Progress:
        """Print what changes until the run has ended; return how.

        Raises:
            JobLostError: the run has to be given up, and why.
            RemoteError: nobody could be asked for as long as a job may be silent.
            KeyboardInterrupt: a person does not want to follow it any longer.

        """
        self._news = self.clock()
        while True:
            try:
                known, seen = self._look()
            except RemoteError as error:
                self._blind(error)
            else:
                if known.finished:
                    return known
                self._give_up(known, seen)
            if self.interrupted():
                raise KeyboardInterrupt
            self.pause(self.every)

    def _look(self) -> tuple[Progress, Sight]:
        # The place is asked first: a job that ends well tells ZenML before it ends.
        seen = self.job.look()
        known = self.progress()
        self._tell("job", seen.said)
        self._tell("run", known.status)
        for name, status in known.steps.items():
            self._tell(f"step {name}", status)
        for line in self.job.lines():
            self._news = self.clock()
            self.say(f"| {line}")
        return known, seen

    def _tell(self, what: str, now: str) -> None:
        if self._told.get(what) != now:
            self._told[what] = now
            self._news = self.clock()
            self.say(f"{what}: {now}")

    def _blind(self, error: TwinError) -> None:
        if self._told.get("blind") != str(error):
            self._told["blind"] = str(error)
            self.say(f"cannot look: {error}")
        if self.clock() - self._news > self.limits.silence:
            raise RemoteError(
                f"the run cannot be followed any more ({error.what})", error.where, error.hint
            ) from error

    def _give_up(self, known: Progress, seen: Sight) -> None:
        now = self.clock()
        if seen.ended:
            self._ended = self._ended or now
        if seen.state == FAILED:
            self._lost(f"the job ended before the run did ({seen.said})")
        if self._ended and now - self._ended > self.lag:
            self._lost("the job has ended, and ZenML heard nothing of it")
        if known.began is None:
            if now - known.created > self.limits.start:
                self._lost(f"the job did not begin within {self.limits.start:g} s ({seen.said})")
        elif now - known.began > self.limits.time:
            self._lost(f"the job took longer than {self.limits.time:g} s")
        elif now - self._news > self.limits.silence:
            self._lost(f"the job gave no sign of life for {self.limits.silence:g} s")

    def _lost(self, what: str) -> None:
        raise JobLostError(
            what, self.job.name, "Production is what it was. Look at the job there, then: invoke ct"
        )
