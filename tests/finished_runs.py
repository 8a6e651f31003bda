"""Finished runs made on the spot: what every stage leaves, with answers given by a function instead of a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import StringIO
from math import exp
from pathlib import Path
from typing import Any, cast

import numpy as np

from cluster.acceptance_records import Acceptance
from cluster.phases import PHASES
from cluster.pipeline import REPORT_PAGE
from cluster.progress import Progress
from cluster.records import GateReport, Release, RuleOutcome, Throughput, TrainedWeights, TrainResult
from cluster.run_context import RunContext
from cluster.session import Settings
from cluster.spec import JobSpec
from cluster.store import Store
from tests.checked_sets import PLAN, checked_set
from trainers import train_page
from trainers.evaluation import write_predictions
from trainers.faithfulness import faithfulness_of
from trainers.looks import Looks
from trainers.metric_choice import choose_metrics
from trainers.metrics import OF_VALUES, Predictions
from trainers.prepared import Prepared
from trainers.recorder import HISTORY
from trainers.scoring import intervals, paired_difference
from trainers.splits import EvaluationExample, evaluation_examples

RUN = "checked-20260301-120000-abcd"
RULES = [RuleOutcome(rule="accuracy >= base + 0.1", left=0.8, right=0.35, passed=True)]
HASH = "d" * 64
PHASES_DONE = [
    {"stage": "data", "took_s": 8.0, "done": True},
    {"stage": "train", "took_s": 25.0},
    {"stage": "train", "took_s": 75.0, "done": True},
    {"stage": "export", "took_s": 2.0, "done": True},
    {"stage": "evaluate", "took_s": 12.0, "done": True},
    {"stage": "report", "took_s": None},
]
Answer = Callable[[str, EvaluationExample], str]


@dataclass
class Logged:
    """Stands for the registry: keeps the texts that were logged."""

    texts: dict[str, str] = field(default_factory=dict)

    def log_text(self, run: str, text: str, name: str) -> None:
        self.texts[name] = text


def history(steps: int = 120, every: int = 20, best_by: str = "loss") -> list[dict[str, float]]:
    """Return a falling loss with noise of its own, evaluated every so often."""
    noise = np.random.default_rng(0).normal(0, 0.1, steps)
    rows: list[dict[str, float]] = []
    for step in range(1, steps + 1):
        loss = 0.5 + 3 * exp(-step / 30) + float(noise[step - 1])
        rate = {"learning_rate": 1e-3 * (1 - step / steps), "grad_norm": 1 + abs(float(noise[step - 1]))}
        rows.append({"step": step, "loss": loss, **rate, "examples_per_s": 80.0 + step % 7})
        if every and step % every == 0:
            chosen = {} if best_by == "loss" else {f"validation_{best_by}": 1 - exp(-step / 40)}
            rows.append({"step": step, "validation_loss": loss + 0.1, **chosen})
    return rows


def trained(points: Sequence[dict[str, float]]) -> TrainedWeights:
    """Return the record of a training with this history: 60 s of steps, 20 s of evaluations, 5 s of checkpoints."""
    validation = {"loss": points[-1]["validation_loss"]} if "validation_loss" in points[-1] else {}
    steps = int(points[-1]["step"])
    return TrainedWeights(
        steps=steps,
        examples=steps * 32,
        target_tokens=steps * 64,
        seconds=60.0,
        evaluation_s=20.0,
        saving_s=5.0,
        best_step=steps,
        best_value=0.5,
        validation=validation,
        stopped_early=False,
        throughput=Throughput(examples_per_s=80.0, target_tokens_per_s=160.0),
        device="cpu",
        device_name="a processor",
        world_size=2,
        zero_stage=2,
    )


def finished_run(
    directory: Path,
    files: dict[str, Sequence[dict[str, Any]]],
    answer: Answer,
    *,
    roles: Sequence[str] = ("tuned", "base"),
    points: Sequence[dict[str, float]] | None = None,
    gate: GateReport | None = None,
    phases: Sequence[dict[str, Any]] = PHASES_DONE,
    data: dict[str, Any] | None = None,
    acceptance: Acceptance | None = None,
    **job: Any,
) -> RunContext:
    """Write what the stages of a job leave, up to the registered release, and return the run's context."""
    checked = checked_set(directory / "set", files, **(data or {}))
    spec = JobSpec.model_validate(checked.job.model_dump(mode="json") | job)
    store = Store(str(directory / "home"))
    settings = Settings.from_env({"HONE_HOME": str(directory / "home")}, directory)
    ctx = RunContext(RUN, spec, settings, store, cast("Any", Logged()), Progress(StringIO()))
    with store.writing("data", "prepared") as fresh:
        shutil.copytree(checked.prepared.path, fresh, dirs_exist_ok=True)
    report = checked.report(PLAN).model_dump(mode="json")
    store.put_json({"check": report, "prepared": "prepared", "data_hash": HASH}, "runs", RUN, "data.json")
    store.put_json(list(phases), "runs", RUN, PHASES)
    curve = list(points or history())
    with store.writing("runs", RUN, "train") as fresh:
        (fresh / "trained.json").write_text(trained(curve).as_json())
        (fresh / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in curve))
    _evaluate(ctx, checked.prepared, answer, roles, acceptance)
    _release(ctx, gate or GateReport(decision="accept", rules=RULES), trained(curve))
    return ctx


def _evaluate(
    ctx: RunContext, prepared: Prepared, answer: Answer, roles: Sequence[str], acceptance: Acceptance | None
) -> None:
    record = prepared.record
    answers: dict[tuple[str, str], Predictions] = {}
    tests = {test: evaluation_examples(prepared.rows(test)) for test in [*record.tests, *record.slices]}
    every: dict[str, list[str]] = {}
    spec = ctx.job.evaluate.faithfulness
    counting = None if spec is None else faithfulness_of(spec, prepared, tests)
    found: dict[str, Any] = {"metrics": {}, "intervals": {}, "rows": {}, "slices": list(record.slices)}
    with ctx.store.writing("runs", RUN, "evaluation") as fresh:
        for test, examples in tests.items():
            labels = record.labels if test in record.tests else []
            names = choose_metrics(record.slices.get(test, record.task), "auto", 0)
            every[test] = names
            said = {role: predictions(examples, labels, role, answer) for role in roles}
            if counting is not None and test in record.tests:
                names = [*names, *OF_VALUES]
                every[test] = names
                said = {role: counting.counted(examples, given) for role, given in said.items()}
            found["rows"][test] = len(examples)
            answers |= {(role, test): given for role, given in said.items()}
            for role, given in said.items():
                write_predictions(fresh / f"{role}-{test}.parquet", examples, given)
                spans = {name: span.model_dump() for name, span in intervals(given, names, 0, 50).items()}
                found["intervals"].setdefault(role, {})[test] = spans
                found["metrics"].setdefault(role, {})[test] = {name: span["value"] for name, span in spans.items()}
            if "base" in said:
                paired = paired_difference(said["tuned"], said["base"], names, 0, 50)
                spans = {name: span.model_dump() for name, span in paired.items()}
                found["intervals"].setdefault("difference", {})[test] = spans
        (fresh / "scores.json").write_text(json.dumps(found))
        seen = acceptance or Looks(ctx.job, prepared, tests, every, {}).found(answers, {})
        (fresh / "acceptance.json").write_text(seen.as_json())


def predictions(examples: list[EvaluationExample], labels: list[str], role: str, answer: Answer) -> Predictions:
    """Return what a model of this role says: the tuned one is surer of what it says than the others."""
    is_text = not examples[0].prompt
    sure = 1.0 if role == "tuned" else 3.0
    texts = [] if is_text else [answer(role, example) for example in examples]
    return Predictions(
        texts=texts,
        references=[] if is_text else [example.references for example in examples],
        labels=[str(example.label) for example in examples] if labels else None,
        label_names=labels or None,
        label_scores=_probabilities(texts, labels) if len(labels) > 1 else None,
        nll=np.array([sure * (1 + place % 3) for place in range(len(examples))]),
        target_tokens=np.full(len(examples), 4),
    )


def _probabilities(texts: list[str], labels: list[str]) -> np.ndarray:
    """Return 0.9 or 0.6 for the label that is said, the rest for the others alike."""
    scores = np.full((len(texts), len(labels)), 1 / len(labels))
    for place, text in enumerate(texts):
        if text in labels:
            sure = (0.9, 0.6)[place % 2]
            scores[place] = (1 - sure) / (len(labels) - 1)
            scores[place, labels.index(text)] = sure
    return scores


def _release(ctx: RunContext, gate: GateReport, weights: TrainedWeights) -> None:
    with ctx.store.writing("runs", RUN, "release") as fresh:
        release = Release(
            name="checked",
            run=RUN,
            method=ctx.job.train.method,
            base="./base",
            base_hash="b" * 64,
            data_hash=HASH,
            job={},
            versions={"torch": "2.13.0"},
            reload_max_abs_diff=0.0,
        )
        (fresh / "release.json").write_text(release.as_json())
    result = TrainResult(
        run=RUN,
        release=ctx.store.path("runs", RUN, "release"),
        version="checked@1" if gate.decision == "accept" else None,
        steps=weights.steps,
        examples=weights.examples,
        metrics={},
        intervals={},
        throughput=weights.throughput,
        gate=gate,
    )
    ctx.store.put_json(result.model_dump(mode="json"), "runs", RUN, "result.json")


def written_page(ctx: RunContext) -> str:
    """Run the report's stage and return the page that it left."""
    train_page.run(ctx)
    return ctx.store.get_text("runs", RUN, REPORT_PAGE)
