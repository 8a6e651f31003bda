"""Rows → what reading and comparing all their texts shows, while other work goes on: hashes, near-duplicates, findings.

Tokenising needs none of this and takes about as long. So where rows are many, a second process looks at them: it opens
the files they lie in and sends back what it found, the same as this process would have found. Few rows are looked at
when the result is asked for, since a process takes a second to start. Left out: findings that need splits or tokens.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cluster.errors import RunFailed
from trainers.audit_evidence import Evidence
from trainers.audit_languages import language_evidence
from trainers.audit_text import text_evidence
from trainers.duplicates import NearTexts, RowHashes, row_hashes
from trainers.minhash import NearPairs, near_duplicate_pairs

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from cluster.spec import AuditSpec
    from trainers.rows import Row

MANY_ROWS = 20_000


class FirstLook(NamedTuple):
    """The hashes of all rows, the pairs of them that are nearly the same, and what their texts show."""

    hashes: RowHashes
    near: NearPairs
    texts: list[Evidence]


def first_look(
    rows: Sequence[Row], spec: AuditSpec, special_tokens: Collection[str] = (), scratch: Path | None = None
) -> FirstLook:
    """Look at the rows here and now; what is too large for memory lies in ``scratch``."""
    near = near_duplicate_pairs(NearTexts(rows), spec.near_similarity, scratch=scratch)
    return FirstLook(row_hashes(rows), near, texts_evidence(rows, spec.language_frac, special_tokens))


def texts_evidence(rows: Sequence[Row], language_frac: float, special_tokens: Collection[str] = ()) -> list[Evidence]:
    """Return every finding about texts alone."""
    return [*text_evidence(rows, special_tokens), *language_evidence(rows, language_frac)]


@contextmanager
def looking(
    rows: Sequence[Row], spec: AuditSpec, special_tokens: Collection[str], scratch: Path, many_rows: int = MANY_ROWS
) -> Generator[Callable[[], FirstLook]]:
    """Begin to look at the rows, from ``many_rows`` on in a second process, and hand over what waits for the result.

    Raises RunFailed there where that process was killed; it ends with the context.
    """
    if len(rows) < many_rows or (os.cpu_count() or 1) < 2:
        yield partial(first_look, rows, spec, special_tokens, scratch)
        return
    context = get_context("spawn")  # a fork would copy the threads' locks
    ours, theirs = context.Pipe()
    looker = context.Process(target=_look_and_send, args=(theirs,), daemon=True)
    looker.start()
    theirs.close()
    try:
        # Not as arguments: writing those waits for ever where the process dies before it has read them.
        with suppress(BrokenPipeError, ConnectionResetError):
            ours.send((rows, spec, special_tokens, scratch))
        yield partial(_received, ours.recv, looker)
    finally:
        looker.terminate()
        looker.join()
        ours.close()


def _look_and_send(first_process: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # nobody waits for it any more
        first_process.send(first_look(*first_process.recv()))


def _received(receive: Callable[[], FirstLook], looker: BaseProcess) -> FirstLook:
    try:
        return receive()
    except (EOFError, ConnectionResetError) as error:
        looker.join()
        raise RunFailed(
            f"the process that audits the rows ended early, with exit code {looker.exitcode}",
            "give the machine more memory (-9 is what the system does without), or see what it said above",
        ) from error
