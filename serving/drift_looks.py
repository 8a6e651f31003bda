"""The keeper's looks at drift: in a thread of their own, every few minutes, for the gauges and the console.

A look takes about a second of one processor (5,000 rows, measured), so between two of them lie five minutes, or a
hundred times what one took. What keeps it from looking is said once, and tried again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cluster.errors import HoneError

if TYPE_CHECKING:
    from cluster.progress import Progress
    from serving.drift_report import DriftReport

EVERY_S, REST = 300.0, 100
FIRST_S = 60.0
CLOSING_S = 5.0


@contextmanager
def looking(
    look: Callable[[], DriftReport], progress: Progress, first_s: float = FIRST_S, every_s: float = EVERY_S
) -> Generator[None]:
    """Look again and again for the block; drift that is found is said when it is."""
    ended = threading.Event()
    thread = threading.Thread(target=_keep_looking, args=(look, progress, ended, first_s, every_s), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(CLOSING_S)


def _keep_looking(
    look: Callable[[], DriftReport], progress: Progress, ended: threading.Event, first_s: float, every_s: float
) -> None:
    rest_s, told = first_s, ""
    while not ended.wait(rest_s):
        began_s = time.monotonic()
        said = _said(look)
        if said not in ("", told) and not ended.is_set():
            progress.say(said)
        told = said
        rest_s = max(every_s, REST * (time.monotonic() - began_s))


def _said(look: Callable[[], DriftReport]) -> str:
    """Look once, and return what a person should know."""
    try:
        found = look()
    except HoneError as error:
        return f"drift cannot be looked at: {error.what}"
    except Exception as error:  # noqa: BLE001 (whatever it is, the endpoint answers on)
        return f"drift cannot be looked at: {type(error).__name__}: {error}"
    return f"{found.endpoint}: {found.reason}; see hone drift {found.endpoint}" if found.flagged else ""
