"""The last stage of a sweep: the best trials trained again with other seeds → one winner, left as a training leaves it.

With one finalist that has run its full budget nothing is trained again: its weights are the winner's. One that was
found on a share of the data is trained again on all of it. More than one, and the job's own values to compare with, are
trained at their full budget with the same other seeds (``tuning.contest``). Under a tradeoff the finalists are the
search's front as far as it may win, and the same rule picks the winner from their means and from what these trainings
paid. Finals run on the job's own workers, however few the trials had, and as many at once as there is room for; a range
of workers is shared out among them, so that one alone has all that there is. The winner's job is written down as
``winner.yaml``, its plan and data as ``winner.json``, its best seed's weights as the run's training, so that every
later stage sees a training like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ray.tune.search import Searcher

from cluster.errors import RunFailed, RunStopped
from cluster.jobfile import dump_job
from cluster.records import BestTrial
from cluster.resources import workers_together
from cluster.run_context import FINALS_JSON, WINNER, WINNER_DATA
from cluster.runs import RUNS, stop_requested
from cluster.train_spec import mode_of
from trainers.planning import capacity
from trainers.rates import keep_rate
from trainers.train import commit_weights
from tuning.contest import Contender, Verdict, decide
from tuning.driver import Driver
from tuning.judge import Lenient
from tuning.outcome import compared, no_lead
from tuning.space import own_values, packed, sweep_of, trial_job
from tuning.sweep import arena_of, search_winners, winner_data
from tuning.tradeoff import paid
from tuning.trials import (
    FINALS,
    Assigned,
    TrialRecord,
    best_trials,
    drop_weights,
    forget_trial,
    read_trials,
    trial_place,
)
from tuning.tuner import drive

if TYPE_CHECKING:
    from cluster.capacity import Capacity
    from cluster.run_context import RunContext
    from cluster.spec import JobSpec
    from tuning.objective import Arena

SEEDS = 2


class Listed(Searcher):
    """Hands out assignments in order."""

    def __init__(self, assignments: list[Assigned], driver: Driver) -> None:
        super().__init__()
        self._left = list(assignments)
        self._driver = driver
        self._given: dict[str, Assigned] = {}

    def suggest(self, trial_id: str) -> Any:
        """Return the next assignment."""
        if not self._left or self._driver.is_over():
            return Searcher.FINISHED
        self._given[trial_id] = self._left.pop(0)
        return asdict(self._given[trial_id])

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Let the driver write down how a training ended."""
        if not error:
            self._driver.ended(self._given[trial_id], result or {})

    def save(self, checkpoint_path: str) -> None:
        """Keep nothing: what has ended lies in its directory."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see ``save``."""


def run(ctx: RunContext) -> None:
    """Find the winner and commit ``runs/RUN/train``; raises RunFailed where no finalist could be trained again."""
    sweep, trials = sweep_of(ctx.job), read_trials(ctx.store, ctx.run)
    chosen = finalists(ctx.job, trials, mode_of(ctx.job.train.best_by))
    if sweep.proxy == 1 and [trial.state for trial in chosen] == ["complete"]:
        arena = arena_of(ctx, ctx.job.of_trials())
        winner, verdict, runs = chosen[0], None, []
    else:
        arena = arena_of(ctx, job_of_finals(ctx.job, capacity(ctx.settings), _batch_sizes(ctx.job, chosen)))
        winner, verdict, runs = contested(ctx, arena, trials, chosen)
    _settle(ctx, arena, winner)
    ctx.store.put_json(told(ctx.job, winner, verdict, runs, trials), RUNS, ctx.run, FINALS_JSON)
    assert winner.trained is not None, "a complete trial has its training's record"
    directory = trial_place(ctx.store, ctx.run, winner.name)
    commit_weights(ctx, directory, winner.trained)
    keep_rate(ctx.job, ctx.store, ctx.run, winner.trained, ctx.check().splits["train"])
    everything = [*trials, *read_trials(ctx.store, ctx.run, FINALS)]
    drop_weights(ctx.store, ctx.run, [], everything)


def job_of_finals(job: JobSpec, found: Capacity, batch_sizes: Sequence[int]) -> JobSpec:
    """Return the job that the finals begin from, one of each of the batch sizes: with their workers, and with room.

    All have the same number of workers, which Tune reserves alike for each.
    """
    sweep = sweep_of(job)
    workers = workers_together(job.cluster, found, len(batch_sizes), min(job.train.batch_size, *batch_sizes))
    if workers != job.of_trials().cluster.workers:
        sweep = sweep.model_copy(update={"at_once": "auto"})  # which was asked for trials of another size
    return job.model_copy(update={"sweep": sweep, "cluster": job.cluster.of_fixed(workers)})


def _batch_sizes(job: JobSpec, chosen: list[TrialRecord]) -> list[int]:
    """Return the batch size of every final training."""
    seeds = _seeds(job)
    return [trial_job(job, _packed(trial.values)).train.batch_size for trial in chosen for _ in seeds]


def contested(
    ctx: RunContext, arena: Arena, trials: list[TrialRecord], chosen: list[TrialRecord]
) -> tuple[TrialRecord, Verdict, list[TrialRecord]]:
    """Train the finalists with other seeds, and return the winner's best training, the verdict and all trainings."""
    sweep, mode = sweep_of(ctx.job), mode_of(ctx.job.train.best_by)
    wanted = [
        Assigned(f"{FINALS}/{trial.number}-seed-{seed}", trial.number, _packed(trial.values), seed)
        for trial in chosen
        for seed in _seeds(ctx.job)
    ]
    _forget_failed(ctx)
    ended = {record.name for record in read_trials(ctx.store, ctx.run, FINALS)}
    missing = [assigned for assigned in wanted if assigned.name not in ended]
    if missing:
        ctx.progress.say(f"finals: {_what(chosen, len(wanted) // len(chosen))}")
        driver = Driver(ctx, arena, FINALS, len(wanted))
        drive(driver, Listed(missing, driver), Lenient(arena.verdicts), len(missing))
    if stop_requested(ctx.store, ctx.run):
        raise RunStopped("stopped, as asked; trainings that were running go on later", f"hone resume {ctx.run}")
    runs = read_trials(ctx.store, ctx.run, FINALS)
    whole = _contenders(runs, len(wanted) // len(chosen))
    if not whole:
        raise RunFailed(*_none_whole(runs, ctx.run))
    own = own_trial(ctx.job, trials)
    give_up = sweep.tradeoff.give_up if sweep.tradeoff else None
    verdict = decide(whole, mode, own.number if own else None, give_up)
    of_winner = [record for record in runs if record.number == verdict.winner]
    return best_trials(of_winner, mode, 1, ("complete",))[0], verdict, runs


def _forget_failed(ctx: RunContext) -> None:
    """Let finals that failed in an earlier session be trained again; those that diverged would diverge again."""
    for record in read_trials(ctx.store, ctx.run, FINALS):
        if record.state == "failed":
            forget_trial(ctx.store, ctx.run, record.name)


def _none_whole(runs: list[TrialRecord], run: str) -> tuple[str, str]:
    """Return why no finalist can win, and what to do."""
    failed = [record for record in runs if record.state == "failed"]
    what = f"no finalist could be trained again: {(failed or runs)[-1].why}"
    again = f"mend the cause, then train again what failed: hone resume {run}"
    return what, again if failed else "look at the causes in the table; `hone sweep` begins anew"


def _what(chosen: list[TrialRecord], num_seeds: int) -> str:
    if len(chosen) == 1:
        return "the winner is trained on all of its budget"
    return f"{len(chosen)} finalists with {num_seeds} other seeds each"


def _packed(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: packed(value) for key, value in values.items()}


def finalists(job: JobSpec, trials: list[TrialRecord], mode: str) -> list[TrialRecord]:
    """Return the best trials, those that ran their full budget first, and the job's own values to compare with.

    Under a tradeoff they are those of the front that may win, which are often fewer.
    """
    sweep = sweep_of(job)
    chosen = search_winners(sweep, trials, mode, sweep.finalists)
    if sweep.tradeoff is None or not chosen:  # what has not finished is on no front
        chosen += best_trials(trials, mode, sweep.finalists - len(chosen), ("pruned",))
    own = own_trial(job, trials)
    if sweep.finalists > 1 and own is not None and own not in chosen and own.state in ("complete", "pruned"):
        chosen.append(own)
    return chosen


def own_trial(job: JobSpec, trials: list[TrialRecord]) -> TrialRecord | None:
    """Return the trial of the job's own values; None where they lie outside the space."""
    own = own_values(job)
    return next((trial for trial in trials if trial.values == own), None)


def _seeds(job: JobSpec) -> list[int]:
    """Return the seeds that every finalist is trained with: others than the trials', unless there is only one."""
    return other_seeds(job) if sweep_of(job).finalists > 1 else [job.train.seed]


def other_seeds(job: JobSpec) -> list[int]:
    """Return the seeds of the finals: those after the job's own."""
    return [(job.train.seed + 1 + place) % 2**32 for place in range(sweep_of(job).seeds or SEEDS)]


def _contenders(runs: list[TrialRecord], num_seeds: int) -> list[Contender]:
    """Return the finalists that finished with every seed."""
    found: dict[int, dict[int, float]] = {}
    for record in runs:
        if record.state == "complete" and record.value is not None:
            found.setdefault(record.number, {})[record.seed] = record.value
    pays = paid(runs)
    return [
        Contender(number, values, pays.get(number, 0.0)) for number, values in found.items() if len(values) == num_seeds
    ]


def _settle(ctx: RunContext, arena: Arena, winner: TrialRecord) -> None:
    """Write down the winner's job with its plan and its data, which the later stages read instead of the sweep's."""
    job = trial_job(arena.job, _packed(winner.values), winner.seed)
    ctx.store.put_text(dump_job(job), RUNS, ctx.run, WINNER)
    ctx.store.put_json(winner_data(arena, job), RUNS, ctx.run, WINNER_DATA)
    ctx.registry.log_params(ctx.run, {f"winner.{key}": value for key, value in winner.values.items()})


def told(
    job: JobSpec,
    winner: TrialRecord,
    verdict: Verdict | None,
    runs: list[TrialRecord],
    trials: list[TrialRecord],
) -> dict[str, Any]:
    """Return what the report says of the finals, and below ``result`` what the run's result does."""
    own = own_trial(job, trials)
    lead = verdict.lead if verdict else None
    found: dict[str, Any] = {
        "winner": winner.number,
        "weights": winner.name,
        "own": None if own is None else own.number,
        "half_width": verdict.half_width if verdict else None,
        "lead": lead,
        "no_lead": "" if lead else no_lead(sweep_of(job), own, runs),
        "runs": [record.model_dump(mode="json") for record in runs],
    }
    _, said, why = compared(job, found, trials)
    assert winner.value is not None, "a complete trial has a value"
    best = BestTrial(params=winner.values, value=winner.value)
    found["result"] = {
        "best": best.model_dump(mode="json"),
        "comparison": f"{said} {why}",
        "lead": dict(zip(("value", "low", "high"), lead, strict=True)) if lead else None,
    }
    return found
