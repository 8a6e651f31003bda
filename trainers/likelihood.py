"""Token sequences with marked targets → the negative log-likelihood of each, under a loaded model.

Perplexity of references and label scores (for AUC) are both this: how likely does the model find these target tokens?

Shape legend: B rows, T tokens, N target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from trainers.batches import pad
from trainers.generate import length_batches
from trainers.model import TargetLoss

Encoded = tuple[NDArray[np.int32], NDArray[np.bool_]]


@torch.no_grad()
def negative_log_likelihoods(
    scorer: TargetLoss, examples: Sequence[Encoded], *, max_padded_tokens: int = 16_384
) -> NDArray[np.float64]:
    """Return -log p of each example's target tokens, in nats: shape (len(examples),).

    ``examples`` are (ids (T,), is_target (T,)) as in training.
    """
    scorer.eval()
    device = next(scorer.parameters()).device
    total = np.zeros(len(examples))
    for batch in length_batches([len(ids) for ids, _ in examples], 512, max_padded_tokens):
        micro = pad([examples[i] for i in batch])
        tokens_BT = torch.from_numpy(micro.tokens_BT).to(device)
        is_target_BT = torch.from_numpy(micro.is_target_BT).to(device)
        logits_NV = scorer(tokens_BT, is_target_BT, as_logits=True).float()
        labels_N = tokens_BT[:, 1:][is_target_BT[:, 1:]]
        nll_N = nn.functional.cross_entropy(logits_NV, labels_N, reduction="none").double()
        row_N = is_target_BT.nonzero()[:, 0]
        total[batch] = torch.zeros(len(batch), dtype=torch.float64, device=device).index_add_(0, row_N, nll_N).cpu()
    return total


def label_scores(
    scorer: TargetLoss, prompts: Sequence[Sequence[int]], labels: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Return p(label | prompt) normalised over the labels: shape (len(prompts), len(labels)), rows sum to 1.

    ``labels`` are the token ids of each label's answer, its end-of-turn token included, so that no label is the
    prefix of another.
    """
    examples = [joined(prompt, label) for prompt in prompts for label in labels]
    log_p = -negative_log_likelihoods(scorer, examples).reshape(len(prompts), len(labels))
    p = np.exp(log_p - log_p.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def joined(prompt: Sequence[int], label: Sequence[int]) -> Encoded:
    """Return a prompt and its answer as one example whose answer is the target."""
    ids = np.asarray([*prompt, *label], dtype=np.int32)
    is_target = np.zeros(len(ids), dtype=np.bool_)
    is_target[len(prompt) :] = True
    return ids, is_target
