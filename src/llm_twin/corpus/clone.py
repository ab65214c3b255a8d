"""A repository somewhere else: cloned shallow into the state folder, refreshed when it moves."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_twin.corpus.cache import EXTRACTOR
from llm_twin.corpus.document import content_id
from llm_twin.corpus.files import Files
from llm_twin.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

    from llm_twin.corpus.cache import DocumentCache
    from llm_twin.corpus.ports import Collected, Progress

TIMEOUT = 300


@dataclass(frozen=True)
class Clone:
    """A source in a Git repository that is reached by address.

    Attributes:
        spec: the address.
        name: a short label.
        folder: where it is cloned to.
        max_mb: the largest document read, in MiB.
        exclude: patterns of relative paths to leave out.

    """

    spec: str
    name: str
    folder: Path
    max_mb: int
    exclude: tuple[str, ...] = ()

    def check(self) -> None:
        """Raise CorpusError when the repository does not answer or has no commit."""
        self._head()

    def files(self) -> list[Path]:
        """None: everything is remote."""
        return []

    def revision(self) -> str:
        """Return a digest of the address and the commit its HEAD is at."""
        return content_id(EXTRACTOR, self.spec, self._head(), length=32)

    def read(self, cache: DocumentCache | None, progress: Progress) -> Collected:
        """Clone or refresh the repository, then read its work tree."""
        progress(f"fetching {self.spec}")
        if (self.folder / ".git").is_dir():
            self._git("-C", str(self.folder), "fetch", "--depth=1", "--quiet", "origin", "HEAD")
            self._git("-C", str(self.folder), "reset", "--hard", "--quiet", "FETCH_HEAD")
        else:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self._git("clone", "--depth=1", "--quiet", "--", self.spec, str(self.folder))
        tree = Files(
            spec=self.spec,
            name=self.name,
            root=self.folder,
            max_mb=self.max_mb,
            exclude=self.exclude,
            repository=True,
            base=_web_address(self.spec),
        )
        return tree.read(cache, progress)

    def _head(self) -> str:
        answer = self._git("ls-remote", "--", self.spec, "HEAD").split()
        if not answer:
            raise CorpusError("the repository has no commit", self.spec, "Push one first")
        return answer[0]

    def _git(self, *arguments: str) -> str:
        environment = {
            **os.environ,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        }
        try:
            done = subprocess.run(
                ["git", *arguments],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                env=environment,
                check=False,
            )
        except FileNotFoundError:
            raise CorpusError("git is not installed", self.spec, "Install git") from None
        except subprocess.TimeoutExpired:
            raise CorpusError("git got no answer", self.spec, "Check the address") from None
        if done.returncode:
            said = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise CorpusError(
                f"the repository cannot be fetched ({said})",
                self.spec,
                f"Check that this works: git ls-remote {self.spec}",
            )
        return done.stdout


def _web_address(spec: str) -> str:
    """Return where a hosted repository shows its files, or "" when that is not known."""
    found = re.match(r"https://(github|gitlab)\.com/([\w.-]+/[\w.-]+?)(\.git)?/?$", spec)
    return f"https://{found.group(1)}.com/{found.group(2)}/blob/HEAD/" if found else ""
