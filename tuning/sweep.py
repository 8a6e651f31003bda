"""The search stage: a job with a sweep block → trials in a study, each judged while it trains, and the best of them.

Ray Tune runs the trials, Optuna suggests their values, Ray's own scheduler judges them (``tuning.judge``). Whatever
ends the search early, what was tried stays in the study and in the trials' directories: `hone resume` runs exactly
what is missing. What cannot work was refused before the run existed (``tuning.readiness``).
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

from cluster.errors import RunFailed, RunStopped
from cluster.run_context import SEARCHED
from cluster.runs import stop_requested
from cluster.train_spec import mode_of
from trainers.loop import steps_between
from trainers.planning import capacity
from tuning import tradeoff
from tuning.bases import known_base, vocabulary_size
from tuning.convergence import unjudged, warning
from tuning.driver import Driver
from tuning.endings import penalty, study_ending, traded_ending
from tuning.judge import judge_of
from tuning.objective import Arena, shape_key
from tuning.readiness import variants
from tuning.space import sweep_of, wanted
from tuning.storage_faults import storage_faults_named
from tuning.study import (
    Ending,
    StudySearch,
    close,
    counted,
    directory_of,
    has_converged,
    open_study,
    take_back,
)
from tuning.trials import TRIALS, TrialRecord, best_trials, read_trials
from tuning.tuner import drive
from tuning.warm_start import warm_starts

if TYPE_CHECKING:
    from collections.abc import Iterator

    import optuna

    from cluster.run_context import RunContext
    from cluster.spec import JobSpec, SweepSpec

EXPLODES_AT = 2.0
"""A validation loss above this many times that of a uniform guess counts as diverged."""
ENDED_BY = {
    "": "its trials were used up",
    "budget": "its time or money was used up",
    "converged": "no better value was to be expected",
    "interrupted": "it was stopped",
}


def run(ctx: RunContext) -> None:
    """Run the missing trials and leave ``runs/RUN/search.json``.

    Raises RunStopped where the user interrupted it, RunFailed where no trial was worth anything, StoreError with the
    way on where the study or the store was lost.
    """
    arena = arena_of(ctx, ctx.job.of_trials())
    mode = mode_of(ctx.job.train.best_by)
    with storage_faults_named(ctx.run), open_study(ctx.job, ctx.run, ctx.settings, mode) as study:
        missing = wanted(ctx.job) - len(counted(study))
        ended = _search(ctx, arena, study, missing) if missing > 0 else ENDED_BY[""]
        if stop_requested(ctx.store, ctx.run):
            raise RunStopped("stopped, as asked; trials that were running go on later", f"hone resume {ctx.run}")
        found = summary(ctx, read_trials(ctx.store, ctx.run))
        close(study)
        ended = "; ".join(filter(None, (ended, unjudged(sweep_of(ctx.job), study))))
    ctx.store.put_json(found | {"ended": ended}, "runs", ctx.run, SEARCHED)


def arena_of(ctx: RunContext, job: JobSpec) -> Arena:
    """Return what all trainings of a job share: the prepared data sets, the capacity, and when a loss has exploded."""
    from cluster.resources import trials_at_once

    found = capacity(ctx.settings)
    jobs = [job, *variants(job)]
    return Arena(
        run=ctx.run,
        home=ctx.settings.home,
        job=job,
        prepared=dict(_prepared(ctx, jobs)),
        capacity=found,
        at_once=trials_at_once(job.cluster, sweep_of(job), found),
        explodes_at=EXPLODES_AT * log(max(vocabulary_size(job.base) for job in jobs)),
    )


def _prepared(ctx: RunContext, jobs: list[JobSpec]) -> Iterator[tuple[str, str]]:
    """Yield the key of every prepared data set (verified), found in the store where the data stage made it."""
    from trainers.prepare import prepare

    yield shape_key(jobs[0]), ctx.data()["prepared"]
    seen = {shape_key(jobs[0])}
    for job in jobs[1:]:
        if shape_key(job) not in seen:
            seen.add(shape_key(job))
            key = prepare(job, ctx.store, ctx.progress)
            ctx.store.reading("data", key)
            yield shape_key(job), key


def _search(ctx: RunContext, arena: Arena, study: optuna.Study, missing: int) -> str:
    """Run the missing trials, and return why the search ended."""
    job, mode = ctx.job, mode_of(ctx.job.train.best_by)
    sweep = sweep_of(job)
    driver = Driver(ctx, arena, TRIALS, wanted(job))
    driver.look()
    if driver.is_over():
        return ENDED_BY[driver.why_over]
    take_back(study)
    judge = judge_of(sweep, job.train, arena.verdicts, mode)
    for trial in counted(study):
        judge.remember(directory_of(trial), trial.intermediate_values)

    def ending(record: TrialRecord) -> Ending | None:
        worst = penalty(job, arena)
        if sweep.tradeoff is not None:
            return traded_ending(record, worst, driver.most_paid())
        return study_ending(record, worst)

    starts = warm_starts(job, known_base(job.base))
    searcher = StudySearch(
        study,
        job,
        mode,
        ending=lambda assigned, result: ending(driver.ended(assigned, result)),
        is_over=lambda: is_over(driver, study, sweep),
        starts=starts,
    )
    pruned = "none pruned" if sweep.prune == "none" else f"pruned by {sweep.prune}"
    how = f"{arena.at_once} at once, by {sweep.search}, {pruned}"
    ctx.progress.say(f"search: {missing} of {wanted(job)} trials, {how}")
    plan = ctx.plan()
    if sweep.prune != "none" and steps_between(job.train.eval_every, plan.steps_per_epoch) >= plan.steps:
        ctx.progress.say("search: trials are scored at their end only, so none can be pruned: lower train.eval_every")
    if cannot_end := warning(sweep, wanted(job)):
        ctx.progress.say(f"search: {cannot_end}")
    drive(driver, searcher, judge, missing)
    return ENDED_BY[driver.why_over]


def is_over(driver: Driver, study: optuna.Study, sweep: SweepSpec) -> bool:
    """Return whether no further trial shall begin, which may be because the study has converged."""
    if sweep.until_converged and not driver.is_over() and has_converged(study):
        driver.end("converged")
    return driver.is_over()


def summary(ctx: RunContext, trials: list[TrialRecord]) -> dict[str, Any]:
    """Return what the search found, for the result's JSON. Raises RunFailed where nothing was worth anything."""
    mode, traded = mode_of(ctx.job.train.best_by), sweep_of(ctx.job).tradeoff
    best = search_winners(sweep_of(ctx.job), trials, mode, 1) or best_trials(trials, mode, 1, ("pruned",))
    if not best:
        raise RunFailed(*nothing_found(trials, ctx.run))
    return {
        "study": ctx.run,
        "trials": len(trials),
        "pruned": sum(trial.state == "pruned" for trial in trials),
        "failed": sum(trial.state in ("diverged", "failed") for trial in trials),
        "best": {"params": best[0].values, "value": best[0].value},
        "trial": best[0].number,
        **({"pareto": tradeoff.told(trials, mode)} if traded else {}),
    }


def search_winners(sweep: SweepSpec, trials: list[TrialRecord], mode: str, most: int) -> list[TrialRecord]:
    """Return the best trials of those that ran their full budget, the first of them the winner if one is to be named.

    Under a tradeoff they are those of the front that give up little enough, and the first is the cheapest.
    """
    if sweep.tradeoff is not None:
        return tradeoff.finalists(trials, mode, sweep.tradeoff.give_up, most)
    return best_trials(trials, mode, most, ("complete",))


def nothing_found(trials: list[TrialRecord], run: str) -> tuple[str, str]:
    """Return why no trial can win, and what to change."""
    diverged = [trial for trial in trials if trial.state == "diverged"]
    failed = [trial for trial in trials if trial.state == "failed"]
    if not trials or any(trial.is_cut for trial in trials):
        more = f"give it more: hone resume {run} --set sweep.max_hours=HOURS (or sweep.max_cost=USD)"
        return "the search's time or money was used up before any trial was worth anything", more
    what = f"of {len(trials)} trials {len(diverged)} diverged and {len(failed)} failed, none can win"
    if diverged:
        return f"{what}: {diverged[-1].why}", "lower the learning rates in sweep.space"
    return f"{what}: {trials[-1].why}", "mend the cause; `hone sweep` begins anew"


def winner_data(arena: Arena, job: JobSpec) -> dict[str, Any]:
    """Return the data stage's document as the winner's job has it: its own plan, and its own data set and report."""
    from trainers.prepare import report_of
    from trainers.prepared import Prepared

    prepared = Prepared(arena.data(job))
    return {
        "check": report_of(prepared, arena.plan(job)).model_dump(mode="json"),
        "prepared": arena.prepared[shape_key(job)],
        "data_hash": prepared.record.data_hash,
    }
