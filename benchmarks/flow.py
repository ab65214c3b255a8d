"""The flow engine against its peers: what it costs to remember what was run.

Each tool gets an environment of its own and the same stages, and all take turns in one run. What a
command did is checked each time: a tool is only timed for what it did.

Run: ``python benchmarks/flow.py``; ``--markdown`` prints the table of
``docs/reference/benchmarks.md``. CPU is user and system time of the whole process tree.
Exit code 1: one of our bars was missed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from flow_projects import CHAINS, GRAPHS, SLEEPS, chain, graph, sleep
from flow_runs import OURS, ROOT, TOOLS, Project, Result, compete


@dataclass(frozen=True)
class Row:
    """One question: what is timed, for whom, and the bar that ours must not exceed.

    Attributes:
        what: in words.
        limit: the bar, in seconds.
        clock: ``wall`` or ``cpu``: which of the two it is about.
        projects: for each tool one project, or a short and a long one whose difference, divided by
            the number of stages between them, is the figure.

    """

    what: str
    limit: float
    clock: str
    projects: Mapping[str, Sequence[Project]]

    @property
    def bar(self) -> str:
        """The bar in words."""
        limit = f"{self.limit:g} s" if self.limit >= 0.1 else f"{1000 * self.limit:g} ms"
        return f"≤ {limit} {'CPU' if self.clock == 'cpu' else self.clock}"

    def met(self, ours: Result) -> bool:
        """Whether our median is within the bar; without figures it is not."""
        return bool(ours.samples) and median(ours.seconds(self.clock)) <= self.limit


ROWS = {
    "cached": Row(
        "fully cached flow of 12 stages, whole process",
        0.2,
        "cpu",
        {tool: (graph(tool),) for tool in GRAPHS},
    ),
    "overhead": Row(
        "overhead per executed empty stage, recorded and logged",
        0.015,
        "wall",
        # Metaflow has no flow of one step. Where a process takes seconds and a stage milliseconds,
        # twenty stages drown in the noise.
        {
            tool: (chain(tool, 2), chain(tool, {"dbos": 200, "prefect": 100}.get(tool, 20)))
            for tool in CHAINS
        },
    ),
    "cold": Row(
        "ten trivial stages, cold process, full history",
        0.5,
        "wall",
        {tool: (chain(tool, 10),) for tool in CHAINS if tool != "nox"},  # nox keeps no history
    ),
    "sleep": Row(
        "four stages of `sleep 1`, 4 jobs", 1.2, "wall", {tool: (sleep(tool),) for tool in SLEEPS}
    ),
    "why": Row(
        "`invoke why tests` on this repository",
        0.3,
        "wall",
        {OURS: (Project("invoke why tests", prints="tests"),)},
    ),
    "plan": Row(
        "`invoke plan ci` on this repository",
        0.3,
        "wall",
        {OURS: (Project("invoke plan ci", prints="tests"),)},
    ),
}


def spread(seconds: Sequence[float]) -> str:
    """The median, in brackets the smallest and the largest; in ms below a tenth of a second."""
    if not seconds:
        return ""
    scale, unit, digits = (1, "s", 2) if median(seconds) >= 0.1 else (1000, "ms", 1)
    times = (median(seconds), min(seconds), max(seconds))
    middle, low, high = (f"{scale * one:.{digits}f}" for one in times)
    return f"{middle} {unit} ({low} - {high})"


def ratio(one: Result, ours: Result, clock: str) -> str:
    """How many times our median a peer took, by the bar's clock."""
    if one is ours or not one.samples or not ours.samples:
        return ""
    return f"{median(one.seconds(clock)) / median(ours.seconds(clock)):.1f}"


def table(figures: Mapping[str, Sequence[Result]]) -> list[list[str]]:
    """The lines of the table, its heading first; in each row ours comes first."""
    lines = [["what", "tool", "wall", "CPU", "times ours", "bar, note"]]
    for name, results in figures.items():
        row, ours = ROWS[name], results[0]
        for one in results:
            what, bar = "", one.problem or TOOLS[one.tool].note
            if one is ours:
                what, bar = row.what, f"{row.bar}: {'met' if row.met(one) else 'not met'}"
                bar += f", {one.problem}" if one.problem else ""
            tool = f"{one.tool} {one.version}".strip()
            clocks = [spread(one.seconds(clock)) for clock in ("wall", "cpu")]
            lines.append([what, tool, *clocks, ratio(one, ours, row.clock), bar])
    return lines


def plain(lines: Sequence[Sequence[str]]) -> str:
    """The table in columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """The table for the documentation."""
    rows = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    rows.insert(1, " | ".join("---" for _ in lines[0]))
    return "\n".join(f"| {row} |" for row in rows)


def machine() -> dict[str, Any]:
    """What it was measured on, and what was measured."""
    git = ["git", "--no-optional-locks", "describe", "--always", "--dirty= with changes"]
    commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, timeout=60)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or "unknown",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "load": round(os.getloadavg()[0], 2),
    }


def caption(facts: Mapping[str, Any], repeat: int) -> str:
    """The line under the table."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['system']}, Python {facts['python']}, "
        f"commit {facts['commit']}, {facts['date']}, load {facts['load']} at the start. "
        f"Medians of {repeat} (smallest - largest) after one warm-up, all tools of a row in turns."
    )


def to_dict(name: str, results: Sequence[Result]) -> dict[str, Any]:
    """One row with every sample, in seconds, for the JSON file."""
    row = ROWS[name]
    bar = {"limit": row.limit, "clock": row.clock, "met": row.met(results[0])}
    listed = [dataclasses.asdict(one) for one in results]
    return {"row": name, "what": row.what, "bar": bar, "results": listed}


def names(text: str) -> list[str]:
    """Names separated by commas."""
    return [name for name in text.split(",") if name]


def main() -> int:
    """Measure, print the table, and say by the exit code whether the bars were met."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeat", type=int, default=5, help="samples of each tool")
    parser.add_argument("--only", type=names, default=list(ROWS), help=f"of {','.join(ROWS)}")
    parser.add_argument("--peers", type=names, default=list(TOOLS), help=f"of {','.join(TOOLS)}")
    parser.add_argument("--work", type=Path, default=ROOT / ".twin" / "benchmarks")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep every sample")
    given = parser.parse_args()
    if unknown := {*given.only} - {*ROWS} | {*given.peers} - {*TOOLS}:
        parser.error(f"no such row or tool: {', '.join(sorted(unknown))}")
    facts, work, figures = machine(), given.work.resolve(), {}
    shutil.rmtree(work / "homes", ignore_errors=True)
    for name in given.only:
        chosen = {
            tool: projects
            for tool, projects in ROWS[name].projects.items()
            if tool in (OURS, *given.peers)
        }
        figures[name] = compete(name, chosen, given.repeat, work)
    lines = table(figures)
    print(markdown(lines) if given.markdown else plain(lines))
    print(f"\n{caption(facts, given.repeat)}")
    rows = [to_dict(name, results) for name, results in figures.items()]
    if given.json:
        given.json.write_text(json.dumps({"machine": facts, "rows": rows}, indent=2))
    return 0 if all(row["bar"]["met"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
