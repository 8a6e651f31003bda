"""A search's storage that fails → one error that says how to go on.

A study's database may be lost, its file locked or the disk full in any handler that Tune calls. Tune takes such an
error for the trial's, logs its traceback, or wraps it in one that only holds a traceback
(ray/tune/execution/tune_controller.py, Ray 2.60). So ours are kept for the thread that waits, and what happened is
found again in the chain of causes. Errors that are not the storage's are left as they are: those are ours.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from cluster.errors import HoneError, StoreError

FAULTS = (StoreError, SQLAlchemyError, StorageInternalError)
MAX_CHARACTERS = 200


@contextmanager
def storage_faults_named(run: str) -> Generator[None]:
    """Turn a failure of the search's storage under the block, however wrapped, into a StoreError that names the way on.

    Raises everything else as it is, and a StoreError that says it already.
    """
    try:
        yield
    except Exception as error:
        fault = storage_fault(error)
        if fault is None or (isinstance(error, HoneError) and _is_told(error, run)):
            raise
        raise StoreError(f"the search lost its storage: {reason(fault)}", _remedy(fault, run)) from error


def go_on(run: str) -> str:
    """Return the command that goes on with a run."""
    return f"hone resume {run}"


def _is_told(error: HoneError, run: str) -> bool:
    """Return whether an error of ours is about something else, or says the way on already."""
    return not isinstance(error, StoreError) or go_on(run) in error.remedy


def storage_fault(error: BaseException) -> BaseException | None:
    """Return the outermost failure of a storage among an error and those behind it; None where there is none."""
    return next((one for one in _chain(error) if isinstance(one, FAULTS) or _is_of_disk(one)), None)


def reason(fault: BaseException) -> str:
    """Return what a storage said, in one line."""
    if isinstance(fault, StoreError):
        return fault.what
    said = next((str(one) for one in _chain(fault) if isinstance(one, SQLAlchemyError)), str(fault))
    return f"{type(fault).__name__}: {(said.strip().splitlines() or [''])[0][:MAX_CHARACTERS]}"


def _remedy(fault: BaseException, run: str) -> str:
    first = fault.remedy if isinstance(fault, StoreError) and fault.remedy else "Bring the storage back."
    return f"{first} Nothing that was tried is lost: {go_on(run)}"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, or while handling them."""
    seen: list[BaseException] = []
    here: BaseException | None = error
    while here is not None and not any(here is one for one in seen):
        seen.append(here)
        yield here
        here = here.__cause__ or here.__context__


def _is_of_disk(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.filename is not None and not isinstance(error, ConnectionError)


class FirstFault:
    """The first error of whatever works beside a search's own thread, for that thread to raise."""

    def __init__(self) -> None:
        self._error: BaseException | None = None

    @property
    def happened(self) -> bool:
        """Whether the search has failed, so that nothing more shall be written down of its trials."""
        return self._error is not None

    def keep(self, error: BaseException) -> None:
        """Remember an error, unless there was one before."""
        self._error = self._error or error

    @contextmanager
    def kept(self) -> Generator[None]:
        """Keep an error of the block instead of raising it where it would go unseen, or become a trial's failure."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 (raised again in the search's thread)
            self.keep(error)

    def raise_it(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error
