"""What a plan knows of a model: its parameters' shapes, and the bytes that a forward pass keeps for the backward pass.

Values only, without torch: ``trainers.outline`` makes them from a configuration, ``trainers.plan`` predicts with them.

Shape legend: B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil, prod


@dataclass(frozen=True)
class ParameterShape:
    """One parameter tensor; ``is_quantised``: method qlora keeps it in 4 bits."""

    name: str
    shape: tuple[int, ...]
    is_trainable: bool
    is_quantised: bool = False

    @cached_property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)


@dataclass(frozen=True)
class SavedBytes:
    """What a forward pass over B rows of T tokens keeps: ``per_token · B·T + per_position · T + per_pair · B·T²``."""

    per_token: float
    per_position: float = 0.0
    per_pair: float = 0.0

    def of(self, rows: int, length: int) -> int:
        """Return the bytes for ``rows`` of ``length`` tokens."""
        return ceil((self.per_token * rows + self.per_position + self.per_pair * rows * length) * length)

    def times(self, factor: float) -> SavedBytes:
        """Return the same for values of another size."""
        return SavedBytes(self.per_token * factor, self.per_position * factor, self.per_pair * factor)


@dataclass(frozen=True)
class ActivationFacts:
    """What a forward pass leaves for the backward pass, without the vocabulary's share.

    ``recomputed``: with gradient checkpointing, the one layer whose activations exist again while it is differentiated.
    """

    kept: SavedBytes
    recomputed: SavedBytes
    widest_per_token: float

    def times(self, factor: float) -> ActivationFacts:
        """Return the same for values of another size."""
        return ActivationFacts(self.kept.times(factor), self.recomputed.times(factor), self.widest_per_token * factor)


@dataclass(frozen=True)
class ModelFacts:
    """The model that a job trains, adapters included; tied parameters occur once.

    ``fuses`` where logits are a plain product, so that the loss never holds all of them (trainers.fused_loss);
    ``trains_head`` where the output embedding is trained.
    """

    parameters: tuple[ParameterShape, ...]
    vocabulary: int
    hidden: int
    activations: ActivationFacts
    fuses: bool = False
    trains_head: bool = False

    @cached_property
    def num_parameters(self) -> int:
        """All elements."""
        return sum(p.elements for p in self.parameters)

    @cached_property
    def num_trainable(self) -> int:
        """Elements that an optimizer step changes."""
        return sum(p.elements for p in self.parameters if p.is_trainable)

    @cached_property
    def largest_quantised(self) -> int:
        """Elements of the largest 4-bit tensor, which is widened to the model's precision for its product."""
        return max((p.elements for p in self.parameters if p.is_quantised), default=0)

    @cached_property
    def largest_trainable(self) -> int:
        """Elements of the largest tensor that is trained."""
        return max((p.elements for p in self.parameters if p.is_trainable), default=0)
