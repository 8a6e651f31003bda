"""A base model's configuration → its parameters, and what a forward pass keeps for the backward pass; no weights read.

The model that would be trained (adapter, dropout and precision included) is built on the meta device, where tensors
have shapes and no memory, and run forward while autograd is asked what it saves. So the count holds for every causal
model of transformers, whatever its layers look like, and takes about a second. For Llama it agrees with a closed form
after Korthikanti et al. 2022 (arXiv 2205.05198, eq. 1 without the attention matrix; tests/unit/test_outline.py).

Three shapes are traced and give the rest, because what is saved grows with B·T, T and B·T² (the last only where
attention keeps its matrix: dropout on a CPU). Left out: the vocabulary, which depends on the number of target tokens
and is counted in ``trainers.plan``.

Shape legend: B rows, H heads, T tokens, K width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from transformers.modeling_layers import GradientCheckpointingLayer

from cluster.errors import BaseModelError
from cluster.fitting import Device, Precision
from cluster.places import local_directory
from cluster.trusted_code import loading
from trainers.model import add_adapter, causal_lm, is_plain_product, set_dropout
from trainers.quiet import quiet_libraries
from trainers.shapes import ActivationFacts, ModelFacts, ParameterShape, SavedBytes

if TYPE_CHECKING:
    from cluster.spec import TrainSpec

TRACE_TOKENS = 64
LOGIT_CHANGES = (
    "final_logit_softcapping",
    "output_logits_soft_cap",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
)
"""The names under which transformers' configurations keep what a model does to its logits."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def model_facts(base: str, train: TrainSpec, *, precision: Precision, device: Device) -> ModelFacts:
    """Return parameters and activations of the model that a job would train, from the base's ``config.json`` alone.

    Raises BaseModelError where that cannot be read or the model's forward pass cannot be traced.
    """
    from transformers import AutoConfig

    quiet_libraries()
    directory = local_directory(base)
    try:
        config = AutoConfig.from_pretrained(directory, **loading(base))
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"the base model {base} cannot be read: {error}", "check the directory", "base") from error
    set_dropout(config, train.dropout)
    return outline(config, train, precision=precision, device=device)


def outline(config: Any, train: TrainSpec, *, precision: Precision, device: Device) -> ModelFacts:
    """Return the facts of the model that a transformers configuration describes, trained as ``train`` says."""
    model = _bare_model(config, train, DTYPES[precision], device)
    try:
        activations = _activations(model, precision, device, checkpointing=train.gradient_checkpointing)
    except (RuntimeError, NotImplementedError) as error:
        raise BaseModelError(
            f"the memory of a {config.model_type} model cannot be predicted: {str(error).splitlines()[0]}",
            "choose a base whose forward pass transformers can run on the meta device",
            "base",
        ) from error
    output = causal_lm(model).get_output_embeddings()
    head: Tensor = output.weight
    return ModelFacts(
        parameters=tuple(_shapes(model, head, quantises=train.method == "qlora")),
        vocabulary=head.shape[0],
        hidden=head.shape[1],
        activations=activations,
        fuses=is_plain_product(output) and not any(getattr(config, name, None) for name in LOGIT_CHANGES),
        trains_head=head.requires_grad,
    )


def _activations(model: nn.Module, precision: Precision, device: Device, *, checkpointing: bool) -> ActivationFacts:
    """Trace the model; one with grouped products (experts) has them on the meta device in bf16 only (torch 2.13)."""
    try:
        return _activation_facts(model, device, checkpointing=checkpointing)
    except RuntimeError:
        if precision == "bf16":
            raise
        return _activation_facts(model.to(torch.bfloat16), device, checkpointing=checkpointing).times(2)


def _bare_model(config: Any, train: TrainSpec, dtype: torch.dtype, device: Device) -> nn.Module:
    """Build the model to train on the meta device; DeepSpeed casts adapters to the model's precision, so we do."""
    from transformers import AttentionInterface, AutoModelForCausalLM

    attention = f"hone_outline_{device}"
    AttentionInterface.register(attention, partial(_attention, device))
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    model.config.use_cache = False
    if train.method != "full":
        model = add_adapter(model, train)
    return model.to(dtype).train()


class _KeptByFlash(torch.autograd.Function):
    """Keeps what fused attention keeps: its inputs, its output and a fp32 log-sum-exp per head and token."""

    @staticmethod
    def forward(ctx: Any, query_BHTK: Tensor, key_BHTK: Tensor, value_BHTK: Tensor) -> Tensor:
        rows, heads, tokens, _ = query_BHTK.shape
        out_BHTK = query_BHTK.new_empty(rows, tokens, heads, value_BHTK.shape[-1]).transpose(1, 2)
        log_sums_BHT = query_BHTK.new_empty(rows, heads, tokens, dtype=torch.float32)
        ctx.save_for_backward(query_BHTK, key_BHTK, value_BHTK, out_BHTK, log_sums_BHT)
        return out_BHTK


def _attention(
    device: Device,
    _module: nn.Module,
    query_BHTK: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: None,
    dropout: float = 0.0,
    **_rest: Any,
) -> tuple[Tensor, None]:
    """Stand in for scaled dot-product attention; a CPU has no fused kernel with dropout and keeps T·T matrices."""
    if dropout > 0 and device == "cpu":
        grouped = query_BHTK.shape[1] != key.shape[1]
        out_BHTK = nn.functional.scaled_dot_product_attention(
            query_BHTK, key, value, dropout_p=dropout, is_causal=True, enable_gqa=grouped
        )
    else:
        out_BHTK: Tensor = _KeptByFlash.apply(query_BHTK, key, value)
    return out_BHTK.transpose(1, 2).contiguous(), None


class _CudaDropout(TorchFunctionMode):
    """Dropout as a GPU keeps it, one byte a value; a CPU (and the meta device) keeps a factor for each."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.dropout:
            settings = kwargs or {}
            return torch.native_dropout(args[0], settings["p"], settings["training"])[0]
        return func(*args, **(kwargs or {}))


@dataclass
class _Trace:
    """What one forward pass keeps, in bytes; the layers' inputs are kept even where layers are recomputed."""

    outside: int = 0
    inputs: int = 0
    widest: int = 0
    by_layer: dict[int, int] = field(default_factory=dict)

    def kept(self, *, checkpointing: bool) -> int:
        return self.outside + (self.inputs if checkpointing else sum(self.by_layer.values()))

    def recomputed(self, *, checkpointing: bool) -> int:
        return max(self.by_layer.values(), default=0) if checkpointing else 0


def _trace(model: nn.Module, rows: int, tokens: int, device: Device) -> _Trace:
    """Run the decoder forward on the meta device and add up the storages that autograd keeps, each once."""
    seen = {StorageWeakRef(t.untyped_storage()) for t in (*model.parameters(), *model.buffers())}
    alive: list[Tensor] = []
    trace = _Trace()
    inside: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        reference = StorageWeakRef(tensor.untyped_storage())
        if reference not in seen:
            seen.add(reference)
            alive.append(tensor)
            size = tensor.untyped_storage().nbytes()
            trace.widest = max(trace.widest, size)
            if inside:
                trace.by_layer[inside[-1]] = trace.by_layer.get(inside[-1], 0) + size
            else:
                trace.outside += size
        return tensor

    def enter(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inside.append(id(layer))
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        trace.inputs += hidden.nbytes

    def leave(*_: Any) -> None:
        inside.pop()

    with ExitStack() as undo:
        for layer in model.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                undo.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
                undo.callback(layer.register_forward_hook(leave).remove)
        undo.enter_context(saved_tensors_hooks(keep, lambda tensor: tensor))
        if device == "cuda":
            undo.enter_context(_CudaDropout())
        input_ids = torch.zeros(rows, tokens, dtype=torch.long, device="meta")
        causal_lm(model).base_model(input_ids=input_ids, use_cache=False)
    return trace


def _activation_facts(model: nn.Module, device: Device, *, checkpointing: bool) -> ActivationFacts:
    """Trace three shapes and solve for the bytes per token, per position and per pair of tokens."""
    shapes = ((1, TRACE_TOKENS), (2, TRACE_TOKENS), (1, 2 * TRACE_TOKENS))
    one, two, double = (_trace(model, rows, tokens, device) for rows, tokens in shapes)

    def solved(size: Callable[[_Trace], int]) -> SavedBytes:
        per_row = size(two) - size(one)
        shared = size(one) - per_row
        pairs = (size(double) - 2 * size(one)) / (2 * TRACE_TOKENS**2)
        return SavedBytes(
            per_token=per_row / TRACE_TOKENS - pairs * TRACE_TOKENS,
            per_position=shared / TRACE_TOKENS,
            per_pair=pairs,
        )

    return ActivationFacts(
        kept=solved(lambda trace: trace.kept(checkpointing=checkpointing)),
        recomputed=solved(lambda trace: trace.recomputed(checkpointing=checkpointing)),
        widest_per_token=one.widest / TRACE_TOKENS,
    )


def _shapes(model: nn.Module, head: Tensor, *, quantises: bool) -> Iterator[ParameterShape]:
    """Yield every parameter once; qlora keeps frozen matrices of linear layers in 4 bits, except the output's."""
    linear = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m.weight is not head}
    for name, parameter in model.named_parameters():
        yield ParameterShape(
            name=name,
            shape=tuple(parameter.shape),
            is_trainable=parameter.requires_grad,
            is_quantised=quantises and not parameter.requires_grad and id(parameter) in linear,
        )
