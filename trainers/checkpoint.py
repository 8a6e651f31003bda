"""A run's state ↔ directories that know nothing of workers or ZeRO stages, written so that a crash leaves whole ones.

Two kinds lie in a run's checkpoint directory. ``step-N`` holds everything needed to go on after step N: fp32 weights,
both Adam moments, and the loop's state as JSON. ``best-N`` holds the weights that an evaluation found best, and the
logits that a release made of them must reproduce. Every rank streams its shard to its node's disk (one gathered
tensor in memory at a time) and hands it in while training goes on; when all shards are there, rank 0 commits. Where
that is, a directory that all ranks see or a remote store, ``trainers.checkpoint_places`` knows. A checkpoint without a
manifest does not exist, and one whose files differ from it is named and passed over.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cluster.durable import full_disk_named, storage_errors
from cluster.errors import HoneError, StoreError
from cluster.store import ASIDE, Store
from trainers.checkpoint_places import checkpoint_place
from trainers.engine_state import MOMENTS, full_fp32, full_moment, full_shape, link_moments
from trainers.loop_state import LoopState
from trainers.ranks import Ranks
from trainers.shards import FP32_BYTES, ShardReader, ShardWriter, shard_name, shard_owner

STATE = "state.json"
PROBE = "probe.safetensors"
STEP, BEST = "step", "best"
SPARE_BYTES = 16 * 2**20
Parameters = Sequence[tuple[str, nn.Parameter]]


class Checkpoints:
    """The checkpoints of one run, as one rank sees them; every method is called on every rank.

    ``root`` is a directory that all ranks see, or a URL.
    """

    def __init__(self, root: str | Path, ranks: Ranks, keep: int) -> None:
        self._place = checkpoint_place(root, ranks)
        self._root = root
        self._ranks = ranks
        self._keep = keep
        self._commit: threading.Thread | None = None
        self._failure: HoneError | None = None
        self._place.clear()
        ranks.barrier()

    def newest(self, warn: Callable[[str], None]) -> tuple[Path, LoopState] | None:
        """Return the newest intact checkpoint and its loop state; ``warn`` is told of broken ones (on rank 0)."""
        found: str | None = None
        if self._ranks.rank == 0:
            found = next((name for name in reversed(self._steps()) if self._is_intact(name, warn)), None)
        found = self._ranks.from_first(found)
        if found is None:
            return None
        return self._place.here(found), self._state(found)

    def save(self, engine: Any, parameters: Parameters, state: LoopState) -> None:
        """Write ``step-N``; returns when the shards are written, and commits them in the background.

        Raises StoreError where the disk has too little room, or where the checkpoint before this one failed.
        """
        self.wait()
        name = step_name(state.step)
        draft = self._draft(name, parameters, 1 + len(MOMENTS))
        link_moments(engine)
        with full_disk_named(str(draft), draft):
            self._write_shard(draft, parameters, engine)
            if self._ranks.rank == 0:
                (draft / STATE).write_text(state.model_dump_json())
        self._commit = threading.Thread(target=self._finish, args=(name, draft, state), daemon=True)
        self._commit.start()

    def save_best(self, parameters: Parameters, step: int, probe: dict[str, Tensor], needed: set[int]) -> None:
        """Write ``best-N`` and wait until it is there; drop those neither ``needed`` nor spoken of in a checkpoint."""
        from safetensors.torch import save_file

        self.wait()
        name = best_name(step)
        draft = self._draft(name, parameters, 1)
        with full_disk_named(str(draft), draft):
            self._write_shard(draft, parameters, None)
            if self._ranks.rank == 0:
                save_file({key: value.cpu().contiguous() for key, value in probe.items()}, draft / PROBE)
        self._finish(name, draft, None)
        self.wait()
        if self._ranks.rank == 0:
            self._drop_weights(needed)
        self._ranks.barrier()

    def best(self, step: int) -> str:
        """Return the place of the weights that were kept after ``step`` steps, as any node opens it."""
        return self._place.at(best_name(step))

    def wait(self) -> None:
        """Wait for the checkpoint that is being committed; raises StoreError where it failed."""
        if self._commit is not None:
            self._commit.join()
            self._commit = None
        if self._failure is not None:
            raise self._failure

    def _draft(self, name: str, parameters: Parameters, tensors_each: int) -> Path:
        draft = self._place.draft(name)
        tensors_bytes = FP32_BYTES * tensors_each * sum(_numel(p) for _, p in parameters)
        needed = self._place.share(tensors_bytes) + SPARE_BYTES
        free = shutil.disk_usage(draft).free
        if free < needed:
            raise StoreError(
                f"the disk has {free:,} bytes free, and {name} needs {needed:,}",
                "Free space there, or set HONE_HOME to another disk; then go on with `hone resume`.",
                str(self._root),
            )
        return draft

    def _write_shard(self, draft: Path, parameters: Parameters, engine: Any) -> None:
        """Gather every tensor on all ranks, and write those that are this rank's."""
        owner = shard_owner([_numel(p) for _, p in parameters], self._ranks.world_size)
        kinds = ("weights", *MOMENTS) if engine is not None else ("weights",)
        mine = [
            (f"{kind}/{name}", full_shape(parameter))
            for (name, parameter), writer in zip(parameters, owner, strict=True)
            for kind in kinds
            if writer == self._ranks.rank
        ]
        with ShardWriter(draft / shard_name(self._ranks.rank, self._ranks.world_size), mine) as shard:
            for (name, parameter), writer in zip(parameters, owner, strict=True):
                for kind in kinds:
                    value = full_fp32(parameter) if kind == "weights" else full_moment(engine, parameter, kind)
                    if writer == self._ranks.rank:
                        shard.write(f"{kind}/{name}", value.reshape(full_shape(parameter)))

    def _finish(self, name: str, draft: Path, state: LoopState | None) -> None:
        """Hand in this rank's shard; on rank 0 wait for the others', commit, and drop what is not kept."""
        place, num_ranks = self._place, self._ranks.world_size
        try:
            with storage_errors(place.at(name), draft):
                place.hand_in(name, shard_name(self._ranks.rank, num_ranks))
                if self._ranks.rank > 0:
                    return
                shards = [shard_name(rank, num_ranks) for rank in range(num_ranks)]
                place.commit(name, shards, [PROBE if state is None else STATE])
                if state is not None:
                    self._drop_old(state)
        except HoneError as error:
            self._failure = error

    def _drop_old(self, state: LoopState) -> None:
        """Drop all but the newest checkpoints, of which ``state`` is the last, and weights that nobody speaks of."""
        for name in self._steps()[: -self._keep]:
            self._place.drop(name)
        self._drop_weights({step for step in self._bests() if step > state.step})

    def _drop_weights(self, needed: set[int]) -> None:
        kept = needed.union(*(self._state(name).held for name in self._steps()))
        for step in self._bests():
            if step not in kept:
                self._place.drop(best_name(step))

    def _steps(self) -> list[str]:
        return self._place.names(STEP)

    def _bests(self) -> list[int]:
        return [int(name.removeprefix(f"{BEST}-")) for name in self._place.names(BEST)]

    def _state(self, name: str) -> LoopState:
        """Return where the run stood when a checkpoint was written."""
        return LoopState.model_validate_json(self._place.text(name, STATE))

    def _is_intact(self, name: str, warn: Callable[[str], None]) -> bool:
        try:
            self._place.check(name)
            for step in self._state(name).held:
                self._place.check(best_name(step))
        except (HoneError, OSError) as error:
            what = error.what if isinstance(error, HoneError) else str(error)
            warn(f"the checkpoint {self._place.at(name)} is passed over: {what}")
            return False
        return True


def step_name(step: int) -> str:
    """Return the name of the checkpoint after a step."""
    return f"{STEP}-{step:08d}"


def best_name(step: int) -> str:
    """Return the name of weights that were the best after a step."""
    return f"{BEST}-{step:08d}"


def best_directory(root: Path, step: int) -> Path:
    """Return where a run's best weights lie in a shared directory."""
    return root / best_name(step)


def best_place(root: str, step: int) -> str:
    """Return the place of a run's best weights, as any node opens it."""
    return f"{root}/{best_name(step)}"


def drop_checkpoints(root: str, *, weights: bool) -> None:
    """Remove a run's checkpoints and drafts, with ``weights`` its best weights too; nobody trains there any more."""
    store = Store(root)
    kinds = (f"{STEP}-", f"{BEST}-") if weights else (f"{STEP}-",)
    for name in store.list():
        if name.startswith(kinds):
            store.remove(name)
    if store.is_local:
        shutil.rmtree(Path(root) / ASIDE, ignore_errors=True)
    else:
        store.remove(ASIDE)


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
