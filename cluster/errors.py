"""Every error a user can see, each with what happened, the value seen and the remedy.

One shape for all of them, so that the command line prints a few lines and picks the exit code without knowing the
cause. They cross process borders (Ray workers, Tune trials), so each one is rebuilt from plain fields by pickle.
A broken invariant of ours is an ``assert``, never one of these.
"""

from __future__ import annotations

from typing import ClassVar


class HoneError(Exception):
    """Base of the errors shown to a user: what happened, where, and what to change.

    ``what`` names the fact with the value seen, ``remedy`` the next thing to do; ``where`` is a file, file:line or
    job-file key when there is one.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, remedy: str = "", where: str = "") -> None:
        super().__init__(what, remedy, where)
        self.what = what
        self.remedy = remedy
        self.where = where

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}\n  → {self.remedy}" if self.remedy else head


class JobFileError(HoneError):
    """The job file, or an override of it, is wrong."""

    exit_code = 2


class UsageError(HoneError):
    """The command's arguments name something that is not there or not allowed."""

    exit_code = 2


class HeadSilent(UsageError):
    """The head of a cluster does not answer, or was lost."""


class DataError(HoneError):
    """The user's data cannot be used as it is."""

    exit_code = 2


class BaseModelError(HoneError):
    """The base model is missing, unsafe to load, or does not fit what the job asks of it."""

    exit_code = 2


class CapacityError(HoneError):
    """The job cannot fit what the cluster has."""

    exit_code = 4


class RunFailed(HoneError):
    """The run ended without a release: diverged, lost its workers, or its release failed the reload check."""


class StoreError(HoneError):
    """An artifact is missing, incomplete or damaged."""


class RowsRefused(StoreError):
    """A database that answers does not take these rows, and never will."""


class RunStopped(HoneError):
    """The run ended early because someone asked it to, with a checkpoint to go on from."""

    exit_code = 130


class BudgetSpent(RunStopped):
    """The run ended early because its time or money was used up, with a checkpoint to go on from."""

    exit_code = 1


class RequestRefused(HoneError):
    """A request to a served model asks for something outside its bounds."""

    exit_code = 2


class Overloaded(HoneError):
    """More requests wait for a served model than may; the same request may succeed a little later."""


class NotServing(HoneError):
    """A served model takes no requests now: it is being drained, was closed, or is broken."""


class GenerationFailed(HoneError):
    """A served model could not finish an answer that it had begun."""
