"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from llm_twin.retrieval.minilm import MiniLM
from llm_twin.retrieval.weights import SHA256, is_ready
from llm_twin.settings import Settings

ROOT = Path(__file__).parents[1]


def refused_skips(reports: Iterable[pytest.TestReport]) -> list[pytest.TestReport]:
    """Skipped tests that fail the run: those whose reason is not that a part is missing.

    A laptop may lack a container engine or root (``needs …``); ``TWIN_ALL_TESTS`` says that this
    machine has all but what users may do without (``optional: …``).
    """
    allowed = ["optional: "] if os.environ.get("TWIN_ALL_TESTS") else ["optional: ", "needs "]
    return [one for one in reports if not any(word in str(one.longrepr) for word in allowed)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the tests that were skipped: a part that was not run is not tested."""
    for report in refused_skips(terminalreporter.stats.get("skipped", [])):
        terminalreporter.write_line(f"not allowed to be skipped: {report.nodeid}", red=True)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run in which a test was skipped; tests left out with -m are not collected."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    if refused_skips(skipped) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def embedder_home() -> Path:
    """The folder with MiniLM's weights; tests never fetch them."""
    home = Path(os.environ.get("TWIN_EMBEDDER_HOME") or ROOT / ".twin" / "embedder").absolute()
    if not is_ready(home) and not all((home / name).is_file() for name in SHA256):
        pytest.fail(
            f"MiniLM's weights are not in {home}. Run: python -m llm_twin.retrieval.weights "
            "(in the repository's root), or set TWIN_EMBEDDER_HOME",
            pytrace=False,
        )
    return home


@pytest.fixture(scope="session")
def minilm(embedder_home: Path) -> MiniLM:
    """The real embedder, opened once."""
    return MiniLM.open(Settings(home=ROOT / ".twin", embedder_home=embedder_home), print)
