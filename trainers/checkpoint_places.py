"""Where a run's checkpoints lie: a directory that all ranks see, or a remote store, behind one interface.

Every rank writes its shard into a draft, hands it in with hash and size, and rank 0 commits when all are there. In a
shared directory the draft is the checkpoint, and one rename gives it its name. For a store the draft lies on the node;
handing in uploads it, and the manifest, written last, makes the checkpoint: one without is half of something and is
never listed. What a node reads of a store it fetches once. Both promise the same (tests/contracts).
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from cluster.durable import storage_errors, sync, sync_tree
from cluster.errors import StoreError
from cluster.manifest import MANIFEST_NAME, FileEntry, Manifest
from cluster.places import is_remote
from cluster.store import ASIDE, Store
from trainers.ranks import Ranks

LOCAL_POLL_S, REMOTE_POLL_S = 0.05, 0.25
SHARDS_TIMEOUT_S = 600.0


class CheckpointPlace(Protocol):
    """The checkpoints of one run as one rank sees them; names are as ``step-00000010``."""

    def clear(self) -> None:
        """Remove what killed attempts left half written; on every rank, with a barrier after it."""
        ...

    def names(self, kind: str) -> list[str]:
        """Return the names that begin with ``kind``, sorted."""
        ...

    def draft(self, name: str) -> Path:
        """Return the directory on this node's disk where this rank writes its files; on every rank."""
        ...

    def share(self, num_bytes: int) -> int:
        """Return how many of a checkpoint's bytes the draft's disk has to take."""
        ...

    def hand_in(self, name: str, shard: str) -> None:
        """Bring this rank's shard to where it belongs and note its hash: the sign that it is complete."""
        ...

    def commit(self, name: str, shards: Sequence[str], others: Sequence[str]) -> None:
        """Wait for all shards, and let the checkpoint be there, with the ``others`` out of the draft; on rank 0."""
        ...

    def check(self, name: str) -> None:
        """Raise StoreError unless the checkpoint is whole and undamaged."""
        ...

    def text(self, name: str, file: str) -> str:
        """Return one small file of a checkpoint."""
        ...

    def here(self, name: str) -> Path:
        """Return the checkpoint's directory on this node."""
        ...

    def at(self, name: str) -> str:
        """Return the place from which any node opens the checkpoint (``cluster.places``)."""
        ...

    def drop(self, name: str) -> None:
        """Remove a checkpoint."""
        ...


def checkpoint_place(root: str | Path, ranks: Ranks) -> CheckpointPlace:
    """Return the checkpoints in a directory that all ranks see, or at a URL."""
    return StoredCheckpoints(Store(str(root)), ranks) if is_remote(root) else SharedDirectory(Path(root), ranks)


class SharedDirectory:
    """Checkpoints in a local directory that all ranks see."""

    def __init__(self, root: Path, ranks: Ranks) -> None:
        self._root = root
        self._ranks = ranks

    def clear(self) -> None:
        """Remove all drafts."""
        if self._ranks.rank == 0:
            shutil.rmtree(self._root / ASIDE, ignore_errors=True)
            (self._root / ASIDE).mkdir(parents=True)

    def names(self, kind: str) -> list[str]:
        """Return the directories there."""
        return sorted(path.name for path in self._root.glob(f"{kind}-*"))

    def draft(self, name: str) -> Path:
        """Return the directory aside that all ranks write into."""
        draft = self._root / ASIDE / name
        with storage_errors(str(draft)):
            draft.mkdir(parents=True, exist_ok=True)
        return draft

    def share(self, num_bytes: int) -> int:
        """All of it."""
        return num_bytes

    def hand_in(self, name: str, shard: str) -> None:
        """Sync the shard and note its hash; nothing of the draft may be touched after that, rank 0 may rename it."""
        path = self._root / ASIDE / name / shard
        sync(path)
        entry = FileEntry.of(path)
        note = path.with_name(f"{shard}.draft")
        note.write_text(entry.model_dump_json())
        note.rename(path.with_name(f"{shard}.json"))

    def commit(self, name: str, shards: Sequence[str], others: Sequence[str]) -> None:
        """Write the manifest and rename."""
        draft, target = self._root / ASIDE / name, self._root / name
        files = noted_entries(lambda shard: _taken(draft / f"{shard}.json"), shards, str(draft), LOCAL_POLL_S)
        files |= {other: FileEntry.of(draft / other) for other in others}
        (draft / MANIFEST_NAME).write_bytes(Manifest(files=dict(sorted(files.items()))).as_bytes())
        sync_tree(draft)
        shutil.rmtree(target, ignore_errors=True)  # of a run that was resumed before this step
        draft.rename(target)
        sync(target.parent)

    def check(self, name: str) -> None:
        """Compare the directory with its manifest."""
        path = self._root / name
        Manifest.parse((path / MANIFEST_NAME).read_bytes(), str(path)).check(path, str(path))

    def text(self, name: str, file: str) -> str:
        """Read it."""
        return (self._root / name / file).read_text()

    def here(self, name: str) -> Path:
        """Return the directory itself."""
        return self._root / name

    def at(self, name: str) -> str:
        """Return the directory itself."""
        return str(self._root / name)

    def drop(self, name: str) -> None:
        """Remove the directory."""
        shutil.rmtree(self._root / name)


class StoredCheckpoints:
    """Checkpoints as artifacts of a remote store; each rank uploads its own shard from its node's disk."""

    def __init__(self, store: Store, ranks: Ranks) -> None:
        self._store = store
        self._ranks = ranks
        self._drafts = store.node_directory("checkpoints", str(ranks.rank))

    def clear(self) -> None:
        """Remove this rank's drafts and, on rank 0, notes and files without a manifest."""
        shutil.rmtree(self._drafts, ignore_errors=True)
        if self._ranks.rank > 0:
            return
        self._store.remove(ASIDE)
        for name in self._store.list():
            if name.startswith(("step-", "best-")) and not self._store.is_committed(name):
                self._store.remove(name)

    def names(self, kind: str) -> list[str]:
        """Return the committed ones."""
        found = (name for name in self._store.list() if name.startswith(f"{kind}-"))
        return [name for name in found if self._store.is_committed(name)]

    def draft(self, name: str) -> Path:
        """Return a directory of this rank's own; what a run resumed before this step left under the name goes first."""
        if self._ranks.rank == 0:
            self._store.remove(name)
        self._ranks.barrier()
        draft = self._drafts / name
        with storage_errors(str(draft)):
            draft.mkdir(parents=True, exist_ok=True)
        return draft

    def share(self, num_bytes: int) -> int:
        """About one rank's shard."""
        return num_bytes // self._ranks.world_size

    def hand_in(self, name: str, shard: str) -> None:
        """Upload the shard, note its hash, and forget it here."""
        path = self._drafts / name / shard
        entry = FileEntry.of(path)
        self._store.put_file(path, name, shard)
        self._store.put_json(entry.model_dump(), ASIDE, name, f"{shard}.json")
        path.unlink()

    def commit(self, name: str, shards: Sequence[str], others: Sequence[str]) -> None:
        """Upload the others, and the manifest last."""

        def note(shard: str) -> FileEntry | None:
            parts = (ASIDE, name, f"{shard}.json")
            return FileEntry.model_validate(self._store.get_json(*parts)) if self._store.exists(*parts) else None

        files = noted_entries(note, shards, self._store.path(name), REMOTE_POLL_S)
        draft = self._drafts / name
        for other in others:
            files[other] = FileEntry.of(draft / other)
            self._store.put_file(draft / other, name, other)
        manifest = Manifest(files=dict(sorted(files.items())))
        self._store.put_text(manifest.as_bytes().decode(), name, MANIFEST_NAME)
        self._store.remove(ASIDE, name)
        shutil.rmtree(draft, ignore_errors=True)

    def check(self, name: str) -> None:
        """Bring it here, which compares it with its manifest."""
        self._store.reading(name)

    def text(self, name: str, file: str) -> str:
        """Fetch it alone."""
        return self._store.get_text(name, file)

    def here(self, name: str) -> Path:
        """Bring it here, unless this node has it."""
        return self._store.reading(name)

    def at(self, name: str) -> str:
        """Return its URL."""
        return self._store.path(name)

    def drop(self, name: str) -> None:
        """Remove it, the manifest first."""
        self._store.remove(name)


def noted_entries(
    note: Callable[[str], FileEntry | None], shards: Sequence[str], where: str, poll_s: float
) -> dict[str, FileEntry]:
    """Return what ``note`` says of every shard, waiting for those that are not handed in yet.

    Raises StoreError naming the one that never came.
    """
    deadline_s = time.monotonic() + SHARDS_TIMEOUT_S
    entries: dict[str, FileEntry] = {}
    for shard in shards:
        while (found := note(shard)) is None:
            if time.monotonic() > deadline_s:
                raise StoreError(
                    f"{shard} was not written within {SHARDS_TIMEOUT_S:.0f} s", "Look at that worker's log.", where
                )
            time.sleep(poll_s)
        entries[shard] = found
    return entries


def _taken(note: Path) -> FileEntry | None:
    """Return what a note says and remove it, since it is no part of the checkpoint; None while there is none."""
    if not note.exists():
        return None
    entry = FileEntry.model_validate(json.loads(note.read_text()))
    with suppress(FileNotFoundError):
        note.unlink()
    return entry
