"""Generated metrics on the validation split during training, for ``best_by`` with anything but the loss.

Either every rank answers its share of the examples with the weights it is training, all exchange the answers, and each
computes the same score, so they agree on which weights are best; or one process answers all of them with weights that
were written. At most ``MAX_EXAMPLES`` examples are answered at an evaluation. Under ZeRO-3 no rank has whole weights:
only written ones can be scored.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from cluster.places import local_directory
from trainers.checkpoint import load_weights, read_weights
from trainers.inference import Inference, Loaded, answers, context_tokens
from trainers.metrics import Predictions
from trainers.model import causal_lm, prepare_model
from trainers.packed_attention import plain_attention
from trainers.prepared import VALIDATION, Prepared
from trainers.quiet import quiet_libraries
from trainers.scoring import score
from trainers.splits import EvaluationExample, evaluation_examples
from trainers.templates import load_tokenizer, template_of

if TYPE_CHECKING:
    from cluster.records import Metrics, Plan
    from cluster.spec import JobSpec
    from trainers.ranks import Ranks
    from trainers.worker import Scorer

MAX_EXAMPLES = 256


def validation_scorer(job: JobSpec, prepared: Prepared) -> Scorer:
    """Return what scores the model in training by ``train.best_by``, on all its ranks."""
    examples = _examples(job, prepared)
    asked = Asked(job, prepared.record.labels)

    def scorer(engine: Any, ranks: Ranks) -> Metrics:
        mine = asked.answers(engine.module.model, examples[ranks.rank :: ranks.world_size])
        return asked.score(examples, _exchanged(mine, ranks))

    return scorer


def score_weights(job: JobSpec, plan: Plan, prepared: str, weights: str) -> Metrics:
    """Return ``train.best_by`` of weights at a place, in this process alone; so are the prepared data."""
    quiet_libraries()
    found = Prepared(Path(local_directory(prepared)))
    examples, asked = _examples(job, found), Asked(job, found.record.labels)
    on_gpu = plan.device == "cuda"
    model: Any = prepare_model(job.base, job.train, torch.bfloat16 if plan.precision == "bf16" else torch.float32)
    load_weights(model, read_weights(Path(local_directory(weights))))
    if on_gpu and job.train.method != "qlora":  # those are where they were quantised
        model = model.to(torch.device("cuda"))
    if not on_gpu:
        torch.set_num_threads(max(1, int(plan.cpus_per_worker)))
    return asked.score(examples, asked.answers(model.eval(), examples))


class Asked:
    """What a job asks of a model on its validation rows."""

    def __init__(self, job: JobSpec, labels: list[str]) -> None:
        self._job = job
        self._labels = labels
        self._tokenizer = load_tokenizer(job.base)
        self._template = template_of(self._tokenizer, job.data.template)

    def answers(self, model: Any, examples: list[EvaluationExample]) -> list[str]:
        """Return the model's answers."""
        job = self._job
        loaded = Loaded(model, self._tokenizer, self._template, context_tokens(causal_lm(model).config))
        asked = Inference(
            job.base, examples, max_new_tokens=job.evaluate.max_new_tokens, batch_rows=job.evaluate.batch_size
        )
        with plain_attention(causal_lm(model)):
            return answers(loaded, asked)

    def score(self, examples: list[EvaluationExample], texts: list[str]) -> Metrics:
        """Return the metric that the answers have."""
        return score(_predictions(examples, texts, self._labels), [self._job.train.best_by])


def _examples(job: JobSpec, prepared: Prepared) -> list[EvaluationExample]:
    examples = evaluation_examples(prepared.rows(VALIDATION))
    if len(examples) > MAX_EXAMPLES:
        return random.Random(job.data.split.seed).sample(examples, MAX_EXAMPLES)
    return examples


def _exchanged(mine: list[str], ranks: Ranks) -> list[str]:
    """Put the ranks' answers back into the order of the examples."""
    shares: list[list[str] | None] = [None] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(shares, mine)
    else:
        shares[0] = mine
    found = [share or [] for share in shares]
    count = sum(len(share) for share in found)
    return [found[place % ranks.world_size][place // ranks.world_size] for place in range(count)]


def _predictions(examples: list[EvaluationExample], texts: list[str], labels: list[str]) -> Predictions:
    return Predictions(
        texts=texts,
        references=[example.references for example in examples],
        labels=[str(example.label) for example in examples] if labels else None,
        label_names=labels or None,
    )
