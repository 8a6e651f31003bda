"""`hone compare`: releases and bases asked for the same rows → scores, and paired differences that may be compared.

The first model is what the others are held against. Every model is resampled by the same rows, so differences are
paired; their intervals hold for all models together (Bonferroni), and the best by a metric is called clear only where
it is apart from every other. Likelihoods per token of models with other vocabularies count other things: they are left
out, and that is said. On a small sample, bases can be told apart before any training.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from cluster.compare_records import Best, Compared, CompareReport
from cluster.errors import UsageError
from cluster.records import Interval
from cluster.registry import Registry
from trainers.bootstrap import RESAMPLES, Floats, bootstrap, percentile_interval
from trainers.evaluation import BOOTSTRAP_SEED
from trainers.inference import Inference, predict
from trainers.metric_choice import choose_metrics
from trainers.metrics import ALWAYS, AUC_MAX_LABELS, METRICS, Predictions
from trainers.score_model import model_directory, rows_to_score
from trainers.scoring import intervals, values, weighted_metrics
from trainers.templates import load_tokenizer

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings

Resampled = tuple[Mapping[str, float], Mapping[str, Floats]]
"""A model's scores, and the same on resampled rows."""

ALPHA = 0.05
OTHER_WORDS = "the models have different vocabularies, so loss and perplexity per token are not compared between them"


def compare_models(
    models: Sequence[str],
    data: Sequence[str],
    settings: Settings,
    progress: Progress,
    *,
    columns: dict[str, str],
    metrics: Literal["auto"] | list[str],
    max_new_tokens: int,
    sample: int | None,
    seed: int,
) -> CompareReport:
    """Ask every model for the same rows, here, and return their scores and differences.

    ``sample`` asks for that many examples only, drawn by the seed. Raises UsageError for fewer than two models or one
    that is named twice, and what `hone evaluate` raises.
    """
    if len(set(models)) < max(2, len(models)):
        raise UsageError(f"{', '.join(models)} are not two or more models", "name each model once")
    asked = rows_to_score(data, columns)
    registry = Registry(settings)
    paths = {model: model_directory(model, registry) for model in models}
    every = asked.examples
    if sample is not None and sample < len(every):
        every = [every[place] for place in sorted(random.Random(seed).sample(range(len(every)), sample))]
    names = choose_metrics(asked.task, metrics, len(asked.labels))
    has_scores = 2 <= len(asked.labels) <= AUC_MAX_LABELS
    answers: dict[str, Predictions] = {}
    for model, path in paths.items():
        progress.say(f"compare: {model} on {len(every):,} examples")
        answers[model] = predict(Inference(path, every, None, asked.labels, has_scores, max_new_tokens=max_new_tokens))
    notes: list[str] = []
    compared = names
    if len({_vocabulary(path) for path in paths.values()}) > 1:
        compared = [name for name in names if name not in ALWAYS]
        notes.append(OTHER_WORDS)
    return compared_report(answers, paths, names, compared, of=len(asked.examples), notes=notes)


def compared_report(
    answers: Mapping[str, Predictions],
    paths: Mapping[str, str],
    names: Sequence[str],
    compared: Sequence[str],
    *,
    of: int,
    notes: list[str],
) -> CompareReport:
    """Return the report on several models' answers to the same rows; only ``compared`` metrics are held together."""
    first, *others = answers
    num = answers[first].num_examples
    scores = {model: values(said, names) for model, said in answers.items()}
    drawn = {
        model: bootstrap(weighted_metrics(said, compared), num, BOOTSTRAP_SEED, RESAMPLES)
        for model, said in answers.items()
    }
    level = 1 - ALPHA / len(others)

    def difference(a: str, b: str) -> dict[str, Interval]:
        return _difference((scores[a], drawn[a]), (scores[b], drawn[b]), level)

    best: dict[str, Best] = {}
    for name in compared:
        known = [model for model in answers if name in scores[model]]
        if len(known) > 1:
            sign = 1 if METRICS[name].higher_is_better else -1
            top = max(known, key=lambda model: sign * scores[model][name])
            spans = [difference(top, model).get(name) for model in known if model != top]
            clear = all(span is not None and (span.low > 0 or span.high < 0) for span in spans)
            best[name] = Best(model=top, clear=clear)
    return CompareReport(
        examples=num,
        of=of,
        models=[
            Compared(model=m, path=paths[m], metrics=scores[m], intervals=intervals(said, names, BOOTSTRAP_SEED))
            for m, said in answers.items()
        ],
        differences={model: difference(model, first) for model in others},
        level=level,
        best=best,
        notes=notes,
    )


def _difference(
    a: tuple[Mapping[str, float], Mapping[str, Floats]],
    b: tuple[Mapping[str, float], Mapping[str, Floats]],
    level: float,
) -> dict[str, Interval]:
    spans = {
        name: percentile_interval(a[0][name] - b[0][name], drawn - b[1][name], level)
        for name, drawn in a[1].items()
        if name in a[0] and name in b[0]
    }
    return {name: span for name, span in spans.items() if span is not None}


def _vocabulary(path: str) -> int:
    return hash(frozenset(load_tokenizer(path).get_vocab().items()))
