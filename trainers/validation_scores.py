"""Generated metrics on the validation split during training, for ``best_by`` with anything but the loss.

Every rank answers its share of the same examples with the weights it is training, all ranks exchange the answers, and
each computes the same score, so they agree on which checkpoint is best. At most ``MAX_EXAMPLES`` examples are
answered at an evaluation. ZeRO-3 has no whole weights on any rank and is refused in the plan.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from trainers.inference import Inference, Loaded, answers, context_tokens
from trainers.metrics import Predictions
from trainers.model import causal_lm
from trainers.packed_attention import plain_attention
from trainers.prepared import VALIDATION, Prepared
from trainers.scoring import score
from trainers.splits import EvaluationExample, evaluation_examples
from trainers.templates import load_tokenizer, template_of

if TYPE_CHECKING:
    from cluster.records import Metrics
    from cluster.spec import JobSpec
    from trainers.ranks import Ranks
    from trainers.worker import Scorer

MAX_EXAMPLES = 256


def validation_scorer(job: JobSpec, prepared: Prepared) -> Scorer:
    """Return what scores the model in training by ``train.best_by``."""
    examples = evaluation_examples(prepared.rows(VALIDATION))
    if len(examples) > MAX_EXAMPLES:
        examples = random.Random(job.data.split.seed).sample(examples, MAX_EXAMPLES)
    labels = prepared.record.labels
    tokenizer = load_tokenizer(job.base)
    template = template_of(tokenizer, job.data.template)

    def scorer(engine: Any, ranks: Ranks) -> Metrics:
        model = engine.module.model
        loaded = Loaded(model, tokenizer, template, context_tokens(causal_lm(model).config))
        mine = examples[ranks.rank :: ranks.world_size]
        asked = Inference(
            job.base, mine, max_new_tokens=job.evaluate.max_new_tokens, batch_rows=job.evaluate.batch_size
        )
        with plain_attention(causal_lm(model)):
            mine_answered = answers(loaded, asked)
        return score(_predictions(examples, _exchanged(mine_answered, ranks), labels), [job.train.best_by])

    return scorer


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
