"""A project: its stages, its folder, and what every command over them starts from."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit

from llm_twin.errors import ConfigError, FlowError, NotReadyError
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from llm_twin.flow.cache import Cache
    from llm_twin.flow.runner import Runner, RunResult
    from llm_twin.flow.stage import Registry
    from llm_twin.flow.store import Store

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
TRUE = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Project:
    """A registry of stages and the folder they work in."""

    def __init__(self, registry: Registry, root: Path) -> None:
        self.registry = registry
        self.root = root

    @property
    def settings(self) -> Settings:
        """The settings, relative paths taken from the project's root."""
        return Settings.load(root=self.root)

    @property
    def home(self) -> Path:
        """The state folder."""
        return self.settings.home

    def runner(self, json: bool = False, jobs: int = 0) -> Runner:
        """A runner with the reporter that fits where its output goes."""
        from llm_twin.flow.report import choose
        from llm_twin.flow.runner import Runner

        if jobs < 0:
            raise ConfigError("--jobs must be at least 1", jobs)
        reporter = choose(json=json)
        return Runner(self.registry, self.root, self.home, reporter, self.cache, jobs)

    def cache(self) -> Cache:
        """The stage cache, local and shared, as the settings say."""
        from llm_twin.flow.cache import open_cache

        return open_cache(self.settings)

    def store(self) -> Store:
        """The history, dead runs marked.

        Raises:
            NotReadyError: there is none yet.

        """
        from llm_twin.flow.store import Store

        if not (self.home / "runs.db").exists():
            raise NotReadyError("no runs are recorded yet", self.home, "Start one: invoke --list")
        store = Store(self.home)
        store.reap()
        return store

    def run(
        self,
        flow: str,
        parameters: dict[str, Any],
        force: bool = False,
        jobs: int = 0,
        json: bool = False,
        run_id: str = "",
    ) -> None:
        """Run a flow and leave with its exit code when it is not 0."""
        runner = self.runner(json, jobs)
        leave(runner.run(flow, parameters=parameters, force=force, run_id=run_id))

    def given(self, flow: str, settings: Sequence[str]) -> dict[str, Any]:
        """Read ``name=value`` texts as the types that the flow's stages declare.

        Raises:
            FlowError: a text that is no such pair, or a value that does not fit.

        """
        from llm_twin.flow.graph import order

        kinds = {p.name: p.annotation for s in order(self.registry, flow) for p in s.parameters}
        given = {}
        for text in settings:
            name, equals, value = text.partition("=")
            if not equals:
                raise FlowError("a parameter is set like this: --set name=value", text)
            given[name] = _as_kind(name, value, kinds.get(name, str))
        return given


def _as_kind(name: str, value: str, kind: Any) -> Any:
    try:
        if kind is bool:
            return TRUE[value.lower()]
        return kind(value) if kind in (int, float) else value
    except (ValueError, KeyError):
        raise FlowError(f"{name} has to be {kind.__name__}", repr(value)) from None


def leave(result: RunResult) -> None:
    """End the process with a run's exit code when it is not 0."""
    if result.exit_code:
        raise Exit(f"error: {result.state.message}", code=result.exit_code)


def parse_age(text: str) -> float:
    """Seconds in a text like ``90s``, ``30m``, ``12h``, ``7d`` or ``2w``.

    Raises:
        ConfigError: it is none.

    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if not match:
        raise ConfigError("not a length of time", repr(text), "Write it like 90s, 12h or 7d")
    return float(match[1]) * UNITS[match[2]]
