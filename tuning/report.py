"""A finished sweep's records → ``sweep.html``, kept beside the winner's report: what was tried, and what it showed.

Optimisation history, parallel coordinates, importances, slices and the curves of all trials with the places where they
were ended; first of all, whether the winner can be told from the job's own values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from cluster.charts import Bar, bars
from cluster.jobfile import stored_job
from cluster.pages import Cell, Section, Tile, Tone, badge, banner, element, facts, joined, page, table, tiles
from cluster.phases import duration
from cluster.pipeline import SWEEP_PAGE
from cluster.run_context import FINALS_JSON, SEARCHED
from cluster.runs import RUNS
from cluster.sweep_spec import Choice, Dimension, Range
from cluster.train_spec import is_lower_better, mode_of
from tuning.importance import early_value, importances
from tuning.judge import FULL, rungs
from tuning.objective import evaluations, progress_of
from tuning.outcome import compared
from tuning.plots import Dot, Kind, Scale, Strand, bundle, parallel, scatter
from tuning.table import number_text
from tuning.tradeoff_view import tradeoff_section
from tuning.trials import FINALS, TrialRecord, read_trials, trial_history

if TYPE_CHECKING:
    from cluster.run_context import RunContext
    from cluster.spec import JobSpec

KINDS: dict[str, Kind] = {"complete": "full", "pruned": "hollow", "diverged": "cross", "failed": "cross"}
TONES: dict[str, tuple[Tone, str]] = {
    "complete": ("good", "finished"),
    "pruned": ("note", "pruned"),
    "diverged": ("warning", "diverged"),
    "failed": ("error", "failed"),
}
MAX_SHOWN = 200


@dataclass(frozen=True)
class FinishedSweep:
    """What the page is made from: the sweep's job, its trials with their curves by progress, and its finals."""

    job: JobSpec
    run: str
    searched: Mapping[str, Any]
    finals: Mapping[str, Any]
    trials: Sequence[TrialRecord]
    final_runs: Sequence[TrialRecord] = ()
    curves: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)

    @property
    def metric(self) -> str:
        """The name of what trials are compared by."""
        return self.job.train.best_by

    @property
    def winner(self) -> TrialRecord:
        """The trial whose values won."""
        return next(trial for trial in self.trials if trial.number == self.finals["winner"])

    @property
    def space(self) -> dict[str, Dimension]:
        """The swept keys with more than one value."""
        assert self.job.sweep is not None, "a job with a sweep block"
        found = self.job.sweep.dimensions()
        return {key: dim for key, dim in found.items() if not (isinstance(dim, Choice) and len(dim.options) == 1)}

    def kind(self, trial: TrialRecord) -> Kind:
        """Return how a trial is drawn."""
        return "best" if trial.number == self.finals["winner"] else KINDS[trial.state]


def run(ctx: RunContext) -> None:
    """Write ``runs/RUN/sweep.html`` and keep it with the MLflow run."""
    text = sweep_page(finished_sweep(ctx))
    ctx.registry.log_text(ctx.run, text, SWEEP_PAGE)
    ctx.store.put_text(text, RUNS, ctx.run, SWEEP_PAGE)


def finished_sweep(ctx: RunContext) -> FinishedSweep:
    """Return what the stages of a sweep left, read again; the context's job is the winner's, not the sweep's."""
    job = stored_job(ctx.store, RUNS, ctx.run, "job.yaml")
    trials = read_trials(ctx.store, ctx.run)
    curves = {trial.name: _curve(ctx, trial, job.train.best_by) for trial in trials}
    return FinishedSweep(
        job=job,
        run=ctx.run,
        searched=ctx.store.get_json(RUNS, ctx.run, SEARCHED),
        finals=ctx.store.get_json(RUNS, ctx.run, FINALS_JSON),
        trials=trials,
        final_runs=read_trials(ctx.store, ctx.run, FINALS),
        curves=curves,
    )


def _curve(ctx: RunContext, trial: TrialRecord, metric: str) -> list[tuple[float, float]]:
    seen = evaluations(trial_history(ctx.store, ctx.run, trial.name), metric)
    return [(progress_of(one.step, trial.steps) / FULL, one.value) for one in seen]


def sweep_page(done: FinishedSweep) -> str:
    """Return the page as HTML."""
    sections = [
        _history(done),
        tradeoff_section(done.job, done.trials, done.kind, _named),
        _curves(done),
        _parallel(done),
        _importances(done),
        _slices(done),
        _finals(done),
        _trials(done),
    ]
    kept = [section for section in sections if section is not None]
    return page(done.job.name, "Sweep report", _head(done), kept, f"Made by hone at the end of the run {done.run}.")


def _head(done: FinishedSweep) -> Markup:
    sweep = done.job.sweep
    assert sweep is not None, "a job with a sweep block"
    tone, said, more = compared(done.job, done.finals, done.trials)
    pruned = sum(trial.state == "pruned" for trial in done.trials)
    failed = sum(trial.state in ("diverged", "failed") for trial in done.trials)
    seconds = sum(trial.seconds for trial in done.trials)
    best = done.searched["best"]["value"]
    shown = [
        Tile(f"{best:.4g}", f"best {done.metric}", "on the validation rows, in the search"),
        Tile(str(len(done.trials)), "trials", f"{pruned} pruned, {failed} diverged or failed"),
        Tile(duration(seconds), "in trials", f"{duration(seconds / max(1, len(done.trials)))} each"),
    ]
    values = done.winner.values.items()
    pruning = "none pruned" if sweep.prune == "none" else f"pruned by {sweep.prune}"
    told: list[tuple[str, Cell]] = [
        ("study", element("code", done.run)),
        ("searched by", f"{sweep.search}, {pruning}, seed {sweep.seed}"),
        ("ended because", done.searched["ended"]),
        *((key.removeprefix("train."), element("code", number_text(value))) for key, value in values),
    ]
    return banner(tone, said, more) + tiles(shown) + facts(told)


def _history(done: FinishedSweep) -> Section:
    scored = [trial for trial in done.trials if trial.value is not None]
    dots = [Dot(t.number, t.value, done.kind(t), _named(t)) for t in scored if t.value is not None]
    x = Scale.of([trial.number for trial in done.trials])
    line = best_so_far(done.trials, is_lower=is_lower_better(done.metric))
    body = scatter("Optimisation history", f"best {done.metric} of each trial, by its number", x, dots, line)
    return Section("History", body, "The line is the best trial so far that ran its full budget.")


def best_so_far(trials: Sequence[TrialRecord], *, is_lower: bool) -> list[tuple[float, float]]:
    """Return the steps of the best value by trial number, among trials that ran their full budget."""
    found: list[tuple[float, float]] = []
    for trial in sorted(trials, key=lambda trial: trial.number):
        if trial.state == "complete" and trial.value is not None:
            before = found[-1][1] if found else trial.value
            better = min(before, trial.value) if is_lower else max(before, trial.value)
            found += [(float(trial.number), before), (float(trial.number), better)]
    return found


def _named(trial: TrialRecord) -> str:
    values = ", ".join(f"{key.removeprefix('train.')} {number_text(value)}" for key, value in trial.values.items())
    return f"trial {trial.number} ({values})"


def _curves(done: FinishedSweep) -> Section:
    sweep = done.job.sweep
    assert sweep is not None, "a job with a sweep block"
    strands = [Strand(done.curves.get(t.name, ()), done.kind(t), _named(t)) for t in done.trials[:MAX_SHOWN]]
    places = [rung / FULL for rung in rungs(sweep, done.job.train)]
    x = Scale.of([0.0, 1.0], ends=(0.0, 1.0))
    body = bundle("Learning curves", f"{done.metric} by share of the full budget", x, strands, places)
    lead = "Each curve ends where its trial ended; dashed lines are the rungs at which trials were compared."
    return Section("Curves", body, lead if places else "Each curve ends where its trial ended.")


def _parallel(done: FinishedSweep) -> Section | None:
    scored = [trial for trial in done.trials if trial.value is not None]
    if not scored or not done.space:
        return None
    axes = [(key.removeprefix("train."), _scale(done, key)) for key in done.space]
    axes.append((done.metric, Scale.of([trial.value for trial in scored])))
    rows: list[tuple[Sequence[object], Kind, str]] = [
        ([*(trial.values.get(key) for key in done.space), trial.value], done.kind(trial), _named(trial))
        for trial in scored[:MAX_SHOWN]
    ]
    lead = "One line a trial; broken lines were pruned, so their value is that of a part of the budget."
    return Section("Parallel coordinates", parallel(axes, rows), lead)


def _scale(done: FinishedSweep, key: str) -> Scale:
    dimension = done.space[key]
    if isinstance(dimension, Choice):
        return Scale(None, tuple(str(option) for option in dimension.options))
    is_log = isinstance(dimension, Range) and dimension.log
    return Scale.of([dimension.low, dimension.high], is_log=is_log, ends=(dimension.low, dimension.high))


def _slices(done: FinishedSweep) -> Section | None:
    figures = []
    for key in done.space:
        dots = [
            Dot(trial.values[key], trial.value, done.kind(trial), _named(trial))
            for trial in done.trials
            if trial.value is not None and key in trial.values
        ]
        figures.append(scatter(key, f"against {done.metric}", _scale(done, key), dots))
    if not figures:
        return None
    lead = "Each trial's best value against one key; the other keys differ as well, so read trends, not points."
    return Section("Slices", element("div", joined(figures), "figures"), lead)


def _importances(done: FinishedSweep) -> Section | None:
    assert done.job.sweep is not None, "a job with a sweep block"
    milestones = rungs(done.job.sweep, done.job.train)
    first = milestones[0] / FULL if milestones else 1.0
    early = {trial.number: early_value(done.curves.get(trial.name, ()), first, trial.value) for trial in done.trials}
    values = {number: value for number, value in early.items() if value is not None}
    found = importances(done.trials, values, done.space, mode_of(done.metric))
    if not found:
        return None
    rows = [Bar(element("code", key), value, f"{value:.2f}") for key, value in found.items()]
    lead = (
        "How much of what separates good trials from others goes with each key (PED-ANOVA), by the values at the first "
        "rung, which nearly all trials reached. Few trials make it a hint."
    )
    return Section("Importances", bars(rows, 1.0), lead)


def _finals(done: FinishedSweep) -> Section | None:
    if not done.final_runs:
        return None
    seeds = sorted({record.seed for record in done.final_runs})
    by_number: dict[int, dict[int, TrialRecord]] = {}
    for record in done.final_runs:
        by_number.setdefault(record.number, {})[record.seed] = record
    rows = [list(_finalist(done, number, by_seed, seeds)) for number, by_seed in by_number.items()]
    half = done.finals.get("half_width")
    spread = f" A mean's 95 % interval is ± {half:.3g}, from the spread over all of them." if half else ""
    lead = f"The best trials, trained again at the full budget with other seeds.{spread}"
    head = ["trial", "values", *(f"seed {seed}" for seed in seeds), "mean"]
    return Section("Finals", table(head, rows, numeric=set(range(2, len(head)))), lead)


def _finalist(
    done: FinishedSweep, number: int, by_seed: Mapping[int, TrialRecord], seeds: Sequence[int]
) -> Iterator[Cell]:
    told = [word for word, of in (("winner", "winner"), ("the job's own", "own")) if done.finals[of] == number]
    yield f"{number}{' (' + ', '.join(told) + ')' if told else ''}"
    first = next(iter(by_seed.values()))
    yield _named(first).partition("(")[2].rstrip(")")
    values = [by_seed[seed].value if seed in by_seed else None for seed in seeds]
    yield from ("–" if value is None else f"{value:.4f}" for value in values)
    known = [value for value in values if value is not None]
    yield f"{sum(known) / len(known):.4f}" if known else "–"


def _trials(done: FinishedSweep) -> Section:
    pays = next((name for trial in done.trials for name in trial.against), None)
    rows: list[list[Cell]] = [
        [
            str(trial.number),
            badge(*TONES[trial.state]),
            _named(trial).partition("(")[2].rstrip(")"),
            "–" if trial.value is None else f"{trial.value:.4f}",
            *([number_text(trial.against.get(pays, "–"))] if pays else []),
            f"{trial.progress / FULL:.0%}",
            duration(trial.seconds),
            trial.why,
        ]
        for trial in done.trials
    ]
    head = ["trial", "", "values", done.metric, *([pays] if pays else []), "budget", "time", ""]
    return Section("Trials", table(head, rows, numeric={0, *range(3, len(head) - 1)}))
