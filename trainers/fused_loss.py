"""Hidden states and the output embedding → the summed cross-entropy, without ever holding all logits.

Logits of N targets over V words are the largest tensor of a small model's step, and are read and written half a dozen
times by softmax, loss and their gradients. Here a block of targets at a time is turned into loss and gradients while it
is in the cache, so that (N, V) is never stored and the backward pass has only to scale what is there (as in Cut
Cross-Entropy, Wijmans et al. 2024, arXiv 2411.09009, and Liger kernels, without a kernel of our own).

It holds for models whose logits are the output embedding's product and nothing more; ``trainers.model`` finds that out
before it is used.

Shape legend: N targets, M targets of a block, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

BLOCK_ELEMENTS = {"cpu": 2**22, "cuda": 2**27}
"""Logits of a block: 16 MB of fp32 on a CPU, near its last cache; on a GPU enough to fill it."""
BLOCK_ELEMENTS_WITH_WEIGHTS = 2**24
"""Where the weights' gradient (V, D) is added to once a block, blocks are larger."""


def block_elements(device: str, *, trains_head: bool) -> int:
    """Return how many logits are held at a time, M · V."""
    elements = BLOCK_ELEMENTS.get(device, BLOCK_ELEMENTS_WITH_WEIGHTS)
    return max(elements, BLOCK_ELEMENTS_WITH_WEIGHTS) if trains_head else elements


class FusedTargetLoss(torch.autograd.Function):
    """The sum of -log softmax(hidden · weightᵀ)[label] over N targets, a fp32 scalar."""

    @staticmethod
    def forward(ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor) -> Tensor:
        """Compute the loss and, where anything needs one, its gradients."""
        for_hidden, for_weight = ctx.needs_input_grad[:2]
        size = max(1, block_elements(hidden_ND.device.type, trains_head=for_weight) // weight_VD.shape[0])
        grad_ND = torch.empty_like(hidden_ND) if for_hidden else None
        grad_VD = torch.zeros_like(weight_VD) if for_weight else None
        loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), size):
            block = slice(start, start + size)
            hidden_MD, labels_M = hidden_ND[block], labels_N[block]
            grad_MV = (hidden_MD @ weight_VD.T).float()
            rows_M = torch.arange(len(labels_M), device=labels_M.device)
            target_M, largest_M = grad_MV[rows_M, labels_M], grad_MV.amax(dim=1)
            grad_MV.sub_(largest_M[:, None]).exp_()
            total_M = grad_MV.sum(dim=1)
            loss += (total_M.log() + largest_M - target_M).sum()
            if grad_ND is None and grad_VD is None:
                continue
            grad_MV /= total_M[:, None]
            grad_MV[rows_M, labels_M] -= 1.0
            grad_lp_MV = grad_MV.to(hidden_ND.dtype)
            if grad_ND is not None:
                torch.mm(grad_lp_MV, weight_VD, out=grad_ND[block])
            if grad_VD is not None:
                grad_VD.addmm_(grad_lp_MV.T, hidden_MD)
        ctx.save_for_backward(*(x for x in (grad_ND, grad_VD) if x is not None))
        ctx.has = (for_hidden, for_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Scale the gradients that the forward pass left; they are used up by that."""
        saved = list(ctx.saved_tensors)
        grad_ND = saved.pop(0).mul_(grad) if ctx.has[0] else None
        grad_VD = saved.pop(0).mul_(grad) if ctx.has[1] else None
        return grad_ND, grad_VD, None
