"""A run's prepared training split and its model → the sketch of what the release was trained on.

One prompt an example: rows that repeat an input with other answers are references of one (as in evaluation) and count
once, exact copies as often as they occur, since live prompts repeat themselves too. Rows of further sources
(``data.mix``) keep the model general and are not what users are expected to send: they are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.errors import StoreError
from cluster.sketch import Sketch, sketch_of
from cluster.token_features import Tokens
from trainers.division import mix_names
from trainers.prepared import TRAIN, Prepared

if TYPE_CHECKING:
    from cluster.run_context import RunContext
    from trainers.rows import Row


def release_sketch(ctx: RunContext, model: Path, made_s: float) -> Sketch:
    """Return the sketch of a run's training rows; ``model`` is the directory with its tokenizer and its weights."""
    prepared = Prepared(Path(ctx.prepared_path()))
    mixed = set(mix_names(ctx.job.data))
    rows = (row for row in prepared.rows(TRAIN) if row.source not in mixed)
    return sketch_of(
        prompts_of(rows),
        ctx.run,
        made_s,
        classes=prepared.record.labels,
        tokens=Tokens.find(model),
        model=_embeddings_in(model, ctx.job.base),
    )


def prompts_of(rows: Iterable[Row]) -> list[str]:
    """Return the rows' prompts as the gateway sees them: the turns' words, one turn after another."""
    copies: Counter[tuple[str, str]] = Counter()
    for row in rows:
        if row.prompt:
            copies["\n".join(turn["content"] for turn in row.prompt), row.completion] += 1
    most: dict[str, int] = {}
    for (prompt, _), num in copies.items():
        most[prompt] = max(most.get(prompt, 0), num)
    return [prompt for prompt, num in most.items() for _ in range(num)]


def _embeddings_in(model: Path, base: str) -> Path | None:
    """Return the directory whose weights hold the input embeddings: an adapter's are its base's."""
    if not (model / "adapter_config.json").is_file():
        return model
    if Path(base).is_dir():
        return Path(base)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(base, local_files_only=True, allow_patterns=["*.safetensors"]))
    except (LocalEntryNotFoundError, StoreError, ValueError):
        return None
