"""A task and what the job asks for → the names of the metrics to compute, or why one of them cannot be."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from typing import Literal

from cluster.errors import JobFileError
from trainers.metrics import ALWAYS, AUC_MAX_LABELS, METRICS, Metric, Task

WHERE = "evaluate.metrics"


def choose_metrics(task: Task, metrics: Literal["auto"] | Sequence[str], num_labels: int | None = None) -> list[str]:
    """Return the names of the metrics to compute, loss and perplexity always among them.

    ``auto`` gives what fits the task, AUC-ROC only up to 20 labels. Raises JobFileError for a name that is no metric or
    that the task has nothing to compute from.
    """
    if metrics == "auto":
        auc = num_labels is not None and 2 <= num_labels <= AUC_MAX_LABELS
        return [name for name, metric in METRICS.items() if task in metric.tasks and (name != "auc_roc" or auc)]
    for name in metrics:
        if name not in METRICS:
            raise JobFileError(f"{name!r} is no known metric", did_you_mean(name, METRICS), WHERE)
        _refuse_unfit(METRICS[name], task)
    return list(dict.fromkeys([*metrics, *ALWAYS]))


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return a remedy that names the closest known name, if any is close, and all of them."""
    close = get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}known: {', '.join(known)}"


def _refuse_unfit(metric: Metric, task: Task) -> None:
    name, needs = metric.name, metric.needs
    if needs in ("labels", "label_scores") and task != "classification":
        raise JobFileError(
            f"{name!r} needs labels, and the task is {task}",
            "remove it, or name the label column: data.columns.label",
            WHERE,
        )
    if needs == "values":
        raise JobFileError(f"{name!r} comes with evaluate.faithfulness", "set that, and remove it here", WHERE)
    if needs == "texts" and task == "text":
        raise JobFileError(f"{name!r} needs answers to compare, and the data is plain text", "remove it", WHERE)
