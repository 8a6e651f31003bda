"""`hone evaluate`: any release or base model on any rows → its scores, in this process.

The rows are read and grouped as in training, the metrics chosen by the task that the rows show. Nothing is compared and
nothing is gated: that is the pipeline's work.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cluster.errors import DataError, UsageError
from cluster.evaluate_spec import EvaluateSpec
from cluster.places import is_remote, local_directory
from cluster.records import EvalReport
from cluster.registry import Registry
from cluster.spec import DataSpec
from cluster.store import Store
from trainers.evaluation import BOOTSTRAP_SEED, write_predictions
from trainers.inference import Inference, predict
from trainers.metric_choice import choose_metrics
from trainers.metrics import AUC_MAX_LABELS
from trainers.report_records import FileRecord
from trainers.scoring import intervals, score
from trainers.slices import members, refuse_unknown_slices, slice_table
from trainers.sources import SourceProblems, read_rows
from trainers.splits import evaluation_examples
from trainers.tasks import is_answered, task_of

MIN_SLICE_EXAMPLES: int = EvaluateSpec().min_slice_examples

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from trainers.metrics import Task
    from trainers.rows import Row
    from trainers.splits import EvaluationExample


@dataclass(frozen=True)
class RowsToScore:
    """Rows with answers, grouped into examples, and what they ask for."""

    rows: list[Row]
    examples: list[EvaluationExample]
    files: list[FileRecord]
    task: Task
    labels: list[str]


def evaluate_model(
    model: str,
    data: Sequence[str],
    settings: Settings,
    progress: Progress,
    *,
    columns: dict[str, str],
    metrics: Literal["auto"] | list[str],
    max_new_tokens: int,
    slices: Sequence[str] = (),
) -> EvalReport:
    """Score one release or base on any rows, here, and keep its predictions under ``HONE_HOME/evaluations``.

    ``model`` is NAME@N, NAME@champion, a directory, or base:PATH. Raises UsageError for a model that is not there and
    DataError for rows without answers. ``slices`` are columns whose values are scored apart as well.
    """
    asked = rows_to_score(data, columns)
    refuse_unknown_slices(slices, {"data": asked.rows}, asked.files)
    examples, labels = asked.examples, asked.labels
    path = model_directory(model, Registry(settings))
    progress.say(f"evaluate: {path} on {len(examples):,} examples")
    predictions = predict(
        Inference(path, examples, None, labels, 2 <= len(labels) <= AUC_MAX_LABELS, max_new_tokens=max_new_tokens)
    )
    names = choose_metrics(asked.task, metrics, len(labels))
    store = Store(settings.home)
    content = json.dumps([path, max_new_tokens, [(example.prompt, example.references) for example in examples]])
    key = hashlib.sha256(content.encode()).hexdigest()[:16]
    if not store.is_committed("evaluations", key):
        with store.writing("evaluations", key) as directory:
            write_predictions(directory / "predictions.parquet", examples, predictions)
    return EvalReport(
        model=path,
        split="data",
        rows=len(examples),
        metrics=score(predictions, names),
        intervals=intervals(predictions, names, BOOTSTRAP_SEED),
        predictions=store.path("evaluations", key, "predictions.parquet"),
        slices={
            column: slice_table(predictions, found, names, MIN_SLICE_EXAMPLES, BOOTSTRAP_SEED)
            for column in slices
            if (found := members(examples, asked.rows, column, asked.files)) is not None
        },
    )


def rows_to_score(data: Sequence[str], columns: dict[str, str]) -> RowsToScore:
    """Return the rows with answers of these sources; raises DataError where there are none."""
    spec = DataSpec.model_validate({"train": list(data), "columns": columns})
    problems = SourceProblems()
    rows = [row for row in read_rows(spec.train, spec, source="data", problems=problems) if is_answered(row)]
    task = task_of(rows)
    if task is None:
        raise DataError(f"no row of {', '.join(data)} has an answer to score against", "check --columns")
    labels = sorted({str(row.label) for row in rows}) if task == "classification" else []
    return RowsToScore(rows, evaluation_examples(rows), [FileRecord.of(f) for f in problems.files], task, labels)


def model_directory(model: str, registry: Registry) -> str:
    """Return this machine's directory of NAME@N, NAME@champion, a directory, a URL in a store or base:PATH.

    Raises UsageError where it is none.
    """
    if model.startswith("base:"):
        return local_directory(model.removeprefix("base:"))
    if is_remote(model):
        return local_directory(model)
    if "@" in model:
        return local_directory(registry.release_of(model))
    if Path(model).is_dir():
        return str(Path(model).resolve())
    raise UsageError(f"{model} is no release here", "give NAME@N, NAME@champion, a directory, or base:PATH")
