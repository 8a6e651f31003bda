"""One process at a time for an endpoint, where the home's disk can tell: held by a lock file in the store."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cluster.durable import locked
from cluster.errors import UsageError
from cluster.store import Store


@contextmanager
def alone(store: Store, folder: str, endpoint: str, refusal: UsageError, *, wait: bool = False) -> Generator[None]:
    """Be the only one on this machine that holds the endpoint's lock in ``folder`` for the block.

    Raises ``refusal`` where another process holds it and this one does not ``wait``; a home elsewhere has no locks.
    """
    with ExitStack() as held:
        if store.is_local:
            try:
                held.enter_context(locked(Path(store.path(folder), f".{endpoint}.lock"), wait=wait))
            except BlockingIOError:
                raise refusal from None
        yield
