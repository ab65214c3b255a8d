"""What the history keeps of runs, and how their rows are read."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from llm_twin.flow.states import PENDING, State, StateType

RUN_COLUMNS = (
    "id, flow, parameters, state, state_name, message, created, ended, pid, source, options, host,"
    " heartbeat"
)
STAGE_COLUMNS = (
    "stage, state, state_name, message, started, ended, cpu, peak_mb, parts, result, key, why,"
    " outputs, attempts, evidence"
)


@dataclass
class StageRun:
    """One stage of one run; times in seconds since the epoch, cpu in seconds, peak_mb in MiB.

    Attributes:
        parts: the parts of its key, by name.
        result: what it returned.
        key: digest over the parts.
        why: the reasons it ran for.
        outputs: digest of each declared output file, by path relative to the project root.
        attempts: how many were made, in all resumptions.
        evidence: where it ran: source, commit, dirty, host, machine, python.

    """

    stage: str
    state: State = PENDING
    started: float | None = None
    ended: float | None = None
    cpu: float | None = None
    peak_mb: float | None = None
    parts: dict[str, str] | None = None
    result: Any = None
    key: str = ""
    why: list[str] = field(default_factory=list)
    outputs: dict[str, str] = field(default_factory=dict)
    attempts: int = 0
    evidence: dict[str, str] = field(default_factory=dict)

    @property
    def cached(self) -> bool:
        """Whether an earlier run's work was taken over."""
        return self.state.name == "Cached"


@dataclass
class Attempt:
    """One try of one stage."""

    stage: str
    number: int
    state: State
    started: float
    ended: float | None = None
    cpu: float | None = None
    peak_mb: float | None = None


@dataclass
class Run:
    """One run of one flow; ``options`` are targets, force and jobs, for resuming it."""

    id: str
    flow: str
    parameters: dict[str, Any]
    state: State
    created: float
    ended: float | None
    pid: int
    source: str
    options: dict[str, Any] = field(default_factory=dict)
    host: str = ""
    heartbeat: float | None = None
    stages: list[StageRun] = field(default_factory=list)


def new_run_id() -> str:
    """Return an id that sorts by time: ``260131-142502-9f3c2a``."""
    return f"{time.strftime('%y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def stage_run_of(row: tuple[Any, ...]) -> StageRun:
    """A stage run from its STAGE_COLUMNS."""
    stage, state, name, message, started, ended, cpu, peak_mb, parts, result, key, *rest = row
    why, outputs, attempts, evidence = rest
    return StageRun(
        stage,
        State(StateType(state), name, message),
        started,
        ended,
        cpu,
        peak_mb,
        json.loads(parts) if parts else None,
        json.loads(result) if result else None,
        key,
        json.loads(why),
        json.loads(outputs),
        attempts,
        json.loads(evidence),
    )


def run_of(row: tuple[Any, ...], stages: list[StageRun]) -> Run:
    """A run from its RUN_COLUMNS."""
    run_id, flow, parameters, state, name, message, created, ended, pid, source, *rest = row
    options, host, heartbeat = rest
    return Run(
        run_id,
        flow,
        json.loads(parameters),
        State(StateType(state), name, message),
        created,
        ended,
        pid,
        source,
        json.loads(options),
        host,
        heartbeat,
        stages,
    )
