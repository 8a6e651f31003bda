"""Local files that are on the disk when we say so or held by one process, and the disk's refusals in words.

A rename is only as good as the bytes behind it: contents are synced before a name is given, and the directory after.
A disk that is full is told apart from every other failure, because the remedy differs and because libraries wrap it
in exceptions of their own.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from cluster.errors import HoneError, StoreError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def sync(path: Path) -> None:
    """Wait until the file or directory ``path`` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Wait until every file and directory below ``directory``, and itself, is on the disk."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            sync(Path(folder, name))
        sync(Path(folder))


def replace_file(target: Path, content: bytes) -> None:
    """Give ``target`` the ``content`` in one piece: a reader sees the old or the new, after a power cut too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{uuid.uuid4().hex}")
    try:
        aside.write_bytes(content)
        sync(aside)
        aside.replace(target)
    finally:
        aside.unlink(missing_ok=True)
    sync(target.parent)


def append_whole(file: IO[bytes], line: bytes, size_bytes: int) -> int:
    """Write a line at the end of an unbuffered file, or none of it where the disk is full; return its new size."""
    try:
        written = file.write(line)
        if written != len(line):
            raise OSError(None, "No space left on device")
    except OSError:
        os.ftruncate(file.fileno(), size_bytes)
        raise
    return size_bytes + len(line)


def discard(target: Path, aside: Path) -> None:
    """Remove ``target``; a directory first leaves its name, for one in ``aside``, so that no half of it can be read."""
    if target.is_symlink() or not target.is_dir():
        target.unlink()
        return
    aside.mkdir(parents=True, exist_ok=True)
    doomed = aside / uuid.uuid4().hex
    target.replace(doomed)
    shutil.rmtree(doomed)


@contextmanager
def locked(lock: Path, *, wait: bool = True) -> Generator[None]:
    """Hold the file ``lock``, made where there is none, against this machine's other processes for the block.

    Raises BlockingIOError where another one holds it and this one does not ``wait``, StoreError where its directory
    cannot be written.
    """
    with ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            held = stack.enter_context(lock.open("w"))
            fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError as error:
            raise StoreError(
                f"{lock.parent} cannot be written: {error.strerror}", "Set HONE_HOME to another place."
            ) from error
        yield


@contextmanager
def full_disk_named(where: str, scratch: Path) -> Generator[None]:
    """Turn a full disk under the block, however a library words it, into a StoreError with what is free and needed."""
    try:
        yield
    except HoneError:
        raise
    except Exception as error:
        if not _is_full_disk(error):
            raise
        raise _full_disk(where, scratch) from error


@contextmanager
def storage_errors(where: str, scratch: Path | None = None) -> Generator[None]:
    """Turn every failure of the storage under the block into a StoreError that names ``where``.

    Remote storage fails with its vendor's own exception types, so all are taken; only our own errors pass.
    """
    try:
        yield
    except HoneError:
        raise
    except Exception as error:
        if _is_full_disk(error):
            raise _full_disk(where, scratch) from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise StoreError(
            f"the storage refused {where}: {reason}", "Check its permissions and that it is reachable."
        ) from error


def _is_full_disk(error: Exception) -> bool:
    named = isinstance(error, OSError) and error.errno in NO_SPACE
    return named or "No space left on device" in str(error)


def _full_disk(where: str, scratch: Path | None) -> StoreError:
    remedy = "Free space there, or set HONE_HOME to another disk."
    if scratch is None:
        return StoreError(f"the disk is full: {where} could not be written", remedy)
    written_bytes = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
    free_bytes = shutil.disk_usage(scratch).free
    what = f"the disk is full: {where} had {written_bytes:,} bytes when it ran out, {free_bytes:,} bytes are free"
    return StoreError(what, remedy)
