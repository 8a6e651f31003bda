"""`hone retrain ENDPOINT`: feedback → a child job, run by the pipeline → a challenger, if it earned that.

The steps are the job's own, by name: the pipeline audits, trains, evaluates and gates the child like any run. Here is
what comes before (rows, the parent's frozen tests, the job file) and after (a challenger in an experiment). Each step
is written down before the next one begins, so that a retraining that was killed goes on with the same child: its run is
resumed if it had begun, begun if it had not, and never repeated. One retraining of an endpoint runs at a time.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cluster import pipeline
from cluster.errors import CapacityError, DataError, JobFileError, RunFailed, UsageError
from cluster.jobfile import dump_job
from cluster.ray_token import BY_TOKEN
from cluster.records import CheckReport, TrainResult
from cluster.run_context import DATA_JSON
from cluster.runs import RUNS, new_run_id, read_status, reconciled_status
from cluster.session import environment
from cluster.store import Store
from serving import endpoint as endpoints
from serving import retraining
from serving.alone import alone
from serving.challenger import challenge, refuse_absent, refuse_undecided
from serving.child_job import FIXED, child_job, gate_of, stored_job
from serving.feedback import DEFAULT_OUTCOME
from serving.feedback_bounds import bounded
from serving.feedback_rows import FeedbackRow, feedback_rows
from serving.feedback_split import Divided, divided
from serving.ledger import Ledger
from serving.ledger_rows import Exposure, Outcome
from serving.material import Heard, Known, RowCounts, unknown, write_material
from serving.parent import Parent, parent_of
from serving.retraining import RETRAINING, Retraining

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from serving.endpoint import Endpoint

VALIDATION_FRAC = 0.1
WAIT_S = 2.0
ASKED = "asked for"
ENDS_IT = (RunFailed, DataError, JobFileError, CapacityError)
"""What the same child would fail with again."""
Clock = Callable[[], float]
Train = Callable[..., TrainResult]


@dataclass(frozen=True)
class Gathered:
    """What a child would be made of."""

    endpoint: Endpoint
    parent: Parent
    known: Known
    heard: Heard
    parts: Divided
    counts: RowCounts


def retrain(
    name: str,
    settings: Settings,
    progress: Progress,
    *,
    cause: str = ASKED,
    overrides: Sequence[str] = (),
    finish: bool = False,
    clock: Clock = time.time,
) -> Retraining:
    """Train a child on an endpoint's feedback and let it challenge; one that was begun before is finished first.

    ``finish`` waits for whoever works on one, and begins none. Raises UsageError where there is nothing to learn from
    or nobody to challenge, and the HoneError that ended the run.
    """
    store = Store(settings.home)
    endpoint = endpoints.read(store, name)
    own = BY_TOKEN if settings.ray_address is None else {}
    with _alone(store, name, wait=finish), environment(own):
        past = retraining.attempts(store, name)
        left = [one for one in past if one.is_unfinished]
        if left:
            progress.say(f"{name}: goes on with the child {left[0].run}")
            return _finished(left[0], settings, progress, clock)
        if finish:
            if not past:
                raise UsageError(f"{name} has no child that was begun", f"hone retrain {name} begins one.")
            return past[-1]
        refuse_absent(name, store)
        refuse_undecided(endpoint)
        attempt = _begun(gathered(endpoint, settings), store, cause, overrides, clock())
        progress.say(f"{name}: {attempt.rows.usable} new rows; the child is {attempt.run}")
        return _finished(attempt, settings, progress, clock)


def dry_run(name: str, settings: Settings, clock: Clock = time.time) -> Retraining:
    """Return what `retrain` would begin with; nothing is written. Raises UsageError as that does."""
    store = Store(settings.home)
    found = gathered(endpoints.read(store, name), settings)
    gate = gate_of(found.parent, found.endpoint.retrain)
    return _attempt(found, "", "", gate, ASKED, clock()).model_copy(update={"is_dry": True})


def gathered(endpoint: Endpoint, settings: Settings) -> Gathered:
    """Return the rows that an endpoint's users gave, ready for a child. Raises UsageError where they are too few."""
    if endpoint.log != "text":
        raise UsageError(
            f"{endpoint.name} has log: {endpoint.log}, so no prompts are kept to learn from",
            "Serve it with log: text; what was asked before stays unknown.",
        )
    store, spec = Store(settings.home), endpoint.retrain
    parent = parent_of(endpoint, store)
    with closing(Ledger.open(settings)) as ledger:
        heard = Heard(endpoint.name, set())
        judged = _noting(ledger.judged(endpoint.name), heard.requests)
        said, left_out = feedback_rows(judged, outcome_of(endpoint), confirmed=spec.confirmed)
        unmatched = ledger.num_unmatched()
    known = Known.of(parent, {row.prompt for row in said})
    within, beyond = bounded(said, spec.max_rows_per_unit, spec.max_unit_frac)
    new, told_before = unknown(within, known)
    left_out += beyond + told_before
    _refuse_few(endpoint, said, new, left_out, unmatched)
    parts = divided(new, spec.holdout, VALIDATION_FRAC if any(True for _ in parent.rows("validation")) else 0.0)
    _refuse_one_sided(endpoint, parts)
    counts = RowCounts(
        train=len(parts.train),
        validation=len(parts.validation),
        test=len(parts.test),
        units=len({row.unit for row in new}),
        replaced=0,
        left_out=dict(left_out),
        unmatched=unmatched,
    )
    return Gathered(endpoint, parent, known, heard, parts, counts)


def _noting(judged: Iterator[tuple[Exposure, Outcome]], requests: set[str]) -> Iterator[tuple[Exposure, Outcome]]:
    """Yield judgements, and note on the way which requests they are of."""
    for exposure, said in judged:
        requests.add(exposure.request)
        yield exposure, said


def outcome_of(endpoint: Endpoint) -> str:
    """Return the name of the outcome that says whether an answer was right."""
    return endpoint.experiment.outcome if endpoint.experiment else DEFAULT_OUTCOME


def _refuse_few(
    endpoint: Endpoint,
    said: Sequence[FeedbackRow],
    new: Sequence[FeedbackRow],
    left_out: Counter[str],
    unmatched: int,
) -> None:
    """Raise UsageError where there is too little to learn from, with what was left out and why."""
    if len(new) >= endpoint.retrain.min_rows:
        return
    shown = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
    why = f" (left out: {shown})" if shown else ""
    if not said and not left_out:
        sent = "whichever endpoint they were sent to"
        lost = f"; {unmatched} outcomes, {sent}, name requests that nobody answered" if unmatched else ""
        raise UsageError(
            f"the ledger holds no corrections for {endpoint.name}{lost}",
            'Send them to /v1/feedback: {"request_id": …, "correction": …}, for requests with "consent": true.',
        )
    remedy = f"Wait for {endpoint.retrain.min_rows}, or lower retrain.min_rows in the serve file."
    if left_out["no_consent"]:
        remedy += ' A row needs "consent": true (or x-hone-consent) in its request.'
    if left_out["over_unit"] + left_out["over_share"]:
        remedy += " Few units give most rows: retrain.max_rows_per_unit and max_unit_frac bound them."
    raise UsageError(f"{len(new)} new rows are too few for {endpoint.name}{why}", remedy)


def _refuse_one_sided(endpoint: Endpoint, parts: Divided) -> None:
    """Raise UsageError where all rows hang together, so that none could be held out, or none trained on."""
    if not parts.train or not parts.test:
        raise UsageError(
            f"{len(parts.train)} new rows are left to train on and {len(parts.test)} to judge by: they share units or "
            "prompts",
            f"Wait for rows of more units, or change retrain.holdout ({endpoint.retrain.holdout:g}).",
        )


def _begun(found: Gathered, store: Store, cause: str, overrides: Sequence[str], now_s: float) -> Retraining:
    """Write down material, job and attempt; from here on there is a child."""
    written = write_material(found.parent, found.parts, found.known, found.heard, store)
    job = child_job(found.parent, found.endpoint.retrain, found.endpoint.name, written.key, store, overrides)
    run = new_run_id(job.name, datetime.fromtimestamp(now_s, UTC), os.urandom(2))
    store.put_text(dump_job(job), RETRAINING, found.endpoint.name, f"{run}.yaml")
    attempt = _attempt(found, run, written.key, job.gate, cause, now_s)
    counts = attempt.rows.model_copy(update={"replaced": written.replaced, "forgotten": written.forgotten})
    return retraining.write(store, attempt.model_copy(update={"rows": counts}))


def _attempt(found: Gathered, run: str, material: str, gate: list[str], cause: str, now_s: float) -> Retraining:
    return Retraining(
        endpoint=found.endpoint.name,
        run=run,
        cause=cause,
        started_s=now_s,
        parent_run=found.parent.release.run,
        parent_release=found.parent.version,
        material=material,
        rows=found.counts,
        gate=gate,
    )


def _finished(attempt: Retraining, settings: Settings, progress: Progress, clock: Clock) -> Retraining:
    """Do what is left of an attempt."""
    store = Store(settings.home)
    if attempt.state == "begun":
        attempt = _trained(attempt, settings, progress, clock)
    if attempt.state == "accepted":
        assert attempt.version is not None, "what the gate accepts becomes a version"
        experiment, arm = challenge(attempt.endpoint, attempt.version, settings, progress)
        done = {"state": "deployed", "experiment": experiment, "arm": arm, "ended_s": clock()}
        attempt = retraining.write(store, attempt.model_copy(update=done))
    return attempt


def _trained(attempt: Retraining, settings: Settings, progress: Progress, clock: Clock) -> Retraining:
    """Run the child to its gate, and write down what that said; a run that failed for good is not tried again."""
    store = Store(settings.home)
    try:
        result = _result(attempt, settings, progress)
    except ENDS_IT as error:
        failed = {"state": "failed", "why": error.what, "ended_s": clock()}
        retraining.write(store, attempt.model_copy(update=failed))
        raise
    accepted = result.gate.decision == "accept"
    failing = [rule for rule in result.gate.rules if not rule.passed]
    seen = {
        "state": "accepted" if accepted else "refused",
        "decision": result.gate.decision,
        "version": result.version,
        "leaked": _leaked(store, attempt.run),
        "why": "; ".join(f"{rule.rule} ({_number(rule.left)}, {_number(rule.right)})" for rule in failing),
        "ended_s": None if accepted else clock(),
    }
    return retraining.write(store, attempt.model_copy(update=seen))


def _result(attempt: Retraining, settings: Settings, progress: Progress) -> TrainResult:
    """Return what the child's run ended with: begun, gone on with, waited for, or read where it has finished."""
    store, run = Store(settings.home), attempt.run
    while store.exists(RUNS, run, "job.yaml") and reconciled_status(store, run).state in ("running", "stopping"):
        time.sleep(WAIT_S)  # another process keeps it
    if store.exists(RUNS, run, "result.json"):
        return TrainResult.model_validate(store.get_json(RUNS, run, "result.json"))
    if read_status(store, run) is not None:
        return pipeline.resume(run, settings, progress)
    job = stored_job(store, RETRAINING, attempt.endpoint, f"{run}.yaml")
    return pipeline.train(job, settings, progress, datetime.now(UTC), run)


def _leaked(store: Store, run: str) -> int:
    report = CheckReport.model_validate(store.get_json(RUNS, run, DATA_JSON)["check"])
    return sum(report.fixed[code].dropped for code in FIXED if code in report.fixed)


def _number(value: float | None) -> str:
    return "missing" if value is None else f"{value:.3f}"


def _alone(store: Store, endpoint: str, *, wait: bool) -> AbstractContextManager[None]:
    """Be the only retraining of an endpoint on this machine. Raises UsageError where another one is under way."""
    refusal = UsageError(f"{endpoint} is being retrained already", "Wait until that has ended.")
    return alone(store, RETRAINING, endpoint, refusal, wait=wait)
