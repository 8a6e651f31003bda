"""An endpoint's live prompts against its release's own training set: a look, its report, and what it remembers.

The reference is the experiment's control while it has traffic, else the arm with the largest weight. What
a look has tested is kept in the store (``drift/ENDPOINT/SKETCH.json``), so that each live row is used once however
often and from wherever one looks; the last report lies beside it for the console and the gauges.

Left out: acting on what is found (``hone watch``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from hashlib import sha256
from pathlib import Path

import numpy as np
from pydantic import Field, ValidationError

from cluster.durable import locked
from cluster.errors import StoreError
from cluster.records import Interval, Record
from cluster.session import Settings
from cluster.sketch import Sketch
from cluster.store import Store
from cluster.token_features import Tokens
from serving import endpoint as endpoints
from serving.drift_judge import Rows
from serving.drift_report import DriftReport
from serving.drift_sides import Sides
from serving.drift_test import BATCH, LEAST_REFERENCE, WINDOW, Course, Live, Pass, is_enough, play
from serving.drift_words import rates_of, terms_between
from serving.endpoint import Arm, Endpoint
from serving.first_weeks import Watched, failures, judged, outcome_name, watched
from serving.ledger import Ledger
from serving.live_prompts import LivePrompt, Measure, newest_by_unit
from serving.new_classes import answers_given, new_classes
from serving.two_sample import cross_fitted_auc

DRIFT, LATEST = "drift", "latest.json"
MOST_READ = 5000
LATE_S = 5.0
"""Rows reach the ledger a little after their request has ended."""


class Remembered(Record):
    """What earlier looks at one endpoint and one release have tested and found."""

    test: Pass | None = Field(default=None, description="None before the first prompt")
    found_s: float | None = Field(default=None, description="the row at which drift was found")
    outcome: Watched
    errors: Watched


def look(endpoint: str, settings: Settings, now_s: float, *, keep: bool = True) -> DriftReport:
    """Return how an endpoint's live prompts differ from its release's training set, and keep what was found.

    Without ``keep`` nothing is written and nobody is waited for: whoever looks next tests the same rows. Raises
    UsageError where there is no such endpoint, StoreError where store or ledger cannot be read.
    """
    store = Store(settings.home)
    document = endpoints.read(store, endpoint)
    with _alone(store, endpoint) if keep else nullcontext(), closing(Ledger.open(settings)) as ledger:
        report = _looked(document, store, ledger, now_s, keep=keep)
        if keep:
            store.put_json(report.model_dump(mode="json"), DRIFT, endpoint, LATEST)
    return report


def latest(store: Store, endpoint: str) -> DriftReport | None:
    """Return the last report on an endpoint; None where nobody has looked yet, or it is of another version."""
    if not store.exists(DRIFT, endpoint, LATEST):
        return None
    try:
        return DriftReport.model_validate(store.get_json(DRIFT, endpoint, LATEST))
    except ValidationError:
        return None


def reference_arm(document: Endpoint) -> str:
    """Return the arm whose training set live prompts are compared with: after a promotion it is the winner's."""
    control = document.experiment.control if document.experiment is not None else ""
    if control in document.arms and document.arms[control].weight > 0:
        return control
    return max(document.arms, key=lambda name: document.arms[name].weight)


def measure_of(document: Endpoint) -> Measure:
    """Return what measures an endpoint's prompts. Raises StoreError where the sketch is damaged."""
    directory = Path(document.arms[reference_arm(document)].directory)
    return Measure(Sketch.load(directory), Tokens.find(directory))


def _looked(document: Endpoint, store: Store, ledger: Ledger, now_s: float, *, keep: bool) -> DriftReport:
    """Return the report, and ``keep`` what is to be remembered."""
    arm = document.arms[reference_arm(document)]
    empty = DriftReport(
        endpoint=document.name, release=arm.version or arm.release, at_s=now_s, decision="undecided", reason=""
    )
    measure = measure_of(document)
    name = _name_of(arm, measure)
    before = _remembered(store, document, name, 0.0 if measure.sketch is None else measure.sketch.made_s)
    report, after = _compared(empty, before, document, measure, ledger)
    report, after = _with_changes(report, after, document, ledger)
    if keep:
        store.put_json(after.model_dump(mode="json"), DRIFT, document.name, name)
    return report


def _because(report: DriftReport, reason: str) -> DriftReport:
    return report.model_copy(update={"reason": reason})


def _compared(
    empty: DriftReport, before: Remembered, document: Endpoint, measure: Measure, ledger: Ledger
) -> tuple[DriftReport, Remembered]:
    """Return the report on live prompts, or why there is none."""
    sketch = measure.sketch
    if document.log == "off":
        return _because(empty, "log is off, so nothing is kept of prompts; serve with log: features or text"), before
    if sketch is None:
        return _because(empty, "the release has no sketch of its training set; train it again to have one"), before
    if not sketch.prompts:
        return _because(empty, "the release was trained on rows without prompts"), before
    rows = [row for row in ledger.newest(document.name, sketch.made_s, MOST_READ) if row.time_s <= empty.at_s - LATE_S]
    prompts = measure.prompts_of(rows)
    if not prompts:
        why = "the ledger has no request since the release was made" if not rows else "no row says what its prompt was"
        return _because(empty, why), before
    said = ledger.outcomes(document.name, since_s=rows[0].time_s)
    return _tested(empty, before, sketch, prompts, answers_given(rows, said))


def _tested(
    empty: DriftReport, before: Remembered, sketch: Sketch, prompts: list[LivePrompt], answers: dict[str, set[str]]
) -> tuple[DriftReport, Remembered]:
    """Return the report on prompts that there are."""
    sides = Sides.of(sketch)
    if not is_enough(sides.reference):
        num = len(set(sides.reference.rows.marks))
        what = f"the release was trained on {num} different prompts, and the test needs {LEAST_REFERENCE}"
        return _because(empty, what), before
    course = _played(before, sides, prompts, sketch.made_s)
    found_s = before.found_s if before.found_s is not None else course.found_s
    shown = newest_by_unit(prompts, WINDOW)
    report = empty.model_copy(
        update={
            "rows": len(shown),
            "flagged": found_s is not None,
            "flagged_s": found_s,
            "evidence": course.state.evidence,
            "threshold": course.state.threshold,
            "tested": course.state.batches * BATCH,
            "waiting": course.waiting,
            "rates": rates_of(sketch, shown),
            "new_class": new_classes(sketch, shown, answers),
        }
    )
    after = before.model_copy(update={"test": course.state, "found_s": found_s})
    return _decided(report, course, lambda: _with_auc(report, sides, shown, sketch)), after


def _with_changes(
    report: DriftReport, before: Remembered, document: Endpoint, ledger: Ledger
) -> tuple[DriftReport, Remembered]:
    """Return the report with what became of the release's outcomes and failures since its first weeks."""
    arm, experiment, now_s = reference_arm(document), document.experiment, report.at_s - LATE_S
    endings = ledger.endings(document.name, arm, before.errors.read_from_s)
    errors_after, errors = watched(before.errors, "error_rate", failures(endings), now_s)
    outcome_after, outcome = before.outcome, None
    since_s, declared = before.outcome.read_from_s, None if experiment is None else experiment.outcome
    name = outcome_name(ledger.num_values(document.name, since_s), declared)
    if name is not None:
        horizon_s = 0.0 if experiment is None else experiment.horizon_h * 3600
        said = ledger.judgements(document.name, arm, name, since_s)
        outcome_after, outcome = watched(before.outcome, name, judged(said, horizon_s, now_s), now_s)
    after = before.model_copy(update={"outcome": outcome_after, "errors": errors_after})
    return report.model_copy(update={"outcome": outcome, "errors": errors}), after


def _with_auc(report: DriftReport, sides: Sides, shown: list[LivePrompt], sketch: Sketch) -> DriftReport:
    """Return the report with how well a classifier tells both sides apart, and by which terms."""
    reference = sides.distinct()
    live = sides.rows_of(shown)
    blocks = {name: _auc(reference, live, [place]) for place, name in enumerate(sides.names)}
    every = list(range(len(sides.names)))
    whole = blocks[sides.names[0]] if len(every) == 1 else _auc(reference, live, every)
    return report.model_copy(
        update={
            "reference_rows": len(reference.marks),
            "drift": whole.value,
            "interval": whole,
            "blocks": blocks,
            "terms": terms_between(sketch, shown),
        }
    )


def _auc(reference: Rows, live: Rows, blocks: Sequence[int]) -> Interval:
    from scipy.sparse import hstack, vstack

    sides = [hstack([rows.blocks[block] for block in blocks]).tocsr() for rows in (reference, live)]
    is_live = np.repeat([False, True], [len(reference.marks), len(live.marks)])
    return cross_fitted_auc(vstack(sides).tocsr(), is_live)


def _decided(report: DriftReport, course: Course, with_auc: Callable[[], DriftReport]) -> DriftReport:
    """Return the report with its decision; where there is none there is no measure either."""
    if not report.flagged and course.state.number == 1 and course.state.batches < 2:
        waiting = course.state.batches * BATCH + course.waiting
        what = f"{waiting} prompts of different users are there, and the test needs {2 * BATCH}"
        return _because(report, what)
    if report.flagged:
        decision, reason = "drift", "live prompts differ from what the release was trained on"
    else:
        decision, reason = "none", "no difference is proven so far"
    return with_auc().model_copy(update={"decision": decision, "reason": reason})


def _played(before: Remembered, sides: Sides, prompts: list[LivePrompt], made_s: float) -> Course:
    """Return the test after all prompts that it has not seen; what was found stays found."""
    test = before.test or Pass.begun(len(sides.names), 1, made_s)
    if before.found_s is not None:
        return Course(test, before.found_s, 0)
    rows = sides.rows_of(prompts)
    live = Live(
        requests=[one.request for one in prompts],
        units=[one.unit_mark for one in prompts],
        times_s=[one.time_s for one in prompts],
        rows=rows,
    )
    place_of = {request: place for place, request in enumerate(live.requests)}
    earlier = [place_of[request] for request in test.live if request in place_of]
    return play(test, sides.reference, live, rows.picked(earlier))


def _name_of(arm: Arm, measure: Measure) -> str:
    """Return the name of the document that remembers what was found of a release."""
    what = measure.sketch.id if measure.sketch is not None else sha256(arm.directory.encode()).hexdigest()[:12]
    return f"{what}.json"


def _remembered(store: Store, document: Endpoint, name: str, made_s: float) -> Remembered:
    """Return what earlier looks left. Raises StoreError where it is damaged: forgetting it would test rows twice."""
    parts = (DRIFT, document.name, name)
    if not store.exists(*parts):
        served_s = max((one.time_s for one in document.history if one.what in ("serve", "promote")), default=0.0)
        begun = Watched.begun(max(made_s, served_s))
        return Remembered(outcome=begun, errors=begun)
    try:
        return Remembered.model_validate(store.get_json(*parts))
    except ValidationError as error:
        what = f"what was tested before is damaged: {error.errors()[0]['msg']}"
        raise StoreError(what, "Remove the file; the test then begins anew.", store.path(*parts)) from error


def _alone(store: Store, endpoint: str) -> AbstractContextManager[None]:
    """Be the only one on this machine who looks at an endpoint: rows are tested once."""
    return locked(Path(store.path(DRIFT, endpoint), ".lock")) if store.is_local else nullcontext()
