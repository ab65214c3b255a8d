"""What the flow's tests share: a project folder, a registry, and a reporter that remembers."""

import pytest

from llm_twin.flow import Registry
from llm_twin.flow.runner import Runner


class Remembering:
    """A reporter that keeps what it was told, as (event, arguments)."""

    def __init__(self):
        self.events = []

    def __getattr__(self, event):
        if event.startswith("__"):
            raise AttributeError(event)
        return lambda *told: self.events.append((event, *told)) if event != "tick" else None

    def of(self, event):
        return [told[1:] for told in self.events if told[0] == event]

    def states(self):
        return {done.stage: str(done.state) for (done,) in self.of("stage_ended")}

    def notes(self):
        return [text for (text,) in self.of("note")]


@pytest.fixture
def told():
    return Remembering()


@pytest.fixture
def registry():
    return Registry()


@pytest.fixture
def home(tmp_path):
    return tmp_path / ".twin"


@pytest.fixture
def runner(registry, tmp_path, home, told):
    return Runner(registry, tmp_path, home, told, jobs=2)
