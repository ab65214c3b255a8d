"""A run as GitHub Actions shows it: groups, annotations at the lines they are about, a summary.

Annotations are read from what ruff, mypy and pytest print, so that stages need not know where they
run. A log's own lines are never taken as commands.
"""

from __future__ import annotations

import html
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from llm_twin.flow.report import PlainReporter
from llm_twin.flow.views import PIECE, duration, last_lines, listing, plain_line, without_escapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from llm_twin.flow.records import StageRun
    from llm_twin.flow.runner import RunResult

# GitHub shows ten of each kind a step, and refuses a summary of more than 1 MiB.
MOST_ANNOTATIONS = 10
SUMMARY_BYTES = 1_000_000
SUMMARY_LINES = 30

_PYTHON = r"([^\s:][^:]{0,199}\.pyi?)"
_PLACE = re.compile(r"\s*(?:--> )?" + _PYTHON + r":(\d+)(?::(\d+)(?::\d+:\d+)?)?:?(?:\s+(.*))?$")
_SAID = re.compile(r"E(?:$|   *(.*))")
_TYPES = re.compile(r"(error|warning): (.*?)(?:  \[([\w-]+)\])?$")
_CODE = r"([A-Z]{1,5}\d{2,5}|invalid-syntax|unformatted)(?::| |$)\s*(?:\[\*\] )?(.*)"
_RULE = re.compile(_CODE)
_GROUP = re.compile(_PYTHON + ":$")
_GROUPED = re.compile(r"\s+(\d+):(\d+)\s+" + _CODE)
_WARNING = re.compile(r"((?:\w+\.)*\w*Warning): (.*)")
_TEST = re.compile(r"_{2,} (?:ERROR at \w+ of |ERROR collecting )?(.+?) _{2,}$")
_SUMMARY = re.compile(r"(?:FAILED|ERROR) (\S{1,200}?\.py)(?:::(.+?))?(?: - (.*))?$")


class GitHubReporter(PlainReporter):
    """Plain lines in which GitHub finds groups and annotations, and a job summary at the end.

    Args:
        out: where to; default: stdout.
        environ: names the summary's file and the repository; default: this process's environment.

    """

    def __init__(self, out: TextIO | None = None, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(out)
        environ = os.environ if environ is None else environ
        self.root = Path(environ.get("GITHUB_WORKSPACE") or ".").resolve()
        self.summary = environ.get("GITHUB_STEP_SUMMARY", "")
        self._token = ""

    def stage_ended(self, done: StageRun) -> None:
        super().stage_ended(done)
        if done.stage not in self.log_starts:
            return
        found = find_annotations(self._log_lines(done.stage), self.root)
        for kind in ("warning",) if done.state.good else ("error", "warning"):
            mine = [item for item in found if item.kind == kind]
            for item in mine[:MOST_ANNOTATIONS]:
                self._line(item.command())
            if (more := len(mine) - MOST_ANNOTATIONS) > 0:
                self._line(f".. {more} more {kind}s of {done.stage} are in its log only")

    def run_ended(self, result: RunResult) -> None:
        super().run_ended(result)
        if not self.summary:
            return
        path = Path(self.summary)
        room = SUMMARY_BYTES - (path.stat().st_size if path.exists() else 0)
        with path.open("a", encoding="utf-8") as file:
            for part in self._summary(result):
                room -= len(part.encode())
                if room < 0:
                    break
                file.write(part)

    def _open(self, stage: str) -> None:
        self._token = secrets.token_hex(16)
        self._line(f"::group::{_data(self._heading(stage))}")
        self._line(f"::stop-commands::{self._token}")

    def _close(self) -> None:
        self._line(f"::{self._token}::")
        self._line("::endgroup::")

    def _log_lines(self, stage: str) -> Iterator[str]:
        path = self.log_path(stage)
        if not path.exists():
            return
        with path.open("rb") as file:
            file.seek(self.log_starts[stage])
            for line in iter(lambda: file.readline(PIECE), b""):
                yield line.decode("utf-8", "replace")

    def _summary(self, result: RunResult) -> Iterator[str]:
        """The summary as Markdown, in parts that can be left out from the end."""
        took = duration(self.clock() - self.began)
        yield f"### {markdown(f'Run {result.id}: {result.state} after {took}')}\n\n"
        yield "| Stage | State | Duration | Cached | Why |\n|---|---|---|---|---|\n"
        for done in result.stages:
            cells = (
                done.stage,
                str(done.state),
                duration(done.ended - done.started) if done.started and done.ended else "",
                "yes" if done.cached else "",
                "; ".join(filter(None, (done.state.message, listing(done.why)))),
            )
            yield f"| {' | '.join(markdown(cell) for cell in cells)} |\n"
        yield "\n"
        for done in result.stages:
            start = self.log_starts.get(done.stage)
            if start is None or done.state.good:
                continue
            lines = last_lines(self.log_path(done.stage), SUMMARY_LINES, start)
            text = html.escape("\n".join(lines))
            title = html.escape(f"{done.stage}: its last lines")
            yield f"<details><summary>{title}</summary>\n\n<pre>\n{text}\n</pre>\n\n</details>\n\n"


@dataclass(frozen=True)
class Annotation:
    """Something to show at a line of a file; the file relative to the repository."""

    kind: str
    file: str
    line: str
    column: str
    title: str
    message: str

    def command(self) -> str:
        """The line that makes GitHub show it."""
        places = {"file": self.file, "line": self.line, "col": self.column, "title": self.title}
        listed = ",".join(f"{name}={_property(text)}" for name, text in places.items() if text)
        return f"::{self.kind} {listed}::{_data(self.message)}"


def find_annotations(lines: Iterable[str], root: Path) -> list[Annotation]:
    """Errors and warnings in the output of ruff, mypy and pytest, each once.

    Args:
        lines: what they printed, colours or not.
        root: the repository; what is outside it cannot be shown.

    """
    reader = _Reader(root)
    for line in lines:
        reader.read(line)
    reader.end_test()
    return list(dict.fromkeys(reader.found))


@dataclass
class _Reader:
    """Reads output line by line; some messages stand before their place, some after."""

    root: Path
    found: list[Annotation] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    before: str = ""
    group: str = ""
    test: str = ""
    place: tuple[str, str] = ("", "")
    said: list[str] = field(default_factory=list)
    located: set[str] = field(default_factory=set)

    def read(self, line: str) -> None:
        line = without_escapes(line).rstrip()
        if match := _TEST.match(line):
            self.end_test()
            self.test = match[1]
        elif line.startswith(("=====", "-----")):
            self.end_test()
        elif match := _SAID.match(line):
            self.said = [*(self.said if _SAID.match(self.before) else []), match[1] or ""]
        elif self.group and (match := _GROUPED.match(line)):
            row, column, code, message = match.groups()
            self._add("error", self.group, row, column, code, message)
        elif match := _SUMMARY.match(line):
            self._failed(*match.groups())
        elif ".py" in line and (match := _PLACE.match(line)):
            self._place(self._file(match[1]), match[2], match[3] or "", match[4] or "")
        elif not line.startswith(" "):
            match = _GROUP.match(line)
            self.group = self._file(match[1]) if match else ""
        self.before = line

    def end_test(self) -> None:
        """Tell what a test said, at the last of its places in the repository."""
        if self.test and self.said and self.place[0]:
            self._add("error", *self.place, "", self.test, "\n".join(filter(None, self.said)))
            self.located.add(self.test)
        self.test, self.place, self.said = "", ("", ""), []

    def _place(self, file: str, row: str, column: str, rest: str) -> None:
        if not file:
            return
        if match := _TYPES.match(rest):
            self._add(match[1], file, row, column, match[3] or "", match[2])
        elif match := _RULE.match(rest or self.before):
            self._add("error", file, row, column, match[1], match[2])
        elif match := _WARNING.match(rest):
            self._add("warning", file, row, column, match[1], match[2])
        else:
            self.place = (file, row)

    def _failed(self, path: str, test: str | None, message: str | None) -> None:
        """A line of pytest's summary; most were told already, with the line they are about."""
        name = (test or path).replace("::", ".")
        if name not in self.located and (file := self._file(path)):
            self._add("error", file, "", "", name, message or "failed")

    def _file(self, name: str) -> str:
        """A file of the repository, relative to it; "" for anything else."""
        if name not in self.files:
            path = Path(os.path.normpath(self.root / name))
            mine = path.is_file() and path.is_relative_to(self.root)
            self.files[name] = path.relative_to(self.root).as_posix() if mine else ""
        return self.files[name]

    def _add(self, *values: str) -> None:
        self.found.append(Annotation(*values))


def markdown(text: str) -> str:
    """Any text as plain text in one cell of a table."""
    return re.sub(r"[^\w .,;()/=%+-]|_", lambda m: f"&#{ord(m[0])};", plain_line(text))


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
