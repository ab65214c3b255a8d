"""Every error a user can meet, as one tree.

::

    TwinError                 the task said no; exit code 1
    ├── UserError             your input or settings are wrong; exit code 2, nothing was written
    │   ├── CorpusError       a path, document or feed cannot be read as a corpus
    │   ├── ConfigError       a setting has a value that cannot be used
    │   ├── BusyError         another process holds what this one needs
    │   ├── SpaceError        the disk is full or the state folder cannot be written
    │   ├── NotReadyError     something has to be made first (a twin, a run, torch)
    │   └── FlowError         stages that do not fit together, or a name that is not a stage
    └── RemoteError           a server that was asked did not answer as it should

A message is one line: what happened, where, and what to type next.
"""

from __future__ import annotations


class TwinError(Exception):
    """The task could not be done.

    Args:
        what: what happened, as a sentence without its full stop.
        where: the path, line, setting or address it happened at.
        hint: what to type or change next.

    """

    exit_code = 1

    def __init__(self, what: str, where: object = "", hint: str = "") -> None:
        super().__init__(what, where, hint)
        self.what = what
        self.where = str(where)
        self.hint = hint

    def __str__(self) -> str:
        message = f"{self.what}: {self.where}" if self.where else self.what
        if self.hint:
            message = f"{message}. {self.hint}"
        return " ".join(message.split())


class UserError(TwinError):
    """Your input or settings are wrong; nothing was written."""

    exit_code = 2


class CorpusError(UserError):
    """A path, document or feed cannot be read as a corpus."""


class ConfigError(UserError):
    """A setting has a value that cannot be used."""


class BusyError(UserError):
    """Another process holds what this one needs."""


class SpaceError(UserError):
    """The disk is full, or the state folder cannot be written."""


class NotReadyError(UserError):
    """Something has to be made first: a twin, a run, torch."""


class FlowError(UserError):
    """Stages do not fit together, or a name is not a stage."""


class RemoteError(TwinError):
    """A server that was asked did not answer as it should."""
