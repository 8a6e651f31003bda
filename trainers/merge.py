"""`hone merge`: an adapter release → the full model that it and its base make, compared before and after.

Servers and exporters without PEFT want one set of weights. The adapter's product is added to the base in fp32 and the
sum kept in the base's own precision. The directory is then loaded from disk, and must give the logits that base and
adapter gave: on rows of random tokens, because a release keeps no data and sums of matrices care little what they
multiply. How much the adapter itself moves those logits stands beside the difference, so that a small adapter lost in
the rounding of a 16-bit base is seen. An adapter trained over a 4-bit base is merged into the base as it is, over which
it was scored.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from cluster.errors import RunFailed, UsageError
from cluster.records import Record, Release
from cluster.registry import Registry
from cluster.store import ASIDE, Store
from trainers.export import LOGIT_TOLERANCE, save_whole, stored_dtype
from trainers.score_model import model_directory

if TYPE_CHECKING:
    from torch import Tensor

    from cluster.progress import Progress
    from cluster.session import Settings

PROBE_ROWS = 4
PROBE_TOKENS = 48
REPLACED = ("manifest.json", "release.json", "README.md")


class Merged(Record):
    """What `hone merge` prints."""

    release: str = Field(description="the full model's directory")
    merged_from: str
    base: str
    precision: str = Field(description="that of the weights on disk, which is the base's")
    max_abs_logit_difference: float = Field(description="between base with adapter and the reloaded merged model")
    tolerance: float
    adapter_effect: float = Field(description="largest logit difference between base with adapter and base alone")

    def lines(self) -> list[str]:
        """Return the same for a terminal."""
        return [
            f"{self.release}: {self.merged_from} merged into {self.base}, {self.precision}",
            f"logits differ by at most {self.max_abs_logit_difference:.2g} (allowed {self.tolerance:g}) where the "
            f"adapter moves them by up to {self.adapter_effect:.2g}",
        ]


def merge(release: str, out: Path, settings: Settings, progress: Progress) -> Merged:
    """Write the full model of an adapter release to ``out``, a directory that is not there yet.

    ``release`` is NAME@N, NAME@champion or a directory. Raises UsageError where it is no adapter of ours, and RunFailed
    where the merged model is not the same model.
    """
    source = Path(model_directory(release, Registry(settings)))
    record = _adapter_record(source, release)
    if out.exists():
        raise UsageError(f"{out} is there already", "name a directory that is not there yet")
    progress.say(f"merge: {source} into {record.base}")
    store = Store(str(out.parent.resolve()))
    with store.writing(out.name) as directory:
        merged = _write_merged(source, record, directory, out)
        kept = record.model_copy(
            update={
                "method": "full",
                "merged_from": merged.merged_from,
                "reload_max_abs_diff": merged.max_abs_logit_difference,
            }
        )
        (directory / "release.json").write_text(kept.model_dump_json(indent=2))
        (directory / "README.md").write_text(_card(source, merged), encoding="utf-8")
    with suppress(OSError):
        Path(store.path(), ASIDE).rmdir()
    return merged


def _adapter_record(source: Path, release: str) -> Release:
    if not (source / "adapter_config.json").is_file():
        raise UsageError(
            f"{release} is no adapter: there is nothing to merge", "give a release of method lora or qlora"
        )
    if not (source / "release.json").is_file():
        raise UsageError(f"{release} holds no release.json", "give a release that `hone train` made")
    return Release.model_validate_json((source / "release.json").read_text())


def _write_merged(source: Path, record: Release, directory: Path, out: Path) -> Merged:
    """Merge, write, reload and compare; everything but the weights is copied."""
    import torch

    from trainers.inference import load

    cpu = torch.device("cpu")
    loaded = load(str(source), None, cpu)
    probe_BT = _probe(len(loaded.tokenizer), loaded.context_tokens)
    before_BTV = _logits(loaded.model, probe_BT)
    with loaded.model.disable_adapter():
        effect = float((_logits(loaded.model, probe_BT) - before_BTV).abs().max())
    dtype = stored_dtype(record.base)
    whole = loaded.model.merge_and_unload(safe_merge=True)
    for file in sorted(path for path in source.iterdir() if path.is_file()):
        if file.name not in REPLACED and not file.name.startswith("adapter_"):
            shutil.copy(file, directory / file.name)
    save_whole(whole, dtype, loaded.template.stop_ids, directory)
    del whole
    difference = float((_logits(load(str(directory), None, cpu).model, probe_BT) - before_BTV).abs().max())
    tolerance = LOGIT_TOLERANCE["fp32" if dtype == torch.float32 else "bf16"]
    if not difference <= tolerance:
        raise RunFailed(
            f"the merged model's logits are off those of base and adapter by {difference:.3g} (at most {tolerance:g}; "
            f"the adapter moves them by up to {effect:.3g})",
            f"serve the adapter as it is; {record.base} keeps its weights as {dtype}, which may round too much away",
        )
    return Merged(
        release=str(out),
        merged_from=f"{record.run} ({source})",
        base=record.base,
        precision=str(dtype).removeprefix("torch."),
        max_abs_logit_difference=difference,
        tolerance=tolerance,
        adapter_effect=effect,
    )


def _probe(vocabulary: int, context: int) -> Tensor:
    """Return the same random rows of tokens every time, shape (B, T)."""
    import torch

    shape = (PROBE_ROWS, min(PROBE_TOKENS, context))
    return torch.randint(0, vocabulary, shape, generator=torch.Generator().manual_seed(0))


def _logits(model: Any, tokens_BT: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        return model(input_ids=tokens_BT, use_cache=False).logits.float()


def _card(source: Path, merged: Merged) -> str:
    """Return the adapter's card with a section on the merging put behind its head."""
    head, *rest = (source / "README.md").read_text(encoding="utf-8").split("\n## ", 1)
    about = (
        f"## Merged\n\nThe adapter of `{merged.merged_from}` and its base `{merged.base}` in one set of weights, "
        f"{merged.precision}. On {PROBE_ROWS} rows of {PROBE_TOKENS} random tokens its logits differ by at most "
        f"{merged.max_abs_logit_difference:.2g} from those of base and adapter, which differ by up to "
        f"{merged.adapter_effect:.2g} from the base's. What is said below was measured with the adapter.\n"
    )
    return "\n".join([head, about, *(f"## {part}" for part in rest)])
