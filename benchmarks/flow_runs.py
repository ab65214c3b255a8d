"""The tools of the flow benchmark, each in an environment of its own, and how they are timed."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

OURS = "llm-twin"
ROOT = Path(__file__).resolve().parents[1]
RUN_SECONDS = 120
INSTALL_SECONDS = 1200
# Whatever asks for the network finds nobody listening; a tool's own server is on the loopback.
OFFLINE = {
    "HTTP_PROXY": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "DO_NOT_TRACK": "1",
}


@dataclass(frozen=True)
class Project:
    """A folder of files, the command timed in it, and what that command must do.

    Attributes:
        command: its first word is a program of the tool's environment.
        files: paths and texts; none: the command runs in the root of this repository.
        stages: lines that the first run adds to the ledger.
        cached: whether every later run must add none.
        prints: what each run must print.

    """

    command: str
    files: dict[str, str] = field(default_factory=dict)
    stages: int = 0
    cached: bool = False
    prints: str = ""


@dataclass(frozen=True)
class Tool:
    """An engine in an environment of its own.

    Attributes:
        requirements: what pip installs, the engine itself first; none: this repository.
        note: how it differs from ours, for whoever compares.
        env: environment variables for its runs.

    """

    requirements: tuple[str, ...] = ()
    note: str = ""
    env: Mapping[str, str] = field(default_factory=dict)


TOOLS = {
    OURS: Tool(),
    "doit": Tool(("doit==0.37.0",), "no history, no logs"),
    "snakemake": Tool(("snakemake==9.27.1",)),
    "zenml": Tool(
        ("zenml[local]==0.98.0", "uv"),  # uv beside it saves ZenML a second of `pip freeze`
        "stages share one process",
        {
            "ZENML_ANALYTICS_OPT_IN": "false",
            "ZENML_LOGGING_VERBOSITY": "WARN",
            "ZENML_AUTO_OPEN_DASHBOARD": "false",
        },
    ),
    "nox": Tool(("nox==2026.10.20",), "no history, no logs"),
    "metaflow": Tool(
        ("metaflow==2.19.39",),
        "",
        {
            "METAFLOW_USER": "benchmark",
            "METAFLOW_DEFAULT_DATASTORE": "local",
            "METAFLOW_DEFAULT_METADATA": "local",
            "METAFLOW_DEFAULT_EVENT_LOGGER": "nullSidecarLogger",
            "METAFLOW_DEFAULT_MONITOR": "nullSidecarMonitor",
        },
    ),
    "dbos": Tool(("dbos==3.4.0",), "stages share one process, no logs"),
    "prefect": Tool(
        ("prefect==3.8.0", "fastapi==0.141.1"),  # its server does not start with newer ones
        "stages share one process, a server beside it",
        {
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
            "PREFECT_LOGGING_LEVEL": "WARNING",
        },
    ),
    "poe": Tool(("poethepoet==0.49.0",), "no history, no logs"),
    "invoke": Tool(("invoke==3.0.3",), "no history, no logs; serial"),
}


class CannotRunError(Exception):
    """A tool cannot be installed here, or did not do what it was asked to."""


@dataclass(frozen=True)
class Sample:
    """Seconds that one command took, or one stage of it."""

    wall: float
    cpu: float


@dataclass
class Result:
    """What a tool measured in one row: its samples, or why there are none."""

    tool: str
    version: str = ""
    samples: list[Sample] = field(default_factory=list)
    problem: str = ""

    def seconds(self, clock: str) -> list[float]:
        """All samples of one clock: ``wall`` or ``cpu``."""
        return [getattr(sample, clock) for sample in self.samples]


@functools.cache  # our sources may change while the benchmark runs
def install(tool: str, work: Path) -> Path:
    """Return the tool's environment, made anew where its stamp does not match.

    Raises:
        CannotRunError: pip said no.

    """
    folder = work / "environments" / tool
    requirements = TOOLS[tool].requirements or (str(ROOT),)
    sources = "" if TOOLS[tool].requirements else digest_sources()
    stamp = json.dumps([*requirements, platform.python_version(), sources])
    marker = folder / "stamp"
    if marker.exists() and marker.read_text() == stamp:
        return folder
    say(f"installing {tool}")
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=INSTALL_SECONDS)
    done = subprocess.run(
        [folder / "bin" / "pip", "install", *requirements],
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    if done.returncode:
        raise CannotRunError(f"cannot be installed here: {last_line(done.stderr)}")
    marker.write_text(stamp)
    return folder


def digest_sources() -> str:
    """Digest of what our own installation is built from."""
    files = [ROOT / "pyproject.toml", *sorted((ROOT / "src").rglob("*.py"))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def installed_version(tool: str, environment: Path) -> str:
    """The version of the engine itself."""
    package = (TOOLS[tool].requirements or (OURS,))[0].partition("==")[0].partition("[")[0]
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    command = [str(environment / "bin" / "python"), "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class Command:
    """A project laid out on disk, ready to be timed again and again."""

    def __init__(self, project: Project, folder: Path, programs: Path, env: Mapping[str, str]):
        self.project = project
        self.folder = folder if project.files else ROOT
        self.log = folder.with_suffix(".log")
        self.env = env
        program, *arguments = project.command.split()
        self.words = [str(programs / program), *arguments]
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, text in project.files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)

    def run(self, stages: int) -> Sample:
        """Time the command once.

        Args:
            stages: how many lines it must add to the ledger.

        Raises:
            CannotRunError: it failed, or did something else.

        """
        before = self._ledger()
        sample, code = timed(self.words, self.folder, self.env, self.log)
        did = self._ledger() - before
        printed = self.log.read_text("utf-8", "replace")
        if code:
            raise CannotRunError(
                f"`{self.project.command}` ended with {code}: {last_line(printed)}"
            )
        if did != stages:
            raise CannotRunError(f"`{self.project.command}` ran {did} stages instead of {stages}")
        if self.project.prints not in printed:
            raise CannotRunError(f"`{self.project.command}` printed no {self.project.prints!r}")
        return sample

    def _ledger(self) -> int:
        ledger = self.folder / "ledger"
        return len(ledger.read_bytes().split()) if ledger.exists() else 0


def timed(
    words: Sequence[str], folder: Path, env: Mapping[str, str], log: Path
) -> tuple[Sample, int]:
    """Run a command to its end; return its times and its exit code (minus a signal's number).

    Its CPU seconds include those of all descendants that were waited for.
    """
    with log.open("wb") as output:
        started = time.perf_counter()
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        alarm = threading.Timer(RUN_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        alarm.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - started
        finally:
            alarm.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # nothing left behind slows the next one
    process.returncode = os.waitstatus_to_exitcode(status)
    return Sample(wall, usage.ru_utime + usage.ru_stime), process.returncode


def per_stage(short: Sample, few: int, long: Sample, many: int) -> Sample:
    """What one stage adds, from a run of few stages and one of many."""
    stages = many - few
    return Sample((long.wall - short.wall) / stages, (long.cpu - short.cpu) / stages)


class Contestant:
    """One tool in one row: its projects, and what they measured."""

    def __init__(self, row: str, tool: str, projects: Sequence[Project], work: Path) -> None:
        self.result = Result(tool)
        self.commands: list[Command] = []
        home = work / "homes" / tool
        home.mkdir(parents=True, exist_ok=True)
        with self._noting_problems():
            environment = install(tool, work)
            self.result.version = installed_version(tool, environment)
            programs = environment / "bin"
            env = {
                **OFFLINE,
                **TOOLS[tool].env,
                "HOME": str(home),
                "PATH": f"{programs}:/usr/bin:/bin",
                "LANG": "C.UTF-8",
            }
            for number, project in enumerate(projects):
                folder = work / "projects" / f"{row}-{tool}-{number}"
                self.commands.append(Command(project, folder, programs, env))
                if project.cached:
                    self.commands[-1].run(project.stages)

    def measure(self) -> None:
        """Take one sample, of two projects per stage, unless something went wrong before."""
        if self.result.problem:
            return
        with self._noting_problems():
            *short, last = [
                (one.run(0 if one.project.cached else one.project.stages), one.project.stages)
                for one in self.commands
            ]
            self.result.samples.append(per_stage(*short[0], *last) if short else last[0])

    @contextlib.contextmanager
    def _noting_problems(self) -> Iterator[None]:
        try:
            yield
        except (CannotRunError, OSError, subprocess.SubprocessError) as error:
            self.result.problem = str(error)
            self.result.samples.clear()
            say(f"{self.result.tool}: {error}")


def compete(
    row: str, projects: Mapping[str, Sequence[Project]], repeat: int, work: Path
) -> list[Result]:
    """Let the tools of a row take turns; the first turn is a warm-up and does not count."""
    contestants = [Contestant(row, tool, given, work) for tool, given in projects.items()]
    for turn in range(repeat + 1):
        for one in contestants:
            say(f"{row} {turn}/{repeat}: {one.result.tool}")
            one.measure()
            if not turn:
                one.result.samples.clear()
    return [one.result for one in contestants]


def last_line(text: str) -> str:
    """The line of a log that says most: its last error, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["it printed nothing"])[-1][:200]


def say(line: str) -> None:
    """Progress, for whoever waits."""
    print(line, file=sys.stderr, flush=True)
