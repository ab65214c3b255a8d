"""A stage's outputs in the working tree: which files they are, and where they may be put back.

What comes out of a cache was written by somebody else, so every path is checked: nothing is read
from, linked to or written outside of the root.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from llm_twin.errors import FlowError, TwinError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llm_twin.flow.entry import FileEntry


class CacheDamaged(TwinError):
    """What a cache holds is not what was put in; it is dropped."""

    def __init__(self, what: str, where: object) -> None:
        super().__init__(what, where, "It is dropped: run the stage again")


def find_outputs(root: Path, paths: Iterable[str]) -> dict[str, Path]:
    """Return files and links by their path below the root; folders stand for all in them.

    A path through a link is named by where it leads.

    Raises:
        FlowError: a path is missing, is neither file, link nor folder, or leads out of the root.

    """
    root = Path(os.path.realpath(root))
    found: dict[str, Path] = {}
    waiting = [root / path for path in paths]
    while waiting:
        given = waiting.pop()
        real = Path(os.path.realpath(given))
        path = Path(os.path.realpath(given.parent), given.name) if given.is_symlink() else real
        if path == root or not (path.is_relative_to(root) and real.is_relative_to(root)):
            raise FlowError("an output is not inside the project", given, "Declare one that is")
        if path.is_symlink() or path.is_file():
            found[path.relative_to(root).as_posix()] = path
        elif path.is_dir():
            waiting.extend(path.iterdir())
        else:
            what = "is no file, link or folder" if path.exists() else "was not made"
            raise FlowError(f"an output {what}", given, "Make it, or declare another")
    return dict(sorted(found.items()))


def place_for(root: Path, name: str, file: FileEntry) -> Path:
    """Return where an output belongs; root must be a real path.

    Raises:
        CacheDamaged: it, the folder it is in, or what it links to is outside of the root.

    """
    path = root / name
    parts = PurePosixPath(name).parts
    ends = [path.parent, path.parent / file.target] if file.target else [path.parent]
    try:
        inside = b"\0" not in os.fsencode(name)
        inside &= all(Path(os.path.realpath(end)).is_relative_to(root) for end in ends)
    except ValueError:  # no file can be called that
        inside = False
    if not parts or ".." in parts or not inside:
        raise CacheDamaged("a cached output leads out of the project", repr(name))
    return path


def is_there(path: Path, file: FileEntry) -> bool:
    """Whether the path already is this output: content and permissions, or the link's target."""
    try:
        status = path.lstat()
        if file.target:
            return path.is_symlink() and str(path.readlink()) == file.target
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return False
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return False
    return digest == file.digest and status.st_mode & 0o777 == file.mode & 0o777


def link_target(link: Path) -> str:
    """Where a link leads, relative to its folder."""
    target = link.readlink()
    return (
        os.path.relpath(os.path.realpath(link), link.parent)
        if target.is_absolute()
        else str(target)
    )


def move(source: Path, target: Path) -> None:
    """Rename; to another file system, copy beside the target and then rename."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil

        beside = target.with_name(f".{source.name}")
        shutil.copy2(source, beside, follow_symlinks=False)
        beside.replace(target)
        source.unlink()
