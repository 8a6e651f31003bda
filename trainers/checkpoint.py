"""A run's state ↔ directories that know nothing of workers or ZeRO stages, written so that a crash leaves whole ones.

Two kinds lie in a run's checkpoint directory. ``step-N`` holds everything needed to go on after step N: fp32 weights,
both Adam moments, and the loop's state as JSON. ``best-N`` holds the weights that an evaluation found best, and the
logits that a release made of them must reproduce. Every rank streams its shard to a directory aside (one gathered
tensor in memory at a time) and hashes it in the background while training goes on; when all shards are there, rank 0
writes the manifest and gives the directory its name by one rename. A checkpoint without a manifest does not exist, and
one whose files differ from it is named and passed over.

The directory must be one that all workers see. Left out: uploading to a remote store.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.durable import full_disk_named, storage_errors, sync, sync_tree
from cluster.errors import HoneError, StoreError
from cluster.manifest import MANIFEST_NAME, FileEntry, Manifest
from trainers.engine_state import MOMENTS, full_fp32, full_moment, full_shape, link_moments
from trainers.loop_state import LoopState
from trainers.ranks import Ranks
from trainers.shards import FP32_BYTES, ShardReader, ShardWriter, shard_name, shard_owner

STATE = "state.json"
PROBE = "probe.safetensors"
ASIDE = ".aside"
POLL_S = 0.05
SHARDS_TIMEOUT_S = 600.0
SPARE_BYTES = 16 * 2**20
Parameters = Sequence[tuple[str, nn.Parameter]]


class Checkpoints:
    """The checkpoints of one run, as one rank sees them; every method is called on every rank."""

    def __init__(self, root: Path, ranks: Ranks, keep: int) -> None:
        self._root = root
        self._ranks = ranks
        self._keep = keep
        self._commit: threading.Thread | None = None
        self._failure: HoneError | None = None
        if ranks.rank == 0:
            shutil.rmtree(root / ASIDE, ignore_errors=True)
            (root / ASIDE).mkdir(parents=True)
        ranks.barrier()

    def newest(self, warn: Callable[[str], None]) -> tuple[Path, LoopState] | None:
        """Return the newest intact checkpoint and its loop state; ``warn`` is told of broken ones (on rank 0)."""
        found: str | None = None
        if self._ranks.rank == 0:
            found = next((path.name for path in reversed(self._steps()) if _is_intact(path, warn)), None)
        found = self._ranks.from_first(found)
        if found is None:
            return None
        path = self._root / found
        return path, read_state(path)

    def save(self, engine: Any, parameters: Parameters, state: LoopState) -> None:
        """Write ``step-N``; returns when the shards are written, and commits them in the background.

        Raises StoreError where the disk has too little room, or where the checkpoint before this one failed.
        """
        self.wait()
        aside = self._aside(step_directory(self._root, state.step).name, parameters, 1 + len(MOMENTS))
        link_moments(engine)
        with full_disk_named(str(aside), aside):
            self._write_shard(aside, parameters, engine)
        self._commit = threading.Thread(target=self._finish, args=(aside, state), daemon=True)
        self._commit.start()

    def save_best(self, parameters: Parameters, step: int, probe: dict[str, Tensor], needed: set[int]) -> None:
        """Write ``best-N`` and wait until it is there; drop those neither ``needed`` nor spoken of in a checkpoint."""
        from safetensors.torch import save_file

        self.wait()
        aside = self._aside(best_directory(self._root, step).name, parameters, 1)
        with full_disk_named(str(aside), aside):
            self._write_shard(aside, parameters, None)
            if self._ranks.rank == 0:
                save_file({name: value.cpu().contiguous() for name, value in probe.items()}, aside / PROBE)
        self._finish(aside, None)
        self.wait()
        if self._ranks.rank == 0:
            self._drop_weights(needed)
        self._ranks.barrier()

    def best(self, step: int) -> Path:
        """Return where weights that were kept after ``step`` steps lie."""
        return best_directory(self._root, step)

    def wait(self) -> None:
        """Wait for the checkpoint that is being committed; raises StoreError where it failed."""
        if self._commit is not None:
            self._commit.join()
            self._commit = None
        if self._failure is not None:
            raise self._failure

    def _aside(self, name: str, parameters: Parameters, tensors_each: int) -> Path:
        aside = self._root / ASIDE / name
        with storage_errors(str(aside)):
            aside.mkdir(parents=True, exist_ok=True)
        needed = FP32_BYTES * tensors_each * sum(_numel(p) for _, p in parameters) + SPARE_BYTES
        free = shutil.disk_usage(aside).free
        if free < needed:
            raise StoreError(
                f"the disk has {free:,} bytes free, and {name} needs {needed:,}",
                "Free space there, or set HONE_HOME to another disk; then go on with `hone resume`.",
                str(self._root),
            )
        return aside

    def _write_shard(self, aside: Path, parameters: Parameters, engine: Any) -> None:
        """Gather every tensor on all ranks, and write those that are this rank's."""
        owner = shard_owner([_numel(p) for _, p in parameters], self._ranks.world_size)
        kinds = ("weights", *MOMENTS) if engine is not None else ("weights",)
        mine = [
            (f"{kind}/{name}", full_shape(parameter))
            for (name, parameter), writer in zip(parameters, owner, strict=True)
            for kind in kinds
            if writer == self._ranks.rank
        ]
        with ShardWriter(aside / shard_name(self._ranks.rank, self._ranks.world_size), mine) as shard:
            for (name, parameter), writer in zip(parameters, owner, strict=True):
                for kind in kinds:
                    value = full_fp32(parameter) if kind == "weights" else full_moment(engine, parameter, kind)
                    if writer == self._ranks.rank:
                        shard.write(f"{kind}/{name}", value.reshape(full_shape(parameter)))

    def _finish(self, aside: Path, state: LoopState | None) -> None:
        """Sync and hash this rank's shard; on rank 0 wait for the others', commit, and drop what is not kept."""
        try:
            with storage_errors(str(aside), aside):
                _note_entry(aside, shard_name(self._ranks.rank, self._ranks.world_size))
                if self._ranks.rank > 0:
                    return
                _commit(aside, self._root / aside.name, self._ranks.world_size, state)
                if state is not None:
                    self._drop_old(state)
        except HoneError as error:
            self._failure = error

    def _drop_old(self, state: LoopState) -> None:
        """Drop all but the newest checkpoints, of which ``state`` is the last, and weights that nobody speaks of."""
        for path in self._steps()[: -self._keep]:
            shutil.rmtree(path)
        later = {step for path in _named(self._root, "best") if (step := int(path.name[5:])) > state.step}
        self._drop_weights(later)

    def _drop_weights(self, needed: set[int]) -> None:
        kept = needed.union(*(read_state(path).held for path in self._steps()))
        for path in _named(self._root, "best"):
            if int(path.name[5:]) not in kept:
                shutil.rmtree(path)

    def _steps(self) -> list[Path]:
        return _named(self._root, "step")


def read_state(directory: Path) -> LoopState:
    """Return where the run stood when a checkpoint was written."""
    return LoopState.model_validate_json((directory / STATE).read_text())


def step_directory(root: Path, step: int) -> Path:
    """Return where the checkpoint after a step lies."""
    return root / f"step-{step:08d}"


def best_directory(root: Path, step: int) -> Path:
    """Return where a run's best weights lie."""
    return root / f"best-{step:08d}"


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Return every trainable parameter's fp32 weights by name. Raises StoreError where a shard is missing."""
    shards = ShardReader(directory)
    prefix = "weights/"
    return {name.removeprefix(prefix): shards[name] for name in shards if name.startswith(prefix)}


def load_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy named weights into a model built as in training. Raises StoreError on a missing or misshapen name."""
    parameters: dict[str, Any] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if parameters.keys() != weights.keys():
        odd = sorted(parameters.keys() ^ weights.keys())
        raise StoreError(
            f"the checkpoint and the model differ in {len(odd)} parameters, first {odd[0]}",
            "use the base it was trained on",
        )
    with torch.no_grad():
        for name, value in weights.items():
            if parameters[name].shape != value.shape:
                raise StoreError(
                    f"{name} is {tuple(value.shape)} in the checkpoint, {tuple(parameters[name].shape)} in the model",
                    "use the base it was trained on",
                )
            parameters[name].copy_(value)


def _numel(parameter: nn.Parameter) -> int:
    return prod(full_shape(parameter))


def _named(root: Path, kind: str) -> list[Path]:
    return sorted(root.glob(f"{kind}-*"))


def _is_intact(path: Path, warn: Callable[[str], None]) -> bool:
    try:
        _check(path)
        for step in read_state(path).held:
            _check(best_directory(path.parent, step))
    except (HoneError, OSError) as error:
        what = error.what if isinstance(error, HoneError) else str(error)
        warn(f"the checkpoint {path} is passed over: {what}")
        return False
    return True


def _check(path: Path) -> None:
    Manifest.parse((path / MANIFEST_NAME).read_bytes(), str(path)).check(path, str(path))


def _note_entry(aside: Path, name: str) -> None:
    """Write down a shard's hash and size once it is on the disk: the sign that it is complete.

    Nothing of ``aside`` may be touched after that: rank 0 may rename it at once.
    """
    sync(aside / name)
    entry = FileEntry.of(aside / name)
    draft = aside / f"{name}.draft"
    draft.write_text(entry.model_dump_json())
    draft.rename(aside / f"{name}.json")


def _commit(aside: Path, target: Path, num_ranks: int, state: LoopState | None) -> None:
    """Wait for the shards of all ranks, write the manifest, and rename (rank 0 only)."""
    files = _entries(aside, [shard_name(rank, num_ranks) for rank in range(num_ranks)])
    if state is not None:
        (aside / STATE).write_text(state.model_dump_json())
    for name in (STATE, PROBE):
        if (aside / name).exists():
            files[name] = FileEntry.of(aside / name)
    (aside / MANIFEST_NAME).write_bytes(Manifest(files=dict(sorted(files.items()))).as_bytes())
    sync_tree(aside)
    shutil.rmtree(target, ignore_errors=True)  # of a run that was resumed before this step
    aside.rename(target)
    sync(target.parent)


def _entries(aside: Path, names: Iterable[str]) -> dict[str, FileEntry]:
    deadline = time.monotonic() + SHARDS_TIMEOUT_S
    entries: dict[str, FileEntry] = {}
    for name in names:
        note = aside / f"{name}.json"
        while not note.exists():
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{name} was not written within {SHARDS_TIMEOUT_S:.0f} s", "Look at that worker's log.", str(aside)
                )
            time.sleep(POLL_S)
        entries[name] = FileEntry.model_validate(json.loads(note.read_text()))
        with suppress(FileNotFoundError):
            note.unlink()
    return entries
