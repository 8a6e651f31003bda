"""The ``train:`` block of the job file: how the base model is changed, and the rules that no trainer should discover.

Everything here is about the optimisation as the user thinks of it (examples, epochs, the global batch). How a step is
laid out over workers and micro-batches is decided in ``cluster.resources`` and never changes the result, so it has no
key. Two defaults are not constants: ``learning_rate`` follows ``method``, and ``max_length`` may be lowered to what
the base can read as long as the user did not ask for a number (``max_length_given``).
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from cluster.blocks import Block, Text, Word, refusal

Method = Literal["full", "lora", "qlora"]
LEARNING_RATES: dict[Method, float] = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4}
"""LoRA's best learning rate is about ten times full tuning's and nearly independent of the rank: Schulman et al. 2025,
"LoRA Without Regret", https://thinkingmachines.ai/blog/lora/."""


def is_lower_better(metric: str) -> bool:
    """Whether a validation metric is better when it is lower."""
    return metric in ("loss", "perplexity")


def mode_of(metric: str) -> Literal["min", "max"]:
    """Return which end of a validation metric's values is the better one, in search engines' word."""
    return "min" if is_lower_better(metric) else "max"


class LoraSpec(Block):
    """The low-rank adapter (Hu et al. 2021, arXiv 2106.09685); used by the methods lora and qlora."""

    rank: int = Field(default=16, ge=1, le=4096, description="Rank of the adapter matrices, 1 to 4096.")
    alpha: int = Field(
        default=32, ge=1, description="Scale: the adapter counts alpha/rank (alpha/√rank with rslora); at least 1."
    )
    dropout: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the adapter's inputs dropped in training, 0 to below 1."
    )
    targets: Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)] = Field(
        default="all-linear", description="Layers that get an adapter: all-linear, or a list of module names."
    )
    dora: bool = Field(default=False, description="Learn magnitude and direction apart (DoRA, arXiv 2402.09353).")
    rslora: bool = Field(default=False, description="Scale by alpha/√rank (rsLoRA, arXiv 2312.03732).")
    lora_plus_ratio: float = Field(
        default=1.0,
        ge=1,
        description="Learning rate of the B matrices over that of the A matrices (LoRA+, arXiv 2402.12354); "
        "at least 1, which is plain LoRA.",
    )


class EarlyStopping(Block):
    """When a training that no longer improves ends."""

    patience: int = Field(
        default=3, ge=1, description="Evaluations in a row without a better `best_by` before training ends, at least 1."
    )


class CheckpointSpec(Block):
    """How often the run writes down what it needs to go on after a crash, and how many of these are kept."""

    every: Annotated[float, Field(gt=0)] | Annotated[int, Field(ge=1)] = Field(
        default=0.25,
        description="Between checkpoints: epochs as a number with a point (above 0), steps as a whole number (from 1).",
    )
    keep: int = Field(default=2, ge=1, description="Newest checkpoints kept beside the best weights, at least 1.")


def _usual_learning_rate(settings: dict[str, object]) -> float:
    method = settings.get("method")
    return LEARNING_RATES["full"] if method == "full" else LEARNING_RATES["lora"]


class TrainSpec(Block):
    """How the base model is trained."""

    method: Method = Field(
        default="lora", description="All weights (full), an adapter (lora), or an adapter over a 4-bit base (qlora)."
    )
    lora: LoraSpec = Field(default_factory=LoraSpec, description="The adapter; refused under the method full.")
    epochs: float = Field(default=3.0, gt=0, description="Passes over the training split, above 0; 0.5 is half a pass.")
    subset: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the training split that is trained on, drawn by the seed, above 0 to 1.",
    )
    learning_rate: float = Field(
        default_factory=_usual_learning_rate,
        gt=0,
        le=1,
        description="Peak learning rate, above 0 and at most 1; 2e-4 for lora and qlora, 2e-5 for full when left out.",
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate falls from its peak after the warm-up."
    )
    warmup: float = Field(
        default=0.05, ge=0, lt=1, description="Share of the steps over which the learning rate rises, 0 to below 1."
    )
    batch_size: int = Field(
        default=32, ge=1, description="Examples per optimizer step, over all workers together, at least 1."
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="The model's own dropout rates, 0 to below 1; refused at the start where the model has none.",
    )
    weight_decay: float = Field(default=0.0, ge=0, lt=1, description="AdamW's weight decay, 0 to below 1.")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="Largest norm of a step's gradient, at least 0; 0 switches clipping off."
    )
    max_length: int = Field(
        default=1024,
        ge=8,
        description="Tokens of an example that are kept, at least 8; when left out, no more than the base can read.",
    )
    zero_stage: Literal["auto"] | Annotated[int, Field(ge=0, le=3)] = Field(
        default="auto", description="DeepSpeed ZeRO stage 0 to 3; auto is the lowest that fits."
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        default="none", description="What waits in main memory: nothing, the optimizer state, or the weights as well."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="Number format of the computation; auto is bf16 where the hardware has it."
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations in the backward pass: less memory, about a third more time."
    )
    eval_every: Annotated[float, Field(gt=0)] | Annotated[int, Field(ge=1)] = Field(
        default=0.25,
        description="Between evaluations: epochs as a number with a point (above 0), steps as a whole number (from 1).",
    )
    checkpoint: CheckpointSpec | None = Field(
        default_factory=CheckpointSpec, description="Checkpoints to resume from; null writes one only when stopped."
    )
    early_stopping: EarlyStopping | None = Field(
        default_factory=EarlyStopping, description="When to end a training that no longer improves; null never does."
    )
    best_by: Word = Field(
        default="loss", description="Validation metric that picks the best checkpoint: loss, or a metric's name."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of order, dropout and new weights, 0 to 4294967295.")

    @property
    def max_length_given(self) -> bool:
        """Whether the user asked for this ``max_length``; when not, a trainer may lower it to the base's limit."""
        return "max_length" in self.model_fields_set

    @property
    def best_by_is_generated(self) -> bool:
        """Whether `best_by` needs generated answers, or is made of the loss."""
        return not is_lower_better(self.best_by)

    @model_validator(mode="after")
    def _adapter_fits_method(self) -> Self:
        if self.method == "full" and "lora" in self.model_fields_set:
            raise refusal(
                ["lora"], "there is no adapter under method full", "Remove train.lora, or set train.method to lora."
            )
        if self.method == "qlora" and (self.zero_stage == 3 or self.offload == "all"):
            key = "zero_stage" if self.zero_stage == 3 else "offload"
            raise refusal(
                [key],
                "a 4-bit base (method qlora) cannot be sharded by ZeRO stage 3, which offload all needs too",
                "Use zero_stage auto, 0, 1 or 2 with offload none or optimizer, or set train.method to lora.",
            )
        return self

    @model_validator(mode="after")
    def _offload_fits_stage(self) -> Self:
        lowest = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero_stage != "auto" and self.zero_stage < lowest:
            raise refusal(
                ["offload"],
                f"offload {self.offload} needs ZeRO stage {lowest} or above; train.zero_stage is {self.zero_stage}",
                f"Set train.zero_stage to auto or {lowest}, or train.offload to none.",
            )
        return self

    @model_serializer(mode="wrap")
    def _what_reads_back(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        """Leave out what would mean something else when read again: an adapter under full, a length by default."""
        settings: dict[str, object] = plain(self)
        if self.method == "full":
            settings.pop("lora", None)
        if not self.max_length_given:
            settings.pop("max_length", None)
        return settings
