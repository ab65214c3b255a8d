"""The commands over runs, plans and the cache, each a method that becomes an invoke task.

Methods import what they need when they run; their docstrings are the help that a user reads.
"""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.errors import NotReadyError
from llm_twin.flow.project import leave, parse_age

if TYPE_CHECKING:
    from invoke.context import Context

    from llm_twin.flow.cache import Usage
    from llm_twin.flow.project import Project
    from llm_twin.flow.records import Run
    from llm_twin.flow.store import Store
    from llm_twin.settings import Settings


class Commands:
    """The methods that ``collection`` shows as tasks."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def run(
        self, c: Context, flow: str, set: list[str], id: str = "", force: bool = False,
        jobs: int = 0, json: bool = False,
    ) -> None:  # fmt: skip
        """Run a stage and what it needs, like its own task does.

        Args:
            flow: name of the stage.
            set: a parameter of any stage in it, as name=value; may be given again.
            id: the run's id; a run that exists is not started again.
            force: run it even if nothing changed.
            jobs: how many stages at once; default: one for each core.
            json: print events as JSON, one a line.
        """
        self.project.run(flow, self.project.given(flow, set), force, jobs, json, id)

    def plan(
        self, c: Context, flow: str, set: list[str], force: bool = False, jobs: int = 0,
        json: bool = False,
    ) -> None:  # fmt: skip
        """Show what a run would do and how long that took before; nothing is run.

        Args:
            flow: name of the stage.
            set: a parameter of any stage in it, as name=value; may be given again.
            force: as if everything had changed.
            jobs: how many stages at once; default: one for each core.
            json: print JSON.
        """
        from llm_twin.flow.plan import make_plan, plan_table
        from llm_twin.flow.store import Store

        runner = self.project.runner(jobs=jobs)
        given = self.project.given(flow, set)
        found = make_plan(runner, Store(self.project.home), [flow], given, force)
        print(jsonlib.dumps(found.to_dict(), indent=2) if json else plan_table(found, runner.jobs))

    def why(self, c: Context, stage: str, set: list[str], json: bool = False) -> None:
        """List what moved since a stage's last run, file by file.

        Args:
            stage: its name.
            set: a parameter, as name=value; may be given again.
            json: print JSON.
        """
        from llm_twin.flow.plan import why
        from llm_twin.flow.store import Store

        given = self.project.given(stage, set)
        verdict, last = why(self.project.runner(), Store(self.project.home), stage, given)
        if json:
            answer = {"stage": stage, "key": verdict.key, "last": last, "why": verdict.why}
            print(jsonlib.dumps({**answer, "parts": verdict.parts}, indent=2))
        elif verdict.why:
            since = f", compared with run {last}" if last else ""
            print(f"{stage} would run{since}:", *verdict.why, sep="\n  ")
        else:
            print(f"{stage} would not run: {verdict.message}")

    def parity(self, c: Context, stage: str = "", other: str = "", json: bool = False) -> None:
        """Compare what the last local and the last CI run of the same key left.

        Args:
            stage: one stage; default: every stage that keeps a key.
            other: another runs.db to look at, for example the one that CI uploaded.
            json: print JSON.
        """
        from dataclasses import asdict

        from llm_twin.flow.parity import parity, parity_table
        from llm_twin.flow.store import Store

        stores = [self.project.store()]
        if other:
            stores.append(Store.read(Path(other)))
        cache = self.project.cache()
        registry = self.project.registry
        names = [registry[stage].name] if stage else [s.name for s in registry if s.cached]
        found = [parity(name, stores, cache) for name in names]
        rows = [asdict(item) for item in found]
        print(jsonlib.dumps(rows, indent=2) if json else parity_table(found))

    def automate(
        self, c: Context, once: bool = False, simulate: bool = False, list: bool = False,
        since: str = "7d", json: bool = False, host: str = "127.0.0.1", port: int = 0,
    ) -> None:  # fmt: skip
        """Let flows run by themselves, as ci/automations.py declares, until stopped.

        Args:
            once: see to what is due now and end; for cron or a scheduled workflow.
            simulate: say what would have fired on the recorded events; nothing is done.
            list: show the automations, when each is due and what became of the last firing.
            since: with --simulate, from how long ago, like 7d or 12h.
            json: with --simulate and --list, print JSON.
            host: address to receive webhooks at.
            port: its port; default: TWIN_AUTOMATE_PORT, else 8377.
        """
        from llm_twin.flow.automation.command import automate

        automate(
            self.project,
            once=once,
            simulate=simulate,
            list=list,
            since=since,
            json=json,
            host=host,
            port=port,
        )

    def runs_list(self, c: Context, limit: int = 20, json: bool = False) -> None:
        """List the runs, newest first.

        Args:
            limit: how many, newest first.
            json: print JSON.
        """
        from llm_twin.flow.views import run_to_dict, runs_table

        try:
            runs = self.project.store().recent(limit)
        except NotReadyError:
            runs = []
        print(jsonlib.dumps([run_to_dict(r) for r in runs], indent=2) if json else runs_table(runs))

    def runs_show(self, c: Context, run: str, json: bool = False) -> None:
        """Show one run, its stages and their attempts.

        Args:
            run: its id, or a unique part.
            json: print JSON.
        """
        from llm_twin.flow.views import run_details, run_to_dict

        store = self.project.store()
        found = store.get(run)
        attempts = store.attempts(found.id)
        if json:
            print(jsonlib.dumps(run_to_dict(found, attempts), indent=2))
        else:
            print(run_details(found, attempts))

    def runs_logs(self, c: Context, run: str, stage: str | None = None, json: bool = False) -> None:
        """Print what the stages of a run printed.

        Args:
            run: its id, or a unique part.
            stage: one stage only.
            json: print JSON.
        """
        store = self.project.store()
        found = store.get(run)
        names = [item.stage for item in found.stages]
        if stage and stage not in names:
            raise NotReadyError(
                f"run {found.id} has no stage {stage}", hint=f"Its stages are: {', '.join(names)}"
            )
        chosen = [stage] if stage else names
        logs = {name: p for name in chosen if (p := store.log_path(found.id, name)).exists()}
        if json:
            texts = {name: path.read_text("utf-8", "replace") for name, path in logs.items()}
            print(jsonlib.dumps({"id": found.id, "logs": texts}, indent=2))
            return
        for name, path in logs.items():
            if len(logs) > 1:
                print(f"-- {name}")
            _print_file(path)
        if not logs:
            print(f"run {found.id} printed nothing")

    def runs_resume(self, c: Context, run: str, jobs: int = 0, json: bool = False) -> None:
        """Go on with a run that did not complete; what completed is not done again.

        Args:
            run: its id, or a unique part.
            jobs: how many stages at once; default: one for each core.
            json: print events as JSON, one a line.
        """
        self.project.store()
        leave(self.project.runner(json, jobs).resume(run))

    def runs_cancel(self, c: Context, run: str) -> None:
        """Stop a run, wherever it was started.

        Args:
            run: its id, or a unique part.
        """
        store = self.project.store()
        found = store.get(run)
        if found.ended is not None:
            print(f"run {found.id} has ended already: {found.state}")
            return
        store.cancel(found.id, "cancelled with invoke runs.cancel")
        ended = _wait_for_end(store, found)
        print(f"run {ended.id}: {ended.state}" if ended.ended else f"run {found.id} is stopping")

    def runs_prune(self, c: Context, older_than: str = "90d") -> None:
        """Delete old runs and their logs from the history.

        Args:
            older_than: how long ago they were started, like 90d, 12h or 4w.
        """
        import time

        from llm_twin.flow.automation.ledger import prune

        store, before = self.project.store(), time.time() - parse_age(older_than)
        gone = len(store.prune(before))
        prune(store, before)
        print(f"{gone} run{'' if gone == 1 else 's'} deleted")

    def cache_show(self, c: Context, json: bool = False) -> None:
        """Show what the stage cache holds.

        Args:
            json: print JSON.
        """
        from dataclasses import asdict

        settings = self.project.settings
        usage = self.project.cache().usage()
        if json:
            print(jsonlib.dumps({**asdict(usage), "remote": settings.cache}, indent=2))
        else:
            print(_cache_table(usage, settings))

    def cache_prune(self, c: Context, size: int = -1) -> None:
        """Evict what was used least recently until the cache fits.

        Args:
            size: MiB that may stay; default: TWIN_CACHE_SIZE; 0 empties it.
        """
        cache = self.project.cache()
        gone = cache.prune(None if size < 0 else size * 2**20)
        print(
            f"{gone.entries} entries and {gone.blobs} files deleted, {gone.bytes / 2**20:.1f} MiB"
        )


def _wait_for_end(store: Store, run: Run) -> Run:
    import time

    for _ in range(150):
        store.reap()
        found = store.get(run.id)
        if found.ended is not None:
            return found
        time.sleep(0.1)
    return found


def _cache_table(usage: Usage, settings: Settings) -> str:
    from llm_twin.flow.views import table

    rows = [("STAGE", "ENTRIES", "MIB")]
    rows += [(n, str(count), f"{size / 2**20:.1f}") for n, (count, size) in usage.stages.items()]
    total = f"{usage.entries} entries, {usage.blobs} files, {usage.bytes / 2**20:.1f} MiB"
    lines = [f"{total} of {settings.cache_size} in {settings.home / 'cache' / 'stages'}"]
    lines += [f"shared through {settings.cache}"] if settings.cache else []
    return "\n".join([*lines, "", table(rows)] if usage.stages else lines)


def _print_file(path: Path) -> None:
    import sys

    last = ""
    with path.open(encoding="utf-8", errors="replace") as file:
        while piece := file.read(1 << 20):
            sys.stdout.write(piece)
            last = piece[-1]
    if last != "\n":
        print()
