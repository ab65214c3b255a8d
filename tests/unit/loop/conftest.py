"""What the tests of lineage and forgetting share."""

from __future__ import annotations

from pathlib import Path

import pytest
from recorded import SUBJECTS, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """A twin that was trained once on five documents of two authors."""
    made = Scene(tmp_path)
    for name in SUBJECTS:
        made.write(name, author="Ada  Heron" if name in ("heron", "glass") else "Bo")
    made.chunks = made.train("v1")
    return made


@pytest.fixture
def full(scene: Scene) -> Scene:
    """The same with everything in it that a text may get into."""
    scene.fill_caches(scene.chunks)
    for name in ("heron", "bees"):
        scene.answer(name, "v1", scene.chunk_of(scene.chunks, name))
    scene.deploy("v1")
    return scene
