"""Fire what is due and see its actions through, from wherever the last process left off.

A firing is committed before its action starts, and the run that it starts has the firing's id. So a
process that was killed at any moment is followed by one that finds out what became of the action:
nothing happens twice and nothing is forgotten. One process at a time does this on a store: the one
that holds the lock ``automate``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Protocol

from llm_twin.errors import BusyError, TwinError
from llm_twin.flow.automation.actions import CALL_RETRY, Alert, CallWebhook, RunFlow
from llm_twin.flow.automation.alerts import raise_alert
from llm_twin.flow.automation.ledger import (
    PENDING,
    RUNNING,
    Firing,
    events_after,
    fire,
    note_runs,
    run_state,
    save_firing,
    save_state,
    states,
    sync,
    unfinished,
)
from llm_twin.flow.automation.plan import due
from llm_twin.flow.automation.timers import Timer
from llm_twin.flow.automation.watch import Watch
from llm_twin.flow.locks import claim, is_held

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import IO

    from llm_twin.flow.automation.declare import Automation, Automations
    from llm_twin.flow.store import Store

MOST_BAD_ENDS = 3
MOST_QUEUED = 100


class Clock(Protocol):
    """What time it is, in seconds since the epoch, and waiting."""

    def now(self) -> float:
        """The time."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> float:
        return time.time()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def claim_store(store: Store) -> IO[str]:
    """Be the one process that sees to automations, for as long as the handle stays open.

    Raises:
        BusyError: another one is.

    """
    try:
        return claim(store.home / "locks", "automate", f"process {os.getpid()}")
    except BusyError as busy:
        raise BusyError(busy.what, busy.where, "It sees to what is due; stop it first") from None


class Engine:
    """Evaluates and acts, one ``tick`` at a time."""

    def __init__(
        self,
        automations: Automations,
        store: Store,
        root: Path,
        clock: Clock | None = None,
        say: Callable[[str], None] = print,
        invoke: Sequence[str] = (),
    ) -> None:
        """Start the cursors of automations that are new.

        Args:
            automations: what was declared.
            store: the run history.
            root: the project root: flows run there, watched files are below it.
            clock: default: the machine's.
            say: receives a line for whatever happens.
            invoke: the command that runs flows; default: this Python's invoke, on root.

        """
        self.automations = automations
        self.store = store
        self.root = root
        self.clock = clock or SystemClock()
        self.say = say
        self.invoke = invoke or (sys.executable, "-m", "invoke", "--search-root", str(root))
        self.watch = Watch((item.when for item in automations), root)
        self.wake: Callable[[], None] = lambda: None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.calls: dict[str, str | None] = {}
        note_runs(store)
        sync(store, automations, self.clock.now())

    def tick(self, *, timers: bool = True) -> list[Firing]:
        """Look, fire what is due, bring actions one step on; return their firings, ended or not."""
        self.store.reap()
        note_runs(self.store)
        self.watch.look(self.store, self.clock.now())
        self._fire(timers)
        return self._act()

    def next_due(self) -> float | None:
        """When there is something to do although nothing happens; seconds since the epoch."""
        now = self.clock.now()
        known = states(self.store.db, self.automations)
        moments = [item.when.next_due(known[item.name][1], now) for item in self.automations]
        moments += [self.watch.next_look()]
        moments += [firing.again for firing in unfinished(self.store.db) if firing.again > now]
        return min((moment for moment in moments if moment is not None), default=None)

    def _fire(self, timers: bool) -> None:
        now = self.clock.now()
        said = []
        with self.store.transaction() as db:
            known = states(db, self.automations)
            events = events_after(db, min((seen for seen, _ in known.values()), default=0))
            for item in self.automations:
                if isinstance(item.when, Timer) and not timers:
                    continue
                seen, before = known[item.name]
                found, after = due(item, before, [e for e in events if e.id > seen], now)
                for one in found:
                    if fire(db, item.name, one, now):
                        said.append(f"{item.name} fires: {one.reason}")
                newest = events[-1].id if events else seen
                if after != before or newest != seen:
                    save_state(db, item.name, newest, after)
        for line in said:
            self.say(line)

    # Actions

    def _act(self) -> list[Firing]:
        firings = unfinished(self.store.db)
        for number, firing in enumerate(firings):
            former = [
                other
                for other in firings[:number]
                if other.automation == firing.automation and other.ended is None
            ]
            try:
                self._advance(firing, former)
            except (TwinError, OSError, ValueError) as error:
                self._end(firing, "Failed", str(error))
        return firings

    def _advance(self, firing: Firing, former: list[Firing]) -> None:
        automation = self.automations.get(firing.automation)
        if firing.state == RUNNING:
            self._follow(firing, automation)
        elif automation is None:
            self._end(firing, "Skipped", "it is no longer declared")
        elif isinstance(automation.do, Alert):
            raise_alert(self.store, firing, automation.do, self.clock.now())
        elif isinstance(automation.do, CallWebhook):
            self._call(firing, automation.do)
        elif self._may_start(firing, automation, former):
            self._start(firing, automation.do)

    def _end(self, firing: Firing, state: str, message: str) -> None:
        firing.state, firing.message, firing.ended = state, message, self.clock.now()
        save_firing(self.store.db, firing)
        self.processes.pop(firing.id, None)
        self.say(f"{firing.automation} {state}{f': {message}' if message else ''}")

    def _call(self, firing: Firing, action: CallWebhook) -> None:
        """Call in a thread, so that a silent server holds up nothing else."""
        if firing.id not in self.calls:
            if firing.again <= self.clock.now():
                self.calls[firing.id] = None
                threading.Thread(target=self._send, args=(firing, action), daemon=True).start()
            return
        problem = self.calls[firing.id]
        if problem is None:
            return
        del self.calls[firing.id]
        if not problem:
            self._end(firing, "Completed", f"{action} was taken")
            return
        firing.attempts += 1
        firing.message = problem
        if firing.attempts >= CALL_RETRY.attempts:
            self._end(firing, "Failed", f"{problem}, {firing.attempts} times")
            return
        firing.again = self.clock.now() + CALL_RETRY.delay(firing.attempts)
        save_firing(self.store.db, firing)

    def _send(self, firing: Firing, action: CallWebhook) -> None:
        message = {
            "automation": firing.automation,
            "firing": firing.id,
            "reason": firing.reason,
            "payload": firing.payload,
        }
        try:
            self.calls[firing.id] = action.send(firing.id, message)
        except TwinError as error:
            self.calls[firing.id] = str(error)
        self.wake()

    # Runs of flows

    def _may_start(self, firing: Firing, automation: Automation, former: list[Firing]) -> bool:
        if not former:
            return True
        if automation.overlap == "skip":
            self._end(firing, "Skipped", f"the run of a former firing goes on: {former[0].id}")
        elif automation.overlap == "queue" and len(former) > MOST_QUEUED:
            self._end(firing, "Skipped", f"{MOST_QUEUED} firings wait already")
        elif automation.overlap == "cancel-previous":
            for other in former:
                if other.state == PENDING:
                    self._end(other, "Skipped", f"a newer firing took its place: {firing.id}")
                else:
                    self.store.cancel(other.id, f"{automation.name} fired again: {firing.id}")
        return False

    def _start(self, firing: Firing, action: RunFlow) -> None:
        given = action.given(firing.payload)
        firing.state = RUNNING
        save_firing(self.store.db, firing)
        options = []
        for name, value in given.items():
            text = value if isinstance(value, str) else json.dumps(value)
            options += ["--set", f"{name}={text}"]
        self._invoke(firing, "run", action.flow, "--id", firing.id, *options)
        self.say(f"{firing.automation} starts {action.flow}: invoke runs.logs {firing.id}")

    def _invoke(self, firing: Firing, *arguments: str) -> None:
        """Start invoke in a session of its own: it goes on when this process ends."""
        folder = self.store.log_folder(firing.id)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "invoke.log").open("ab") as log:
            self.processes[firing.id] = subprocess.Popen(
                [*self.invoke, *arguments],
                cwd=self.root,
                env={**os.environ, "TWIN_HOME": str(self.store.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _follow(self, firing: Firing, automation: Automation | None) -> None:
        """Find out what became of a run, whoever started it; start or resume it if need be."""
        process = self.processes.get(firing.id)
        ended = process is not None and process.poll() is not None
        state, message = run_state(self.store.db, firing.id) or ("", "")
        held = state in ("", "Crashed") and is_held(self.store.log_folder(firing.id) / "alive")
        if state == RUNNING or held or (process and not ended):
            return
        if state not in ("", "Crashed"):
            self._end(firing, state, message)
        elif ended:
            self._ended_badly(firing, state, message or self._last_line(firing))
        elif state:
            self._invoke(firing, "runs.resume", firing.id)
        elif automation and isinstance(automation.do, RunFlow):
            self._start(firing, automation.do)
        else:
            self._end(firing, "Skipped", "it is no longer declared")

    def _ended_badly(self, firing: Firing, state: str, message: str) -> None:
        """A run that crashed before our eyes is resumed, but not for ever."""
        firing.attempts += 1
        if not state or firing.attempts >= MOST_BAD_ENDS:
            self._end(firing, state or "Failed", message)
            return
        save_firing(self.store.db, firing)
        del self.processes[firing.id]

    def _last_line(self, firing: Firing) -> str:
        path = self.store.log_folder(firing.id) / "invoke.log"
        lines = path.read_text("utf-8", "replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it ended without a word")
