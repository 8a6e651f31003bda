"""A model's output embedding, packed for CPUs: the largest product of a small model's step, a multiple faster.

With as few rows as an engine has, the BLAS behind ``linear`` spends most of its time on the layout of the weights, at
each step anew. oneDNN reorders them once; torch.compile does the same for weights that it freezes. The logits differ
in their last digits only. Costs a second copy of the embedding. Left out: every other layer, whose products are too
small to gain much, and 16-bit weights.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """A linear layer over weights that oneDNN has packed; ``weight`` and ``bias`` are the layer's own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:
        """Return x of shape (…, in) times the weights, shape (…, out)."""
        flat = x.reshape(-1, self.in_features)
        out = torch.ops.mkldnn._linear_pointwise(flat, self._packed, self.bias, "none", [], "")
        return cast("Tensor", out).reshape(*x.shape[:-1], self.out_features)


@torch.inference_mode()
def pack_output(model: Any) -> bool:
    """Replace a model's output embedding by a packed one where that is possible; return whether it was."""
    layer = model.get_output_embeddings()
    is_plain = type(layer) is nn.Linear and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu"
    if not is_plain or not torch.backends.mkldnn.is_available():
        return False
    try:
        packed = PackedLinear(layer)
        probe = torch.ones(1, layer.in_features)
        is_same = torch.allclose(packed(probe), layer(probe), rtol=1e-4, atol=1e-4)
    except (AttributeError, RuntimeError, TypeError):  # operators of torch's own, not its interface
        return False
    if is_same:
        model.set_output_embeddings(packed)
    return is_same
