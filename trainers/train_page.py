"""A finished run's artifacts → the page kept with it: what came out, how it was reached, and what it did to answers.

The decision comes first, then the scores behind it, then the evidence: curves, the same examples before and after,
confusions, time. Everything is read from what the stages committed, so the page says nothing that the run's directory
does not hold, and a run that was resumed has one page. Personal data is masked wherever rows are shown.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from markupsafe import Markup

from cluster.acceptance_records import Acceptance
from cluster.pages import Cell, Section, Tile, Tone, badge, banner, element, facts, joined, page, table, tiles
from cluster.phases import duration, read_phases
from cluster.pipeline import REPORT_PAGE
from cluster.records import CheckReport, GateReport, Release, RuleOutcome, TrainedWeights, TrainResult
from trainers.answered import Answered
from trainers.audit_evidence import counted
from trainers.calibration import calibration_section
from trainers.confusion import confusion_section
from trainers.evaluation import Scored, read_acceptance, read_predictions, read_scored
from trainers.looks_page import general_section, memorisation_section, robustness_section
from trainers.prepared import Prepared
from trainers.recorder import read_history
from trainers.slices_page import slices_section
from trainers.train import trained_weights
from trainers.train_curves import curves_section
from trainers.train_samples import samples_section
from trainers.train_scores import scores_section
from trainers.train_time import stages_timed, time_section
from trainers.worst_examples import worst_section

if TYPE_CHECKING:
    from cluster.phases import Phase
    from cluster.records import GateDecision, Plan
    from cluster.run_context import RunContext
    from cluster.spec import JobSpec
    from trainers.prepared import PreparedRecord
    from trainers.train_curves import History

DECISIONS: dict[GateDecision, tuple[Tone, str]] = {
    "accept": ("good", "Accepted"),
    "hold": ("warning", "Held"),
    "reject": ("error", "Rejected"),
}
PASSED: dict[bool | None, tuple[Tone, str]] = {
    True: ("good", "holds"),
    False: ("error", "fails"),
    None: ("warning", "undecided"),
}
METHODS = {"full": "all weights", "lora": "LoRA", "qlora": "QLoRA"}
SHOWN_FILES = 5
SHOWN_TESTS = 3


@dataclass(frozen=True)
class FinishedRun:
    """What the page is made from: the records that the stages of one run left."""

    job: JobSpec
    result: TrainResult
    release: Release
    check: CheckReport
    data: PreparedRecord
    trained: TrainedWeights
    history: History
    scored: Scored
    found: Acceptance
    tests: list[Answered]
    phases: list[Phase]

    @property
    def plan(self) -> Plan:
        """What was decided before training."""
        assert self.check.plan is not None, "a run without a plan never passes its data stage"
        return self.check.plan


def run(ctx: RunContext) -> None:
    """Write ``runs/RUN/report.html`` and keep it with the MLflow run."""
    text = train_page(finished_run(ctx))
    ctx.registry.log_text(ctx.run, text, REPORT_PAGE)
    ctx.store.put_text(text, "runs", ctx.run, REPORT_PAGE)


def finished_run(ctx: RunContext) -> FinishedRun:
    """Return what the stages of a run left, read again."""
    trained, weights_dir = trained_weights(ctx)
    record = Prepared(Path(ctx.prepared_path())).record
    release_dir = ctx.store.reading("runs", ctx.run, "release")
    scored = read_scored(ctx)
    return FinishedRun(
        job=ctx.job,
        result=TrainResult.model_validate(ctx.store.get_json("runs", ctx.run, "result.json")),
        release=Release.model_validate(json.loads((release_dir / "release.json").read_text(encoding="utf-8"))),
        check=ctx.check(),
        data=record,
        trained=trained,
        history=read_history(weights_dir),
        scored=scored,
        found=read_acceptance(ctx),
        tests=list(_tests(ctx, scored, record.labels)),
        phases=read_phases(ctx.store, ctx.run),
    )


def _tests(ctx: RunContext, scored: Scored, labels: list[str]) -> Iterator[Answered]:
    directory = ctx.store.reading("runs", ctx.run, "evaluation")
    for test in sorted(scored.rows, key=lambda test: test in scored.slices):
        examples, tuned = read_predictions(directory / f"tuned-{test}.parquet", labels)
        path = directory / f"base-{test}.parquet"
        base = read_predictions(path, labels)[1] if path.exists() else None
        yield Answered(test, examples, tuned, base, is_slice=test in scored.slices)


def train_page(done: FinishedRun) -> str:
    """Return the page as HTML."""
    sections = [
        scores_section(done.scored, done.trained.validation, done.trained.best_step),
        slices_section(done.found),
        curves_section(done.history, done.trained, done.plan, done.job.train),
        samples_section(done.tests),
        worst_section(done.tests),
        confusion_section(done.tests),
        calibration_section(done.tests),
        robustness_section(done.found),
        general_section(done.found),
        memorisation_section(done.found),
        time_section(done.phases, done.trained, done.plan),
        _made_of(done),
    ]
    foot = f"Made by hone at the end of the run {done.result.run}."
    kept = [section for section in sections if section is not None]
    return page(done.job.name, "Training report", _head(done), kept, foot)


def _head(done: FinishedRun) -> Markup:
    gate, version = done.result.gate, done.result.version
    tone, said = DECISIONS[gate.decision]
    named = f"{said}: {version}" if version else f"{said}: no version was made"
    told = [
        ("run", element("code", done.result.run)),
        ("release", element("code", done.result.release)),
        ("trained", _trained(done)),
        ("data", f"{', '.join(_files(done.data))}; {_rows(done)}"),
        ("data hash", element("code", done.release.data_hash)),
        ("hardware", _hardware(done)),
    ]
    return banner(tone, named, _why(gate)) + _rules(gate.rules) + tiles(list(_tiles(done))) + facts(told)


def _why(gate: GateReport) -> str:
    if not gate.rules:
        return "The job has no gate rules, so every release is accepted."
    failed = sum(rule.passed is False for rule in gate.rules)
    missing = sum(rule.passed is None for rule in gate.rules)
    if failed:
        return f"{failed} of {counted(len(gate.rules), 'gate rule')} failed."
    if missing:
        return f"{missing} of {counted(len(gate.rules), 'gate rule')} could not be decided: a number is missing."
    return f"{counted(len(gate.rules), 'gate rule holds', 'gate rules hold')}."


def _rules(rules: Sequence[RuleOutcome]) -> Markup:
    rows: list[list[Cell]] = [
        [badge(*PASSED[rule.passed]), element("code", rule.rule), _side(rule.left), _side(rule.right), rule.note]
        for rule in rules
    ]
    return table(["", "gate rule", "left side", "right side", ""], rows, numeric={2, 3}) if rows else Markup("")


def _side(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _tiles(done: FinishedRun) -> Iterator[Tile]:
    trained, scored = done.trained, done.scored
    judged = [test for test, metrics in scored.of("tuned").items() if metrics and test not in scored.slices]
    for test in judged[:SHOWN_TESTS]:
        name, value = next(iter(scored.of("tuned")[test].items()))
        base = scored.of("base").get(test, {}).get(name)
        where = name if test == "test" else f"{name} on {test}"
        yield Tile(f"{value:.3f}", where, "" if base is None else f"base {base:.3f}")
    if not scored.of("tuned") and "loss" in trained.validation:
        yield Tile(f"{trained.validation['loss']:.3f}", "validation loss", f"at step {trained.best_step:,}")
    yield Tile(f"{trained.steps:,}", "steps", f"{trained.examples:,} examples, best at {trained.best_step:,}")
    rate = trained.throughput
    yield Tile(f"{rate.examples_per_s:,.0f}", "examples a second", f"{rate.target_tokens_per_s:,.0f} target tokens")
    stages = stages_timed(done.phases, trained)
    if stages:
        label = "in all" if all(time.is_known for time in stages) else "at least, in all"
        yield Tile(duration(sum(time.took_s for time in stages)), label, f"{duration(trained.seconds)} in steps")
    else:
        yield Tile(duration(trained.seconds), "in steps")


def _trained(done: FinishedRun) -> str:
    train, plan = done.job.train, done.plan
    how = "all weights of" if train.method == "full" else f"{METHODS[train.method]} of rank {train.lora.rank} over"
    share = f"{plan.trainable_parameters:,} of {plan.parameters:,} parameters"
    return f"{how} {done.job.base} ({share}), {train.epochs:g} epochs of {counted(plan.steps_per_epoch, 'step')}"


def _files(data: PreparedRecord) -> list[str]:
    names = list(dict.fromkeys(PurePath(file.name).name for file in data.files))
    return names[:SHOWN_FILES] + [f"and {counted(len(names) - SHOWN_FILES, 'file')} more"] * (len(names) > SHOWN_FILES)


def _rows(done: FinishedRun) -> str:
    return ", ".join(f"{count.rows:,} {name}" for name, count in done.check.splits.items()) + " rows"


def _hardware(done: FinishedRun) -> str:
    trained, plan = done.trained, done.plan
    each = f"{plan.gpus_per_worker:g} GPU each" if plan.gpus_per_worker else f"{plan.cpus_per_worker:g} CPU each"
    workers = f"{counted(trained.world_size, 'worker')} on {plan.device} ({trained.device_name}), {each}"
    return f"{workers}, {plan.precision}, ZeRO stage {trained.zero_stage}"


def _made_of(done: FinishedRun) -> Section:
    train, release = done.job.train, done.release
    method = METHODS[train.method]
    if train.method != "full":
        lora = train.lora
        method += f": rank {lora.rank}, alpha {lora.alpha:g}, dropout {lora.dropout:g}, on {lora.targets}"
    difference = release.reload_max_abs_diff
    kept = f"the best {train.best_by} on the validation rows" if done.trained.validation else "the last one"
    told: list[tuple[str, Cell]] = [
        ("base", Markup("{} {}").format(element("code", release.base), element("small", release.base_hash))),
        ("method", method),
        ("learning rate", f"{train.learning_rate:g}, {train.schedule}, {train.warmup:.0%} of the steps warm-up"),
        ("batch", f"{train.batch_size} examples a step, texts up to {done.data.max_length:,} tokens"),
        ("weights kept", f"of step {done.trained.best_step:,}, {kept}"),
        ("seed", str(train.seed)),
        ("reloaded", "not compared" if difference is None else f"logits differ by at most {difference:.1g}"),
        ("libraries", ", ".join(f"{name} {number}" for name, number in release.versions.items())),
    ]
    splits = [[n, f"{s.rows:,}", f"{s.tokens:,}", f"{s.target_tokens:,}"] for n, s in done.check.splits.items()]
    rows = table(["split", "rows", "tokens", "target tokens"], splits, numeric={1, 2, 3})
    lead = Markup("The audit of the data is in <code>check.html</code> beside this page, every prediction as Parquet.")
    return Section("What it was made of", joined([facts(told), rows]), lead)
