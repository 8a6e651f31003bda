"""An endpoint now → the numbers that a condition of `hone watch` may speak of; None for what cannot be said yet.

- ``drift``: how well live prompts and training rows can be told apart (``serving.drift``), 0.5 while that is not
  flagged: the estimate of a few prompts is no drift, and looking often must not make it one.
- ``outcome``: the mean outcome of the last requests that the main arm's release answered; ``champion``: of its first
  ones. Both are undecided below ``LEAST_JUDGED`` judged requests. A false alarm costs one child, which its gate judges.
- ``new_rows``: of the rows that a child would have now, before its audit, those that users gave since the last
  retraining: within the bounds on single users, and neither known to the parent nor among its tests. Otherwise a watch
  would act on rows that `hone retrain` then refuses as too few.
- ``since_s``: seconds since the last retraining began, or since the endpoint was first served.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from cluster.errors import UsageError
from cluster.store import Store
from serving.conditions import SINCE
from serving.feedback_bounds import bounded
from serving.feedback_rows import FeedbackRow, feedback_rows
from serving.ledger import Ledger
from serving.material import Known, unknown
from serving.parent import main_arm, parent_of
from serving.retrain import outcome_of

if TYPE_CHECKING:
    from cluster.session import Settings
    from serving.endpoint import Endpoint
    from serving.retraining import Retraining

WINDOW, LEAST_JUDGED = 200, 100
NO_DRIFT = 0.5


class KnownOnce:
    """What a parent's rows say of prompts; they are read again only for another parent, or prompts not asked before."""

    def __init__(self) -> None:
        self._asked: tuple[str, str | None, set[str]] | None = None
        self._known = Known({}, {})

    def of(self, endpoint: Endpoint, store: Store, prompts: set[str]) -> Known:
        """Return what the rows of the endpoint's parent say. Raises UsageError where it can have no child."""
        arm = endpoint.arms[main_arm(endpoint)]
        parent = (arm.directory, arm.version)
        if self._asked is None or self._asked[:2] != parent or not prompts <= self._asked[2]:
            self._known = Known.of(parent_of(endpoint, store), prompts)
            self._asked = (*parent, prompts)
        return self._known


def facts_of(
    endpoint: Endpoint,
    past: Sequence[Retraining],
    terms: set[str],
    settings: Settings,
    now_s: float,
    known: KnownOnce,
    *,
    keep: bool,
) -> tuple[dict[str, float | None], list[str]]:
    """Return what the ``terms`` are worth now, and why some are not known; ``keep`` what the look at drift found.

    Raises StoreError.
    """
    since_s = past[-1].started_s if past else 0.0
    found: dict[str, float | None] = {SINCE: now_s - (since_s or endpoint.history[0].time_s)}
    notes: list[str] = []
    if "drift" in terms:
        found["drift"], note = _drift(endpoint.name, settings, now_s, keep=keep)
        notes += [f"drift: {note}"] if note else []
    with closing(Ledger.open(settings)) as ledger:
        if "outcome" in terms or "champion" in terms:
            found["outcome"], found["champion"] = _outcomes(endpoint, ledger)
        if "new_rows" in terms:
            found["new_rows"], note = _new_rows(endpoint, ledger, Store(settings.home), since_s, known)
            notes += [f"new_rows: {note}"] if note else []
    return found, notes


def _drift(name: str, settings: Settings, now_s: float, *, keep: bool) -> tuple[float | None, str]:
    from serving.drift import look

    try:
        report = look(name, settings, now_s, keep=keep)
    except UsageError as error:
        return None, error.what
    if report.drift is None:
        return None, report.reason
    return (report.drift if report.flagged else NO_DRIFT), ""


def _outcomes(endpoint: Endpoint, ledger: Ledger) -> tuple[float | None, float | None]:
    """Return the mean of the last and of the first outcomes of the main arm's release."""
    arm, outcome = main_arm(endpoint), outcome_of(endpoint)
    began_s = serving_since_s(endpoint, arm)
    last: dict[str, tuple[float, float]] = {}
    for exposure, said in ledger.judged(endpoint.name, began_s):
        is_own = exposure.arm == arm and exposure.time_s >= began_s and not exposure.forced
        if is_own and said.name == outcome and said.value is not None:
            last[exposure.request] = (exposure.time_s, said.value)
    values = [value for _, value in sorted(last.values())]
    if len(values) < LEAST_JUDGED:
        return None, None
    size = min(WINDOW, len(values) // 2)
    return sum(values[-size:]) / size, sum(values[:size]) / size


def serving_since_s(endpoint: Endpoint, arm: str) -> float:
    """Return since when an arm serves what it serves now, as far as the history reaches."""
    now = endpoint.arms[arm].version or endpoint.arms[arm].directory
    since_s = endpoint.history[-1].time_s
    for change in reversed(endpoint.history):
        if change.releases.get(arm) != now:
            break
        since_s = change.time_s
    return since_s


def _new_rows(
    endpoint: Endpoint, ledger: Ledger, store: Store, since_s: float, known: KnownOnce
) -> tuple[float | None, str]:
    """Return how many rows there are, and why that is not known.

    All that was ever said is bounded together, as for a child: what is new may contradict what is older.
    """
    if since_s and not _said(endpoint, ledger, since_s):
        return 0.0, ""
    spec = endpoint.retrain
    within, _ = bounded(_said(endpoint, ledger, 0.0), spec.max_rows_per_unit, spec.max_unit_frac)
    fresh = [row for row in within if row.time_s >= since_s]
    if not fresh:
        return 0.0, ""
    try:
        new, _ = unknown(fresh, known.of(endpoint, store, {row.prompt for row in fresh}))
    except UsageError as error:
        return None, error.what
    return float(len(new)), ""


def _said(endpoint: Endpoint, ledger: Ledger, since_s: float) -> list[FeedbackRow]:
    judged = ledger.judged(endpoint.name, since_s)
    return feedback_rows(judged, outcome_of(endpoint), confirmed=endpoint.retrain.confirmed)[0]
