"""Which watched files changed: settled differences become events, in the order they were seen.

A look compares contents with those at the last event, so what changed while nobody looked counts.
"""

from __future__ import annotations

import sys
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from llm_twin.flow.automation.ledger import emit, last_event
from llm_twin.flow.automation.triggers import FilesChanged
from llm_twin.flow.files import Files

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable

    from llm_twin.flow.automation.triggers import Trigger
    from llm_twin.flow.store import Store

LOOK_SECONDS = 5.0
WILD = set("*?[")
Contents = dict[str, str]


class Watch:
    """Looks at the files that triggers name; ``moved`` says that there is something to look at."""

    def __init__(self, triggers: Iterable[Trigger], root: Path) -> None:
        inner = (getattr(trigger, "of", trigger) for trigger in triggers)
        self.triggers = {str(found): found for found in inner if isinstance(found, FilesChanged)}
        self.root = root.absolute()
        self.moved = bool(self.triggers)
        self.moving: dict[str, tuple[Contents, float]] = {}

    def next_look(self) -> float | None:
        """When something that moves will have settled if it moves no more."""
        return min(
            (since + self.triggers[name].settle for name, (_, since) in self.moving.items()),
            default=None,
        )

    def look(self, store: Store, now: float) -> None:
        """Record what changed and has settled; the first look at files only remembers them."""
        if not self.moved and not self.moving:
            return
        self.moved = False
        files = Files(store.db)
        for name, trigger in self.triggers.items():
            self._look_at(store, name, trigger, self._contents(files, trigger), now)
        files.save()

    def _look_at(
        self, store: Store, name: str, trigger: FilesChanged, contents: Contents, now: float
    ) -> None:
        last = last_event(store, "contents", name)
        if last and contents == last.data:
            self.moving.pop(name, None)
            return
        seen, since = self.moving.get(name, (None, now))
        if seen != contents:
            since = now
            self.moving[name] = (contents, now)
        if last and now - since < trigger.settle:
            return
        del self.moving[name]
        with store.transaction() as db:
            db.execute("DELETE FROM event WHERE kind = 'contents' AND name = ?", (name,))
            emit(store, name, contents, kind="contents", at=now)
            if last:
                both = sorted(contents.keys() | last.data.keys())
                changed = [path for path in both if contents.get(path) != last.data.get(path)]
                key = f"files:{last.id}:{name}"
                emit(store, name, {"changed": changed}, kind="files", key=key, at=now)

    def _contents(self, files: Files, trigger: FilesChanged) -> Contents:
        root = str(self.root)
        paths = {path for pattern in trigger.patterns for path in files.match(root, pattern)}
        return {
            path.removeprefix(f"{root}/"): files.digest(path)
            for path in sorted(paths)
            if Path(path).is_file()
        }

    def folders(self, deep: bool) -> dict[Path, int]:
        """The folders to watch, with or without those below them, and which inode each is.

        One that is not there yet is stood in for by the nearest that is.
        """
        found = {}
        for pattern in (one for trigger in self.triggers.values() for one in trigger.patterns):
            *parts, _ = pattern.split("/")
            plain = list(takewhile(lambda part: not set(part) & WILD, parts))
            folder = self.root.joinpath(*plain)
            there = next(path for path in (folder, *folder.parents) if path.is_dir())
            if deep == (there == folder and len(plain) < len(parts)):
                found[there] = there.stat().st_ino
        return found

    def follow(self, deep: bool, stop: threading.Event, wake: Callable[[], None]) -> None:
        """Say that files moved whenever the system says so, until stopped."""
        told = ""
        while not stop.is_set():
            try:
                if folders := self.folders(deep):
                    self._listen(folders, deep, stop, wake)
                    continue
            except (OSError, RuntimeError) as error:
                # No notifications to be had: look every few seconds instead.
                if str(error) != told:
                    told = str(error)
                    print(f"warning: files are looked at, not watched: {told}", file=sys.stderr)
                self._tell(wake)
            stop.wait(LOOK_SECONDS)

    def _listen(
        self, folders: dict[Path, int], deep: bool, stop: threading.Event, wake: Callable[[], None]
    ) -> None:
        """Until stopped, or until folders came, went or were replaced."""
        from watchfiles import watch

        changes = watch(
            *folders,
            watch_filter=None,
            recursive=deep,
            stop_event=stop,
            step=200,
            rust_timeout=int(LOOK_SECONDS * 1000),
            yield_on_timeout=True,
        )
        for number, seen in enumerate(changes):
            # The first time also without changes: some may have come before it was listening.
            if seen or number == 0:
                self._tell(wake)
            if self.folders(deep) != folders:
                return

    def _tell(self, wake: Callable[[], None]) -> None:
        self.moved = True
        wake()
