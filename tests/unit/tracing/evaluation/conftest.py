"""A real store and what fills it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from traced_answers import Traced

from llm_twin.tracing.store.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def traced(store: Store) -> Traced:
    return Traced(store)
