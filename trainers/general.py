"""General rows, base and tuned model → what tuning cost in general ability, on the same rows.

The rows are those that `evaluate.general` names, without those that were trained on, or else the rows that `data.mix`
holds out. Plain text gives perplexity; prompts with answers also give the task's scores. No text comes with the
program: without rows there is no number, and nothing stands in for it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import exp
from typing import TYPE_CHECKING

import numpy as np

from cluster.acceptance_records import General
from cluster.errors import DataError
from cluster.records import Interval
from trainers.gate_rules import parse_rule
from trainers.metric_choice import choose_metrics
from trainers.metrics import AUC_MAX_LABELS, Predictions
from trainers.robustness import as_drop
from trainers.scoring import paired_difference, values
from trainers.sources import read_rows
from trainers.splits import evaluation_examples
from trainers.tasks import is_answered, task_of

if TYPE_CHECKING:
    from cluster.evaluate_spec import GeneralSpec
    from trainers.rows import Row
    from trainers.splits import EvaluationExample

SEED = 0
SOURCE = "evaluate.general"
FEWEST = 2


@dataclass(frozen=True)
class GeneralRows:
    """The examples that base and tuned model are asked, their labels if they are classes, and what was left out."""

    examples: list[EvaluationExample]
    labels: list[str]
    names: list[str]
    left_out: int


def read_general(spec: GeneralSpec, trained_on: Iterable[Row], seed: int) -> GeneralRows:
    """Return a sample of the job's general rows. Raises DataError where they cannot be read or none is left."""
    trained = {_key(row) for row in trained_on}
    rows = [row for row in read_rows(spec.data, spec, source="general") if is_answered(row)]
    fresh = [row for row in rows if _key(row) not in trained]
    task = task_of(fresh)
    if task is None:
        what = f"of {len(rows):,} rows of {', '.join(spec.data)} with an answer, all were trained on"
        raise DataError(what, "name rows that the job does not train on", SOURCE)
    if len(fresh) < FEWEST:
        raise DataError(f"{len(fresh)} general rows are too few to compare on", "name more", SOURCE)
    labels = sorted({str(row.label) for row in fresh}) if task == "classification" else []
    examples = evaluation_examples(fresh)
    if spec.max_examples < len(examples):
        chosen = random.Random(seed).sample(range(len(examples)), spec.max_examples)
        examples = [examples[place] for place in sorted(chosen)]
    names = choose_metrics(task, "auto", len(labels) if len(labels) <= AUC_MAX_LABELS else None)
    return GeneralRows(examples, labels, names, len(rows) - len(fresh))


def general(source: str, tuned: Predictions, base: Predictions, names: Sequence[str], left_out: int = 0) -> General:
    """Return how tuned and base do on the same general rows, and by how much tuning made it worse."""
    worse = paired_difference(base, tuned, names, SEED)
    loss = worse.get("loss")
    return General(
        source=source,
        examples=tuned.num_examples,
        left_out=left_out,
        tuned=values(tuned, names),
        base=values(base, names),
        drop={name: as_drop(name, span) for name, span in worse.items()},
        perplexity_ratio=None if loss is None else _ratio(as_drop("loss", loss)),
    )


def likelihoods(parts: Sequence[Predictions]) -> Predictions:
    """Return the likelihoods of several sets of rows as one; their tasks may differ, their tokens do not."""
    known = [(one.nll, one.target_tokens) for one in parts if one.nll is not None and one.target_tokens is not None]
    nll, target_tokens = (np.concatenate(columns) for columns in zip(*known, strict=True))
    return Predictions([], [], nll=nll, target_tokens=target_tokens)


def names_general(rules: Iterable[str]) -> bool:
    """Say whether a gate rule speaks of general ability."""
    sides = [side for rule in rules for side in parse_rule(rule).sides]
    return any(side.term is not None and side.term.name.startswith("general_") for side in sides)


def _ratio(loss: Interval) -> Interval:
    """Return the ratio of two perplexities from the difference of their losses: both ends move with the exponent."""
    return Interval(value=exp(loss.value), low=exp(loss.low), high=exp(loss.high))


def _key(row: Row) -> str:
    return json.dumps([row.prompt, row.completion], ensure_ascii=False)
