"""A base model's configuration → its parameters, and what one forward pass keeps for the backward pass; no weights read.

The model that would be trained (adapter, dropout, precision) is built of fake tensors, which have shapes and no memory,
and run forward while autograd is asked what it saves. So the count holds for every causal model of transformers,
whatever its layers look like, and takes about a second. On Llama it agrees with the closed form in
tests/unit/test_outline.py, after Korthikanti et al. 2022 (arXiv 2205.05198, eq. 1 without the attention matrix).

Three shapes are traced and the rest follows from saved bytes being ``per_token · B·T + per_position · T + per_pair · B·T²``
(the last only where attention keeps its matrix: dropout on a CPU). Left out: the vocabulary, which depends on how many
tokens are targets and is counted in ``trainers.plan``.

Shape legend: B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode

from cluster.errors import BaseModelError
from trainers.model import add_adapter, causal_lm, set_dropout
from trainers.plan import ActivationFacts, ModelFacts, ParameterShape
from trainers.quiet import quiet_libraries

if TYPE_CHECKING:
    from cluster.spec import TrainSpec

Precision = Literal["fp32", "bf16"]
Device = Literal["cpu", "cuda"]

TRACE_TOKENS = 16
ATTENTION = "hone_outline"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def model_facts(base: str, train: TrainSpec, *, precision: Precision, device: Device) -> ModelFacts:
    """Return parameters and activations of the model that a job would train. Raises BaseModelError where the base's
    configuration cannot be read or its forward pass cannot be traced."""
    from transformers import AutoConfig

    quiet_libraries()
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(f"the base model {base} cannot be read: {error}", "check the directory", "base") from error
    set_dropout(config, train.dropout)
    return outline(config, train, precision=precision, device=device)


def outline(config: Any, train: TrainSpec, *, precision: Precision, device: Device) -> ModelFacts:
    """Return the facts of the model that ``config`` describes, trained as ``train`` says."""
    _register_attention()
    with FakeTensorMode():
        model = _fake_model(config, train, precision, device)
        try:
            shapes = ((1, TRACE_TOKENS), (2, TRACE_TOKENS), (1, 2 * TRACE_TOKENS))
            saved = [_saved_bytes(model, b, t, train.gradient_checkpointing, device) for b, t in shapes]
        except (RuntimeError, NotImplementedError, ValueError) as error:
            raise BaseModelError(
                f"the memory of a {config.model_type} model cannot be predicted: {str(error).splitlines()[0]}",
                "set train.zero_stage to skip the prediction",
                "base",
            ) from error
        lm = causal_lm(model)
        head = lm.get_output_embeddings().weight
        return ModelFacts(
            parameters=tuple(_shapes(model, head)),
            vocabulary=head.shape[0],
            hidden=head.shape[1],
            activations=_activation_facts(*saved),
        )


def _fake_model(config: Any, train: TrainSpec, precision: Precision, device: Device) -> nn.Module:
    from transformers import AutoModelForCausalLM

    name = "sdpa" if device == "cpu" else ATTENTION
    model: Any = AutoModelForCausalLM.from_config(config, dtype=DTYPES[precision], attn_implementation=ATTENTION)
    del name
    model.config.use_cache = False
    if train.method != "full":
        model = add_adapter(model, train)
    return model.to(DTYPES[precision]).train()
