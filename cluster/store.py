"""Artifact directories under one root, local or remote, that are either whole or not there.

A writer fills a fresh directory beside the store's names; on a clean exit every file is hashed, the manifest is
written last, and only then does the artifact have its name: locally by one rename, remotely by the manifest's
arrival. So a reader never sees half of one, and whoever finds a manifest may skip the work. Artifacts never change:
the first one committed under a name stays. Next to artifacts lie small whole documents (a run's status), each
replaced in one piece. What a node has read or written of a remote store stays in its cache under the manifest's hash,
so that each node fetches an artifact once; the cache may be emptied at any time.

Left out: locks between machines (names hold a run id or a content hash, so two writers of one remote name do not
happen in earnest) and cleaning up after killed processes, whose unfinished directories lie under ``.aside`` and are
never listed or read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec  # pyright: ignore[reportMissingTypeStubs]
from fsspec.implementations.local import LocalFileSystem  # pyright: ignore[reportMissingTypeStubs]

from cluster.durable import discard, full_disk_named, locked, replace_file, storage_errors, sync, sync_tree
from cluster.errors import StoreError
from cluster.manifest import MANIFEST_NAME, Manifest, contained, content_hash

__all__ = ["Store", "content_hash"]

ASIDE = ".aside"
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "obs", "tos"})
"""They need no directories, and would make a bucket of a name with a typing error; the others need them."""


class Store:
    """Artifacts and documents below ``root``, a local path or any fsspec URL.

    ``cache`` is where remote artifacts are unpacked for reading and prepared for writing. Names are given as parts
    (``"runs", run, "train"``); every method raises StoreError for names that lead out of the store, and for storage
    that cannot be reached, is full or is damaged.
    """

    def __init__(self, root: str, cache: Path | None = None) -> None:
        try:
            fs, base = fsspec.core.url_to_fs(str(root), use_listings_cache=False)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StoreError(f"no storage opens for {root}: {reason}", "For s3:// install hone[s3].") from error
        self._fs: Any = fs
        self.is_local = isinstance(fs, LocalFileSystem)
        self._base = str(base).rstrip("/")
        self.root = self._base or "/" if self.is_local else str(fs.unstrip_protocol(self._base))
        scratch = cache or Path.home() / ".cache" / "hone"
        self._aside = Path(self.root) / ASIDE if self.is_local else scratch / ASIDE
        self._cache = scratch / "artifacts"

    @property
    def scratch_places(self) -> tuple[Path, Path]:
        """Return where unfinished directories lie, and where remote artifacts are kept for reading."""
        return self._aside, self._cache

    def path(self, *parts: str) -> str:
        """Return the absolute path (local) or URL (remote) that ``parts`` name; without parts, the root's."""
        if not parts:
            return self.root
        name = contained(*parts)
        if not self.is_local:
            return f"{self.root}/{name}"
        target = Path(self.root, name)
        if not target.resolve().is_relative_to(Path(self.root).resolve()):
            raise StoreError(f"{target} leads out of the store through a link", "Remove the link.")
        return str(target)

    @contextmanager
    def writing(self, *parts: str) -> Generator[Path]:
        """Yield a fresh local directory that becomes the artifact ``parts`` when the block ends without an error.

        After an error nothing remains. Raises StoreError where the artifact exists already, and for a full disk.
        Whoever loses a race against an equal name keeps the winner's artifact.
        """
        where = self.path(*parts)
        if self.is_committed(*parts):
            raise StoreError(f"{where} is committed already", "Use it as it is, or remove it first.")
        with self.scratch() as fresh:
            with full_disk_named(where, fresh):
                yield fresh
            with storage_errors(where, fresh):
                if self.is_local:
                    self._commit_local(fresh, Path(where))
                else:
                    self._commit_remote(fresh, self._key(parts))

    def reading(self, *parts: str, verify: bool = True) -> Path:
        """Return a local directory holding the artifact ``parts``: itself, or a copy that is kept by its hash.

        ``verify`` compares every file with the manifest. Of several processes on a node one downloads and the others
        wait. Raises StoreError for an artifact that is not there, is incomplete (no manifest) or has a file that is
        missing, damaged or foreign.
        """
        where = self.path(*parts)
        text = self._manifest_text(where, parts)
        manifest = Manifest.parse(text, where)
        if self.is_local:
            if verify:
                manifest.check(Path(where), where)
            return Path(where)
        kept = self._kept(text)
        with locked(kept.with_name(f".{kept.name}.lock")):
            if kept.is_dir():
                with suppress(StoreError):
                    if verify:
                        manifest.check(kept, where)
                    return kept
                shutil.rmtree(kept)
            self._download(manifest, self._key(parts), where, kept)
        return kept

    def is_committed(self, *parts: str) -> bool:
        """Return whether the artifact ``parts`` is there as a whole."""
        return self._kind((*parts, MANIFEST_NAME)) == "file"

    def exists(self, *parts: str) -> bool:
        """Return whether ``parts`` are there as a whole: a document, or an artifact with its manifest."""
        kind = self._kind(parts)
        return kind == "file" or (kind == "directory" and self.is_committed(*parts))

    def list(self, *parts: str) -> list[str]:
        """Return the sorted names directly below ``parts`` that do not begin with a dot; none where nothing is."""
        where = self.path(*parts)
        with storage_errors(where), suppress(FileNotFoundError, NotADirectoryError):
            names = Path(where).iterdir() if self.is_local else self._fs.ls(self._key(parts), detail=False)
            bare = {str(name).rstrip("/").rsplit("/", 1)[-1] for name in names}
            return sorted(name for name in bare if name and not name.startswith("."))
        return []

    def stored(self, *parts: str) -> tuple[int, float]:
        """Return how many bytes lie below ``parts``, and when the newest of them was written (seconds since 1970)."""
        where = self.path(*parts)
        with storage_errors(where):
            found: dict[str, Any] = self._fs.find(where if self.is_local else self._key(parts), detail=True)
        written = [_written_s(about) for about in found.values()]
        return sum(int(about.get("size") or 0) for about in found.values()), max(written, default=0.0)

    def remove(self, *parts: str) -> None:
        """Remove the artifact, document or directory ``parts``, in a way that never leaves half of it to be read."""
        assert parts, "the root itself is not ours to remove"
        where = self.path(*parts)
        with storage_errors(where):
            if not self.is_local:
                self._remove_remote(self._key(parts))
            elif os.path.lexists(where):
                discard(Path(where), self._aside)

    def put_json(self, document: object, *parts: str) -> None:
        """Write ``document`` as JSON under ``parts``, replacing what was there in one piece."""
        self.put_text(json.dumps(document, ensure_ascii=False, indent=2, allow_nan=False) + "\n", *parts)

    def get_json(self, *parts: str) -> Any:
        """Return the document ``parts``; raises StoreError where it is missing or not JSON."""
        text = self.get_text(*parts)
        try:
            return json.loads(text)
        except ValueError as error:
            raise StoreError(f"this is not JSON: {error}", "Remove the file.", self.path(*parts)) from error

    def put_text(self, text: str, *parts: str) -> None:
        """Write ``text`` in UTF-8 under ``parts``, replacing what was there in one piece."""
        where = self.path(*parts)
        with storage_errors(where):
            if self.is_local:
                replace_file(Path(where), text.encode())
            else:
                self._put_bytes(self._key(parts), text.encode())

    def put_file(self, source: Path, *parts: str) -> None:
        """Copy the local file ``source`` under ``parts``, replacing what was there in one piece."""
        where = self.path(*parts)
        with storage_errors(where):
            if not self.is_local:
                self._fs.put_file(str(source), self._key(parts))
                return
            with self.scratch() as fresh:
                copied = Path(shutil.copyfile(source, fresh / "file"))
                sync(copied)
                Path(where).parent.mkdir(parents=True, exist_ok=True)
                copied.replace(where)
            sync(Path(where).parent)

    def get_text(self, *parts: str) -> str:
        """Return the UTF-8 text ``parts``; raises StoreError where it is missing."""
        where = self.path(*parts)
        with storage_errors(where):
            try:
                return (Path(where).read_bytes() if self.is_local else self._fs.cat_file(self._key(parts))).decode()
            except FileNotFoundError as error:
                raise StoreError(f"there is no {where}", "Check the name.") from error
            except UnicodeDecodeError as error:
                raise StoreError(f"{where} is damaged: it is not UTF-8 text", "Remove the file.") from error

    def _kind(self, parts: tuple[str, ...]) -> str:
        """Return "file", "directory", or nothing where there is nothing."""
        where = self.path(*parts)
        with storage_errors(where):
            if not self.is_local:
                return self._remote_kind(self._key(parts))
            path = Path(where)
            return "file" if path.is_file() else "directory" if path.exists() else ""

    def _remote_kind(self, key: str) -> str:
        """Say the same of a remote name: fsspec's own isfile and exists take an outage for "no"."""
        try:
            return str(self._fs.info(key)["type"])
        except FileNotFoundError:
            return ""

    def _key(self, parts: tuple[str, ...]) -> str:
        """Return the name that the remote file system knows ``parts`` by."""
        return "/".join((self._base, contained(*parts))) if parts else self._base

    def node_directory(self, *parts: str) -> Path:
        """Return a directory on this node for what ``parts`` need here; not yet made, and losing it is no loss."""
        return self._aside / hashlib.sha256(self.root.encode()).hexdigest()[:16] / contained(*parts)

    @contextmanager
    def scratch(self) -> Generator[Path]:
        """Yield a fresh local directory on the store's disk (the cache's for a remote store), gone at the end."""
        fresh = self._aside / uuid.uuid4().hex
        with storage_errors(str(self._aside)):
            fresh.mkdir(parents=True)
        try:
            yield fresh
        finally:
            shutil.rmtree(fresh, ignore_errors=True)

    def _manifest_text(self, where: str, parts: tuple[str, ...]) -> bytes:
        try:
            return self.get_text(*parts, MANIFEST_NAME).encode()
        except StoreError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            there = self._kind(parts)
            what = f"{where} is incomplete: it has no manifest" if there else f"there is no artifact {where}"
            raise StoreError(what, "Run the stage that makes it again." if there else "Check the name.") from error

    def _commit_local(self, fresh: Path, target: Path) -> None:
        (fresh / MANIFEST_NAME).write_bytes(Manifest.of(fresh).as_bytes())
        sync_tree(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            fresh.replace(target)
        except OSError as error:
            if (target / MANIFEST_NAME).is_file():
                return
            if not os.path.lexists(target):
                raise
            raise _in_the_way(str(target)) from error
        sync(target.parent)

    def _commit_remote(self, fresh: Path, key: str) -> None:
        manifest = Manifest.of(fresh)
        if self._remote_kind(f"{key}/{MANIFEST_NAME}"):
            return
        leftovers = self._fs.find(key)
        if any(str(name).endswith(f"/{MANIFEST_NAME}") for name in leftovers):
            raise _in_the_way(key)
        self._remove_remote(key)
        try:
            names, text = list(manifest.files), manifest.as_bytes()
            self._fs.put([str(fresh / name) for name in names], [f"{key}/{name}" for name in names])
            self._put_bytes(f"{key}/{MANIFEST_NAME}", text)
        except BaseException:
            with suppress(Exception):
                self._remove_remote(key)
            raise
        kept = self._kept(text)
        kept.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):  # another process has one
            fresh.replace(kept)

    def _kept(self, manifest_text: bytes) -> Path:
        """Return where this node keeps the artifact with this manifest."""
        return self._cache / hashlib.sha256(manifest_text).hexdigest()

    def _put_bytes(self, key: str, content: bytes) -> None:
        try:
            self._fs.pipe_file(key, content)
        except FileNotFoundError:
            if not OBJECT_STORES.isdisjoint(_protocols(self._fs)):
                raise
            self._fs.makedirs(key.rsplit("/", 1)[0], exist_ok=True)
            self._fs.pipe_file(key, content)

    def _remove_remote(self, key: str) -> None:
        """Remove the manifest first, so that the rest is never taken for an artifact on its way out."""
        if self._remote_kind(f"{key}/{MANIFEST_NAME}"):
            self._fs.rm_file(f"{key}/{MANIFEST_NAME}")
        if self._remote_kind(key):
            self._fs.rm(key, recursive=True)

    def _download(self, manifest: Manifest, key: str, where: str, kept: Path) -> None:
        with self.scratch() as fresh, storage_errors(where, fresh):
            for name in manifest.files:
                (fresh / name).parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError):
                    self._fs.get_file(f"{key}/{name}", str(fresh / name))
            manifest.check(fresh, where)
            fresh.replace(kept)


def _protocols(fs: Any) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)


def _written_s(about: dict[str, Any]) -> float:
    """Return when a file was written, by the name that its file system has for that; 0 where it does not say."""
    told: Any = next((about[name] for name in ("mtime", "LastModified", "updated", "created") if about.get(name)), 0.0)
    return float(told.timestamp()) if hasattr(told, "timestamp") else float(told)


def _in_the_way(where: str) -> StoreError:
    return StoreError(f"{where} holds something that is no artifact", "Remove it or move it away first.")
