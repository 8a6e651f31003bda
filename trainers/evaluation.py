"""Held-out rows and models → scores, intervals and per-example predictions; base and tuned on the same rows.

The stage asks every model (tuned, base, base with few-shot examples, and the champion where a gate rule names it) for
the same examples in the same order, one Ray task a model, so that differences are paired. Rows with one input are one
example with several references. Predictions are kept as Parquet, one file a model and test, and what further looks
found (trainers/looks.py) beside the scores.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.acceptance_records import Acceptance
from cluster.errors import HoneError
from cluster.records import Interval, Metrics
from trainers.gate_rules import parse_rule
from trainers.inference import Inference, predict
from trainers.looks import Looks
from trainers.memorisation import Recital, recite
from trainers.metric_choice import choose_metrics
from trainers.metrics import AUC_MAX_LABELS, OF_VALUES, Predictions
from trainers.prepared import TRAIN, Prepared
from trainers.scoring import intervals, paired_difference, score
from trainers.splits import EvaluationExample, evaluation_examples

if TYPE_CHECKING:
    from cluster.run_context import RunContext
    from cluster.spec import JobSpec

BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class Scored:
    """What the evaluation stage left: scores and intervals by model role, then by test.

    ``slices`` are the tests that judge no task of their own: what further sources hold out.
    """

    metrics: dict[str, dict[str, Metrics]]
    intervals: dict[str, dict[str, dict[str, Interval]]]
    rows: dict[str, int]
    slices: list[str]

    def of(self, role: str) -> dict[str, Metrics]:
        """Return a role's scores by test; empty where it was not scored."""
        return self.metrics.get(role, {})


def read_scored(ctx: RunContext) -> Scored:
    """Return the committed evaluation."""
    directory = ctx.store.reading("runs", ctx.run, "evaluation")
    found = json.loads((directory / "scores.json").read_text())
    spans = {
        role: {test: {name: Interval(**value) for name, value in spans.items()} for test, spans in tests.items()}
        for role, tests in found["intervals"].items()
    }
    return Scored(found["metrics"], spans, found["rows"], found["slices"])


def read_acceptance(ctx: RunContext) -> Acceptance:
    """Return what the committed evaluation found beside scores."""
    directory = ctx.store.reading("runs", ctx.run, "evaluation")
    return Acceptance.model_validate_json((directory / "acceptance.json").read_text())


def run(ctx: RunContext) -> None:
    """Score every model on every test and commit ``runs/RUN/evaluation``."""
    prepared = Prepared(Path(ctx.prepared_path()))
    models = _models(ctx)
    record = prepared.record
    tests = {name: _examples(ctx, prepared, name) for name in [*record.tests, *record.slices]}
    asked_for = ctx.job.evaluate.metrics
    names = dict.fromkeys(record.tests, choose_metrics(record.task, asked_for, len(record.labels)))
    if ctx.job.evaluate.faithfulness is not None:
        names = {name: [*chosen, *OF_VALUES] for name, chosen in names.items()}
    names |= {name: choose_metrics(task, asked_for, 0) for name, task in record.slices.items()}
    asked: dict[tuple[str, str], Inference] = {
        (role, test): _inference(ctx.job, prepared, role, model, examples, labelled=test in record.tests)
        for test, examples in tests.items()
        for role, model in models.items()
    }
    looks = Looks(ctx.job, prepared, tests, names, models)
    further = looks.asked()
    sizes = ", ".join(f"{len(examples):,} of {name}" for name, examples in tests.items()) or "no test rows"
    ctx.progress.say(f"evaluate: {', '.join(models)} on {sizes}")
    said = _ask([*asked.values(), *further.values()], ctx.plan().gpus_per_worker)
    answers = looks.with_values(dict(zip(asked, said, strict=False)))
    found = looks.found(answers, dict(zip(further, said[len(asked) :], strict=True)))
    with ctx.store.writing("runs", ctx.run, "evaluation") as directory:
        (directory / "acceptance.json").write_text(found.as_json())
        for (role, test), predictions in answers.items():
            write_predictions(directory / f"{role}-{test}.parquet", tests[test], predictions)
        (directory / "scores.json").write_text(json.dumps(_scores(answers, names, tests, list(record.slices))))


def _models(ctx: RunContext) -> dict[str, str]:
    """Return role → model directory, URL in the store or hub id, in the order in which they are shown."""
    job = ctx.job
    ctx.store.reading("runs", ctx.run, "model")
    models = {"tuned": ctx.store.path("runs", ctx.run, "model")}
    if job.evaluate.base:
        models["base"] = job.base
    if job.evaluate.base and job.evaluate.few_shot:
        models["base_few_shot"] = job.base
    champion = ctx.registry.champion(job.name)
    if champion is not None and any("champion" in parse_rule(rule).peers for rule in job.gate):
        models["champion"] = ctx.registry.release_of(champion)
    return models


def _examples(ctx: RunContext, prepared: Prepared, test: str) -> list[EvaluationExample]:
    examples = evaluation_examples(prepared.rows(test))
    limit = ctx.job.evaluate.max_examples
    if limit is None or limit >= len(examples):
        return examples
    chosen = random.Random(ctx.job.data.split.seed).sample(range(len(examples)), limit)
    return [examples[i] for i in sorted(chosen)]


def _inference(
    job: JobSpec, prepared: Prepared, role: str, model: str, examples: list[EvaluationExample], *, labelled: bool
) -> Inference:
    classes = prepared.record.labels if labelled else []
    shots: list[list[dict[str, str]]] = []
    if role == "base_few_shot":
        rows = prepared.rows(TRAIN)
        chosen = random.Random(job.train.seed).sample(rows, min(job.evaluate.few_shot, len(rows)))
        shots = [list(row.messages) for row in chosen]
    return Inference(
        model=model,
        examples=examples,
        template=None if role in ("tuned", "champion") else job.data.template,
        label_names=classes,
        score_labels=0 < len(classes) <= AUC_MAX_LABELS and not shots,
        max_new_tokens=job.evaluate.max_new_tokens,
        batch_rows=job.evaluate.batch_size,
        max_length=prepared.record.max_length,
        shots=shots,
    )


def _ask(asked: list[Inference | Recital], gpus: float) -> list[Any]:
    """Answer each inference or recital in its own Ray task."""
    import ray
    from ray.exceptions import RayTaskError

    def task(of: Callable[..., Any]) -> Callable[..., Any]:
        return ray.remote(num_cpus=1, num_gpus=min(gpus, 1), max_retries=1)(of).remote

    answering, reciting = task(predict), task(recite)
    try:
        return ray.get([reciting(one) if isinstance(one, Recital) else answering(one) for one in asked])
    except RayTaskError as error:
        cause = error.cause
        raise cause if isinstance(cause, HoneError) else error from error


def _scores(
    answers: dict[tuple[str, str], Predictions],
    names: dict[str, list[str]],
    tests: dict[str, list[EvaluationExample]],
    slices: list[str],
) -> dict[str, Any]:
    metrics: dict[str, dict[str, Metrics]] = {}
    spans: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for (role, test), predictions in answers.items():
        metrics.setdefault(role, {})[test] = score(predictions, names[test])
        found = intervals(predictions, names[test], BOOTSTRAP_SEED)
        spans.setdefault(role, {})[test] = {name: value.model_dump() for name, value in found.items()}
        if role == "base":
            paired = paired_difference(answers["tuned", test], predictions, names[test], BOOTSTRAP_SEED)
            spans.setdefault("difference", {})[test] = {name: value.model_dump() for name, value in paired.items()}
    rows = {name: len(examples) for name, examples in tests.items()}
    return {"metrics": metrics, "intervals": spans, "rows": rows, "slices": slices}


def write_predictions(path: Path, examples: Sequence[EvaluationExample], predictions: Predictions) -> None:
    """Write one row an example: where it stands, its input, the references, the answer and the likelihoods."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table: dict[str, Any] = {
        "where": [example.where for example in examples],
        "prompt": [json.dumps(example.prompt, ensure_ascii=False) for example in examples],
        "references": [list(example.references) for example in examples],
        "prediction": predictions.texts or [None] * len(examples),
    }
    if predictions.labels is not None:
        table["label"] = predictions.labels
    if predictions.label_scores is not None:
        table["label_scores"] = predictions.label_scores.tolist()
    if predictions.nll is not None and predictions.target_tokens is not None:
        table["nll"] = predictions.nll
        table["target_tokens"] = predictions.target_tokens
    if predictions.values is not None:
        table["values"] = predictions.values.tolist()
    pq.write_table(pa.table(table), path)


def read_predictions(path: Path, label_names: list[str]) -> tuple[list[EvaluationExample], Predictions]:
    """Return what ``write_predictions`` wrote; ``label_names`` are the training rows' labels."""
    import pyarrow.parquet as pq

    found = pq.read_table(path).to_pydict()
    labels = found.get("label")
    examples = [
        EvaluationExample(tuple(json.loads(prompt)), tuple(references), label, where)
        for prompt, references, label, where in zip(
            found["prompt"], found["references"], labels or [None] * len(found["where"]), found["where"], strict=True
        )
    ]
    texts = [text for text in found["prediction"] if text is not None]
    return examples, Predictions(
        texts=texts,
        references=[example.references for example in examples] if texts else [],
        labels=labels,
        label_names=label_names if labels is not None else None,
        label_scores=np.array(found["label_scores"]) if "label_scores" in found else None,
        nll=np.array(found["nll"]) if "nll" in found else None,
        target_tokens=np.array(found["target_tokens"]) if "target_tokens" in found else None,
        values=np.array(found["values"], dtype=np.int64) if "values" in found else None,
    )
