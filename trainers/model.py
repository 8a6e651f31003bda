"""A base model directory or hub id → a full or adapter model, and what of it is trainable.

The loss sees target tokens only: a pre-hook on the output embedding drops every hidden state that predicts no target
before it meets the vocabulary, so logits are (N, V) for N targets instead of (B, T, V). A hook rather than a call of
the decoder's inside keeps whatever a model does to its logits (scaling, soft caps) and works for every causal model
of transformers. Right padding needs no attention mask: causal attention never looks right, and pads carry no loss.

Shape legend: B rows, T tokens, D hidden size, N target tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from cluster.errors import BaseModelError, JobFileError
from cluster.places import local_directory
from cluster.trusted_code import loading, remedy_of
from trainers.fused_loss import FusedTargetLoss
from trainers.packed_attention import segment_inputs
from trainers.quantised import quantised_loading
from trainers.quiet import quiet_libraries
from trainers.ranks import on_device

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from cluster.spec import TrainSpec

DROPOUT_FIELDS = (
    "attention_dropout",
    "attn_pdrop",
    "resid_pdrop",
    "embd_pdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "residual_dropout",
    "embedding_dropout",
    "resid_dropout",
    "dropout",
    "activation_dropout",
)
"""The names under which transformers' configurations keep dropout rates."""

PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def check_base(base: str) -> None:
    """Refuse a base that is missing or holds pickled weights only, before anything starts.

    A hub id is left to the hub client; only local directories can be looked at here. Raises BaseModelError.
    """
    path = Path(local_directory(base))
    if not path.exists():
        if path.is_absolute() or base.startswith(".") or base.count("/") > 1:
            raise BaseModelError(
                f"the base model {base} does not exist", "give an existing model directory or a hub id", "base"
            )
        return
    if not path.is_dir():
        raise BaseModelError(f"the base model {base} is a file", "give the directory that holds config.json", "base")
    if not (path / "config.json").is_file():
        raise BaseModelError(f"{base} holds no config.json", "give a Hugging Face model directory", "base")
    if list(path.glob("*.safetensors")):
        return
    pickled = sorted(p.name for p in path.iterdir() if p.suffix in PICKLED_SUFFIXES)
    what = f"holds pickled weights only ({', '.join(pickled)})" if pickled else "holds no weights"
    raise BaseModelError(
        f"{base} {what}",
        "convert them once with save_pretrained (safetensors); loading a pickle can run code",
        "base",
    )


def load_base(base: str, dtype: torch.dtype, dropout: float = 0.0, *, in_4_bits: bool = False) -> PreTrainedModel:
    """Load a causal language model from safetensors, with its own dropout rates set to ``dropout``.

    ``in_4_bits`` its linear layers are quantised (trainers.quantised), on the GPU where there is one.

    Raises BaseModelError where it cannot be read and JobFileError where ``dropout`` is asked of a model without any.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    quiet_libraries()
    check_base(base)
    directory = local_directory(base)
    try:
        config = AutoConfig.from_pretrained(directory, **loading(base))
        set_dropout(config, dropout)
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            attn_implementation="sdpa",
            **loading(base),
            **(quantised_loading(dtype) if in_4_bits else {}),
        )
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"the base model {base} cannot be loaded: {error}", remedy_of(error, "check the directory"), "base"
        ) from error
    model.config.use_cache = False
    return model


def set_dropout(config: Any, dropout: float) -> None:
    """Set every dropout rate that the configuration knows; refuse a rate above 0 where it knows none."""
    known = [name for name in DROPOUT_FIELDS if isinstance(getattr(config, name, None), (int, float))]
    if dropout > 0 and not known:
        raise JobFileError(
            f"train.dropout is {dropout}, but {config.model_type} models have no dropout rates",
            "set train.dropout to 0.0 (train.lora.dropout works for every model)",
            "train.dropout",
        )
    for name in known:
        setattr(config, name, dropout)


def prepare_model(base: str, train: TrainSpec, dtype: torch.dtype) -> PreTrainedModel | nn.Module:
    """Return the model to train: all of it, or an adapter over a frozen base (under ``qlora`` in 4 bits)."""
    model = load_base(base, dtype, train.dropout, in_4_bits=train.method == "qlora")
    if train.gradient_checkpointing:
        model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    if train.method == "full":
        return model
    return add_adapter(model, train)


def add_adapter(model: PreTrainedModel, train: TrainSpec) -> nn.Module:
    """Inject LoRA adapters (Hu et al. 2021, arXiv 2106.09685); adapter weights are fp32.

    Raises JobFileError for targets that name no layer.
    """
    from peft import LoraConfig, get_peft_model

    lora = train.lora
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        use_dora=lora.dora,
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        linear = sorted({name.rsplit(".", 1)[-1] for name, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise JobFileError(
            f"train.lora.targets {targets!r} match no layer of the base",
            f"use all-linear, or some of: {', '.join(linear)}",
            "train.lora.targets",
        ) from error


def causal_lm(model: nn.Module) -> Any:
    """Return the transformers model inside an adapter wrapper, or the model itself."""
    get_base_model = getattr(model, "get_base_model", None)
    return get_base_model() if get_base_model is not None else model


def target_cost(model: nn.Module) -> float:
    """Return what predicting one target costs, where passing one token through the layers costs 1.

    The ratio of their weights, each of which is one multiplication (Kaplan et al. 2020, arXiv 2001.08361, section 2.1).
    """
    language_model = causal_lm(model)
    ends = (language_model.get_input_embeddings(), language_model.get_output_embeddings())
    outer = {id(weight) for end in ends for weight in end.parameters()}
    inner = sum(weight.numel() for weight in language_model.parameters() if id(weight) not in outer)
    return sum(weight.numel() for weight in ends[1].parameters()) / max(1, inner)


def is_plain_product(head: nn.Module) -> bool:
    """Whether an output embedding is one matrix and nothing else (no bias, no adapter)."""
    return type(head) is nn.Linear and getattr(head, "bias", None) is None


class TargetLoss(nn.Module):
    """A causal language model whose forward returns the summed loss over target tokens.

    Keeping the loss inside the module lets DeepSpeed's hooks see one forward call, whatever the ZeRO stage.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._places_N: Tensor | None = None
        self._labels_N: Tensor | None = None
        self._fused = False
        head = causal_lm(model).get_output_embeddings()
        head.register_forward_pre_hook(self._drop_prompt_states)
        self._head = [head]  # in a list, so that it does not count as a second submodule

    def _drop_prompt_states(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self._places_N is None else (inputs[0].flatten(0, 1).index_select(0, self._places_N),)

    def fuse(self, *, fused: bool) -> bool:
        """Let the output embedding return the loss instead of logits (trainers.fused_loss); return whether it can.

        Only a plain product can; whether the model does more to its logits, the caller must find out.
        """
        head = self._head[0]
        if not is_plain_product(head):
            return False
        if fused:
            head.forward = self._head_forward
        elif "forward" in vars(head):
            del head.forward
        self._fused = fused
        return True

    def _head_forward(self, hidden: Tensor) -> Tensor:
        weight_VD = self._head[0].weight
        if self._labels_N is None:
            return nn.functional.linear(hidden, weight_VD)
        return cast("Tensor", FusedTargetLoss.apply(hidden, weight_VD, self._labels_N))

    def _target_logits(self, tokens_BT: Tensor, targets_N: Tensor, segments: dict[str, Any]) -> Tensor:
        self._places_N = targets_N - 1  # the state before a token predicts it
        try:
            return self.model(input_ids=tokens_BT, use_cache=False, **segments).logits
        finally:
            self._places_N = None

    def forward(
        self,
        tokens_BT: Tensor,
        is_target_BT: Tensor,
        segment_lengths: tuple[int, ...] | None = None,
        *,
        as_logits: bool = False,
    ) -> Tensor:
        """Return the sum of -log p over target tokens, a fp32 scalar; 0 (with a graph) where there is none.

        ``segment_lengths`` are those of examples packed into one row (trainers.packed_attention). ``is_target_BT`` best
        stays in main memory: how many targets there are is then known without waiting for a GPU. With ``as_logits``
        return logits_NV that predict the target tokens, row by row.
        """
        segments = segment_inputs(segment_lengths, tokens_BT.device) if segment_lengths else {}
        targets_N = on_device(_target_places(is_target_BT), tokens_BT.device)
        labels_N = tokens_BT.flatten().index_select(0, targets_N)
        fused = self._fused and not as_logits
        self._labels_N = labels_N if fused else None
        try:
            logits_NV = self._target_logits(tokens_BT, targets_N, segments)
        finally:
            self._labels_N = None  # whoever else calls the model gets logits
        if as_logits or fused:
            return logits_NV
        return nn.functional.cross_entropy(logits_NV.float(), labels_N, reduction="sum")


def _target_places(is_target_BT: Tensor) -> Tensor:
    """Return where targets lie among B·T tokens, shape (N,); a row's first token is never predicted."""
    predicted_BT = is_target_BT.clone()
    predicted_BT[:, 0] = False
    return predicted_BT.flatten().nonzero()[:, 0]


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Yield (name, parameter) of what is trained, in the model's order; tied parameters occur once."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
