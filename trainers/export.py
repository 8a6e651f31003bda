"""Trained weights → a model directory that anyone can load, reloaded and compared before it counts.

A full model becomes a plain Hugging Face directory, an adapter a PEFT directory, safetensors only, with the tokenizer
and the chat template of training inside. It is then loaded from disk like a stranger would, and must reproduce the
logits that the training workers computed and the token ids they trained on. What differs is refused: adapters saved
without gathering under ZeRO-3 and lost templates have both shipped in other tools.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import RunFailed
from cluster.places import local_directory
from cluster.trusted_code import loading
from trainers.prepared import TRAIN, Prepared
from trainers.train import trained_weights

if TYPE_CHECKING:
    import torch

    from cluster.run_context import RunContext
    from cluster.spec import JobSpec

LOGIT_TOLERANCE = {"fp32": 1e-3, "bf16": 0.25}
"""Largest accepted logit difference: sharded and plain execution differ in the order of fp32 sums (measured 2e-5 on
the demo's model); bf16 rounds logits of size 16 to 1/16, over which layers differ by a few steps."""


def run(ctx: RunContext) -> None:
    """Write and check ``runs/RUN/model``. Raises RunFailed where the reloaded model is not the trained one."""
    _, weights_dir = trained_weights(ctx)
    prepared = Prepared(Path(ctx.prepared_path()))
    with ctx.store.writing("runs", ctx.run, "model") as directory:
        write_model(ctx.job, weights_dir, directory)
        difference = logit_difference(ctx.job, weights_dir, directory)
        tolerance = LOGIT_TOLERANCE[ctx.plan().precision]
        if not difference <= tolerance:
            raise RunFailed(
                f"the exported model's logits are off those in training by {difference:.3g} (at most {tolerance:g})",
                "this is a fault in the export, not in your job: keep the run's directory and report it",
            )
        refuse_other_tokens(ctx.job, prepared, directory)
        (directory / "reload.json").write_text(json.dumps({"max_abs_logit_difference": difference}))
    ctx.progress.say(f"export: reloaded from disk, logits differ by at most {difference:.1e}")


def write_model(job: JobSpec, weights_dir: Path, directory: Path) -> None:
    """Write a Hugging Face or PEFT directory from a base and trained weights."""
    import torch

    from trainers.checkpoint import load_weights, read_weights
    from trainers.model import prepare_model
    from trainers.templates import load_tokenizer, template_of

    tokenizer = load_tokenizer(job.base)
    template = template_of(tokenizer, job.data.template)
    train = job.train.model_copy(update={"method": "lora"}) if job.train.method == "qlora" else job.train
    model: Any = prepare_model(job.base, train, torch.float32)  # an adapter is the same over any form of its base
    load_weights(model, read_weights(weights_dir))
    if job.train.method == "full":
        save_whole(model, stored_dtype(job.base), template.stop_ids, directory)
    else:
        model.peft_config["default"].base_model_name_or_path = job.base
        # PEFT otherwise asks the base's place, perhaps a URL, whether its vocabulary was resized: here it never is.
        model.save_pretrained(directory, safe_serialization=True, save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)
        _write_generation_config(model, template.stop_ids)  # whoever serves the adapter ends answers as trained
        model.generation_config.save_pretrained(directory)
    tokenizer.chat_template = template.source
    tokenizer.save_pretrained(directory)


def save_whole(model: Any, dtype: torch.dtype, stop_ids: list[int], directory: Path) -> None:
    """Write a full model in ``dtype``, ready to generate."""
    model.config.use_cache = True
    model.config.dtype = dtype
    _write_generation_config(model, stop_ids)
    model.to(dtype)
    model.save_pretrained(directory, safe_serialization=True)


def stored_dtype(base: str) -> torch.dtype:
    """Return the precision of the base's own weights, which a full release keeps."""
    import torch
    from transformers import AutoConfig

    dtype = getattr(AutoConfig.from_pretrained(local_directory(base), **loading(base)), "dtype", None)
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def _write_generation_config(model: Any, stop_ids: list[int]) -> None:
    config = model.generation_config
    config.eos_token_id = list(stop_ids)
    config.pad_token_id = stop_ids[0] if config.pad_token_id is None else config.pad_token_id


def logit_difference(job: JobSpec, weights_dir: Path, directory: Path) -> float:
    """Return the largest absolute difference between the training workers' logits and the reloaded model's.

    An adapter trained over a 4-bit base is put over one here; scored and served it is over the base as it is.
    """
    import torch
    from safetensors.torch import load_file

    from trainers.inference import load
    from trainers.model import TargetLoss

    probe = load_file(weights_dir / "probe.safetensors")
    in_4_bits = job.train.method == "qlora"
    device = torch.device("cuda" if in_4_bits and torch.cuda.is_available() else "cpu")
    loaded = load(str(directory), job.data.template, device, in_4_bits=in_4_bits)
    with torch.no_grad():
        tokens_BT = probe["tokens"].long().to(device)
        logits_NV = TargetLoss(loaded.model)(tokens_BT, probe["is_target"], as_logits=True).float().cpu()
    return float((logits_NV - probe["logits"]).abs().max())


def refuse_other_tokens(job: JobSpec, prepared: Prepared, directory: Path, sample: int = 16) -> None:
    """Raise RunFailed unless the exported tokenizer and template give the token ids of training."""
    import numpy as np

    from trainers.templates import load_tokenizer, template_of
    from trainers.tokens import TokenSet, encode_rows

    template = template_of(load_tokenizer(str(directory)), None)
    rows = prepared.rows(TRAIN)[:sample]
    tokens_path = prepared.tokens_path(TRAIN)
    assert tokens_path is not None, "a prepared data set without training tokens"
    trained = TokenSet.load(tokens_path)
    again = encode_rows(rows, template, job.data.loss_on, prepared.record.max_length)
    for place, encoded in enumerate(again):
        ids_T, _ = trained.example(place)
        if not np.array_equal(ids_T, encoded.ids_T):
            raise RunFailed(
                f"the exported tokenizer gives other token ids than training for {rows[place].where}",
                "this is a fault in the export, not in your job: keep the run's directory and report it",
            )
