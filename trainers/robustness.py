"""A sample of a test → the same examples with changed inputs, and what the tuned model's other answers to them mean.

The drop of a metric is its value on the sample as it is less its value on the changed sample, turned so that above 0
is worse; its interval is paired, example by example. Consistency is the agreement of sampled answers to one input: the
share of pairs that are the same label, or the mean ROUGE-L of pairs; its interval is over examples.

Answers to the unchanged sample are those that the test was scored by, so only changed and repeated ones cost anything.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from cluster.acceptance_records import Perturbed, Robustness
from cluster.evaluate_spec import Perturbation, RobustnessSpec
from cluster.records import Interval
from trainers.bootstrap import Floats, bootstrap_intervals, from_mean
from trainers.label_metrics import NO_LABEL
from trainers.metrics import METRICS, Predictions
from trainers.perturbations import perturbed
from trainers.scoring import paired_difference, values
from trainers.splits import EvaluationExample
from trainers.text_metrics import rouge_of_each

SEED = 0


def kinds(spec: RobustnessSpec) -> list[Perturbation]:
    """Return the kinds of changes that are asked for, each once."""
    return list(dict.fromkeys(spec.kinds))


def sample(examples: Sequence[EvaluationExample], spec: RobustnessSpec) -> NDArray[np.int64]:
    """Return the places of the examples that are asked again, in order."""
    size = min(spec.max_examples, len(examples))
    return np.array(sorted(random.Random(spec.seed).sample(range(len(examples)), size)), dtype=np.int64)


def changed_examples(examples: Sequence[EvaluationExample], kind: Perturbation, seed: int) -> list[EvaluationExample]:
    """Return the examples with the last user turn of each changed."""
    return [_changed(example, kind, f"{seed}:{place}") for place, example in enumerate(examples)]


def repeated(examples: Sequence[EvaluationExample], repeats: int) -> list[EvaluationExample]:
    """Return every example ``repeats`` times, one after the other."""
    return [example for example in examples for _ in range(repeats)]


def robustness(
    clean: Predictions,
    asked: Sequence[EvaluationExample],
    changed: Mapping[str, tuple[list[EvaluationExample], Predictions]],
    repeats: Predictions | None,
    names: Sequence[str],
    spec: RobustnessSpec,
) -> Robustness:
    """Return what changed inputs and repeats did; ``clean`` are the answers to the sample ``asked`` as it is."""
    before = values(clean, names)
    found: dict[str, Perturbed] = {}
    for kind, (examples, answers) in changed.items():
        worse = paired_difference(clean, answers, names, SEED)
        found[kind] = Perturbed(
            changed=sum(a.prompt != b.prompt for a, b in zip(asked, examples, strict=True)),
            clean=before,
            metrics=values(answers, names),
            drop={name: as_drop(name, span) for name, span in worse.items()},
        )
    return Robustness(
        examples=len(asked),
        kinds=found,
        repeats=spec.repeats,
        temperature=spec.temperature if spec.repeats else 0.0,
        consistency=None if repeats is None else consistency(repeats, spec.repeats),
    )


def as_drop(name: str, span: Interval) -> Interval:
    """Return the difference before − after of a metric as one that is above 0 where after is worse."""
    if METRICS[name].higher_is_better:
        return span
    return Interval(value=-span.value, low=-span.high, high=-span.low)


def consistency(predictions: Predictions, repeats: int) -> Interval | None:
    """Return how far the answers of each ``repeats`` rows in a row agree, over their examples."""
    num_examples = predictions.num_examples // repeats
    agreement = from_mean(_agreements(predictions, num_examples, repeats))
    return bootstrap_intervals({"consistency": agreement}, num_examples, SEED).get("consistency")


def _agreements(predictions: Predictions, num_examples: int, repeats: int) -> Floats:
    """Return each example's mean agreement over the pairs of its answers, shape (num_examples,)."""
    pairs = list(combinations(range(repeats), 2))
    classes = predictions.classes()
    if classes is not None:
        said = classes[0].reshape(num_examples, repeats)
        texts = np.array([text.strip().casefold() for text in predictions.texts], dtype=object).reshape(said.shape)
        same = [
            np.where(said[:, i] == NO_LABEL, texts[:, i] == texts[:, j], said[:, i] == said[:, j]) for i, j in pairs
        ]
        return np.mean(np.stack(same).astype(np.float64), axis=0)
    answers = [predictions.texts[at * repeats : (at + 1) * repeats] for at in range(num_examples)]
    left = [of[i] for of in answers for i, _ in pairs]
    right = [of[j] for of in answers for _, j in pairs]
    alike = rouge_of_each(left, [(text,) for text in right], "rougeL")
    same = np.array([a == b for a, b in zip(left, right, strict=True)])  # also where neither has a word
    return np.maximum(alike, same).reshape(num_examples, len(pairs)).mean(axis=1)


def _changed(example: EvaluationExample, kind: Perturbation, seed: str) -> EvaluationExample:
    asks = [place for place, message in enumerate(example.prompt) if message["role"] == "user"]
    if not asks:
        return example
    turns = list(example.prompt)
    turns[asks[-1]] = turns[asks[-1]] | {"content": perturbed(kind, turns[asks[-1]]["content"], seed)}
    return replace(example, prompt=tuple(turns))
