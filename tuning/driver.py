"""What the driver of a sweep knows: which trials train, what became of the others, and when it is over.

A trial's record is written down here when it ends, its child run made, and the weights of trials that cannot win any
more removed. The search is over when its time or money is used up, the study has converged, or somebody asked the run
to stop; trials that still train are then told so, and return.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal

from cluster.errors import HoneError, StoreError
from cluster.records import RunStatus, TrainedWeights
from cluster.runs import read_status, stop_requested, write_status
from cluster.train_spec import mode_of
from trainers.train import innermost
from tuning import tradeoff
from tuning.judge import FULL, PROGRESS, VALUE, Why, rungs
from tuning.objective import RESULT, Arena
from tuning.space import trial_job, unpacked
from tuning.spent import Meter
from tuning.storage_faults import FirstFault
from tuning.table import Live, table_lines, trial_line
from tuning.trials import (
    CUT,
    TRIALS,
    Assigned,
    State,
    TrialRecord,
    best_trials,
    drop_weights,
    keep_trial,
    read_trials,
    trial_history,
)

if TYPE_CHECKING:
    from cluster.registry import RunOutcome
    from cluster.run_context import RunContext
    from cluster.spec import SweepSpec

SHOW_EVERY_S = 2.0
OUTCOMES: dict[State, RunOutcome] = {
    "complete": "FINISHED",
    "pruned": "FINISHED",
    "diverged": "FAILED",
    "failed": "FAILED",
    "interrupted": "KILLED",
}
Over = Literal["", "budget", "converged", "interrupted"]


class Driver:
    """What the driver knows of the trials of one stage (``kind``: trials or finals), ``total`` in all."""

    def __init__(
        self, ctx: RunContext, arena: Arena, kind: str, total: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ctx, self.arena, self._kind, self._total = ctx, arena, kind, total
        self._live: dict[str, Live] = {}
        self._trials = read_trials(ctx.store, ctx.run, kind)
        self.fault = FirstFault()
        self._over: Over = ""
        self._lock = threading.RLock()
        self._shown_s = 0.0
        self._meter = Meter(ctx.store, ctx.run, clock)

    def __getstate__(self) -> dict[str, object]:
        """Nothing: Tune pickles its callbacks for a restore that is never asked for."""
        return {}

    @property
    def why_over(self) -> Over:
        """Why no further trial begins; empty while some may."""
        return self._over

    def most_paid(self) -> float | None:
        """Return the most that any trial so far pays under a tradeoff; None where none has finished."""
        with self._lock:
            return max(tradeoff.paid(self._trials).values(), default=None)

    def is_over(self) -> bool:
        """Whether no further trial shall begin."""
        return self._over != ""

    def end(self, why: Over) -> None:
        """Let no further trial begin, and those that train return, unless they only converged."""
        with self._lock:
            if self._over in ("", "converged"):
                self._over = why
            if why in ("budget", "interrupted"):
                for live in self._live.values():
                    self.arena.verdicts.tell(live.assigned.name, why)

    def started(self, assigned: Assigned) -> None:
        """Note that a trial trains, for the first or the second time."""
        with self._lock:
            self._meter.tick(len(self._live))
            self._trials = [trial for trial in self._trials if trial.name != assigned.name]  # a cut one goes on
            self._live[assigned.name] = Live(assigned, time.monotonic())
        self.show(at_once=True)

    def reported(self, assigned: Assigned, result: Mapping[str, Any]) -> None:
        """Note how far a trial is."""
        with self._lock:
            if live := self._live.get(assigned.name):
                live.progress, live.value = result[PROGRESS], result.get(VALUE, live.value)
        self.show()

    def ended(self, assigned: Assigned, result: Mapping[str, Any]) -> TrialRecord:
        """Write down how a trial ended, and keep the weights of the best only."""
        return self._keep(self._record(assigned, result))

    def failed(self, assigned: Assigned, error: BaseException | None) -> None:
        """Write down a trial that failed on every attempt."""
        why = "its process died" if error is None else cause(error)
        self._keep(self._record(assigned, {RESULT: json.dumps({"failure": why}), PROGRESS: 0}))

    def _record(self, assigned: Assigned, result: Mapping[str, Any]) -> TrialRecord:
        told: dict[str, Any] = json.loads(result.get(RESULT, '{"failure": "it ended without a result"}'))
        trained = TrainedWeights.model_validate(told["trained"]) if "trained" in told else None
        state, why = self._state(assigned, told)
        live = self._live.get(assigned.name)
        seconds = result.get("time_total_s") or (time.monotonic() - live.began_s if live else 0.0)
        with suppress(HoneError):
            seed = trial_job(self.arena.job, assigned.values, assigned.seed).train.seed
            return TrialRecord(
                name=assigned.name,
                number=assigned.number,
                values={key: unpacked(value) for key, value in assigned.values.items()},
                seed=seed,
                state=state,
                value=result.get(VALUE) if state in ("complete", "pruned") else None,
                metrics=trained.validation if trained else {},
                against=told.get("against", {}),
                step=trained.steps if trained else told.get("step", 0),
                steps=told.get("steps", trained.steps if trained else 0),
                progress=FULL if trained else result.get(PROGRESS, 0),
                seconds=seconds,
                why=why,
                trained=trained,
            )
        return TrialRecord(
            name=assigned.name, number=assigned.number, values=dict(assigned.values), seed=0, state=state, why=why
        )

    def _state(self, assigned: Assigned, told: Mapping[str, Any]) -> tuple[State, str]:
        if "trained" in told:
            return "complete", ""
        if "failure" in told:
            return "failed", told["failure"]
        if "diverged" in told:
            return "diverged", told["diverged"]
        verdict: Why | None = self.arena.verdicts.read(assigned.name)
        if verdict == "diverged":
            return "diverged", "its validation loss was more than twice that of a guess"
        if verdict == "interrupted":
            return "interrupted", ""
        return "pruned", CUT if verdict == "budget" else ""

    def _keep(self, record: TrialRecord) -> TrialRecord:
        ctx = self.ctx
        with self._lock:
            self._meter.tick(len(self._live))
            self._live.pop(record.name, None)
            self._keep_spent(at_once=True)
        if record.state == "interrupted":
            return record
        keep_trial(ctx.store, ctx.run, record)
        with self._lock:
            self._trials = [*(trial for trial in self._trials if trial.name != record.name), record]
        ended = [trial for trial in self._trials if not trial.is_cut]
        drop_weights(ctx.store, ctx.run, [trial.name for trial in self._may_win()], ended)
        self._track(record)
        ctx.progress.note(trial_line(record, self._line_facts()))
        self.show(at_once=True)
        return record

    def _may_win(self) -> list[TrialRecord]:
        """Return the trials whose weights may be wanted: the best of the search, or each finalist's best seed."""
        if self._kind == TRIALS and self._sweep.tradeoff is not None:
            return tradeoff.may_win(self._trials, self._mode, self._sweep.tradeoff.give_up)
        if self._kind == TRIALS:
            return best_trials(self._trials, self._mode, self._sweep.finalists, ("complete",))
        numbers = {trial.number for trial in self._trials}
        groups = ([trial for trial in self._trials if trial.number == number] for number in numbers)
        return [best for group in groups for best in best_trials(group, self._mode, 1, ("complete",))]

    @property
    def _mode(self) -> str:
        return mode_of(self.ctx.job.train.best_by)

    @property
    def _sweep(self) -> SweepSpec:
        assert self.ctx.job.sweep is not None, "a job with a sweep block"
        return self.ctx.job.sweep

    def _track(self, record: TrialRecord) -> None:
        """Make the trial a child run; tracking that fails must not end a search."""
        ctx = self.ctx
        params = {**record.values, "train.seed": record.seed}
        history = [*trial_history(ctx.store, ctx.run, record.name)]
        if record.value is not None:
            history.append({"step": record.step, "value": record.value, **record.against})
        tags = {"hone.state": record.state, "hone.why": record.why}
        try:
            ctx.registry.log_trial(ctx.run, record.name, params, history, OUTCOMES[record.state], tags)
        except StoreError as error:
            ctx.progress.say(f"the trial {record.name} could not be tracked: {error}")

    def look(self) -> None:
        """End the search where its budget is used up or somebody asked for it."""
        with self._lock:
            self._meter.tick(len(self._live))
            self._keep_spent()
        if stop_requested(self.ctx.store, self.ctx.run):
            self.end("interrupted")
        elif self._kind == TRIALS and self._is_spent():
            self.end("budget")
        self.show()

    def _keep_spent(self, *, at_once: bool = False) -> None:
        if self._kind == TRIALS:
            self._meter.keep(at_once=at_once)

    def _is_spent(self) -> bool:
        sweep, cluster, spent = self._sweep, self.ctx.job.cluster, self._meter.spent
        if sweep.max_hours is not None and spent.search_s / 3600 > sweep.max_hours:
            return True
        if sweep.max_cost is None or not cluster.price_per_gpu_hour:
            return False
        plan = self.ctx.plan()
        gpus = (sweep.workers or plan.workers) * plan.gpus_per_worker
        return spent.trials_s / 3600 * gpus * cluster.price_per_gpu_hour > sweep.max_cost

    def show(self, *, at_once: bool = False) -> None:
        """Redraw the table and publish how many trials are done."""
        if not at_once and time.monotonic() - self._shown_s < SHOW_EVERY_S:
            return
        with self._lock:
            self._shown_s = time.monotonic()
            live = list(self._live.values())
            trials = sorted(self._trials, key=lambda trial: (trial.number, trial.seed))
            left_s = self._left_s(trials)
            self.ctx.progress.redraw(table_lines(trials, live, self._line_facts(), self._total, left_s))
            self._publish(trials, left_s)

    def _left_s(self, trials: list[TrialRecord]) -> float | None:
        """Return the time that the missing trials will take, as long each as those before."""
        if not trials:
            return None
        mean_s = sum(trial.seconds for trial in trials) / len(trials)
        missing = max(0, self._total - len(trials))
        return mean_s * missing / max(1, min(self.arena.at_once, missing))

    def _line_facts(self) -> tuple[str, list[int]]:
        train = self.ctx.job.train
        return train.best_by, rungs(self._sweep, train) if self._kind == TRIALS else []

    def _publish(self, trials: list[TrialRecord], left_s: float | None) -> None:
        ctx = self.ctx
        best = best_trials(trials, self._mode, 1, ("complete", "pruned"))
        last = read_status(ctx.store, ctx.run)
        stage = "search" if self._kind == TRIALS else "finals"
        state = "stopping" if self._over == "interrupted" else "running"
        metrics = {f"best_{ctx.job.train.best_by}": best[0].value} if best and best[0].value is not None else {}
        status = RunStatus(
            run=ctx.run, stage=stage, state=state, step=len(trials), steps=self._total, metrics=metrics, eta_s=left_s
        )
        if status != last:
            write_status(ctx.store, status)


def cause(error: BaseException) -> str:
    """Return the innermost reason that Ray wrapped, in one line."""
    last = innermost(error)
    if isinstance(last, HoneError):
        return last.what
    return f"{type(last).__name__}: {(str(last).strip().splitlines() or [''])[0][:200]}"
