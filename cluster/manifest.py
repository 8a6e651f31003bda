"""What an artifact consists of: every file's hash and size, in a manifest that is written last.

A directory with a manifest is whole; one without is the rest of something that broke off. Reading compares what lies
there with the manifest, so that damage is named instead of trained on. The same walk gives directories and files that
are not ours (a base model, a data file) a content hash, by which caches and lineage name them. Who wrote a file, when,
and with which permissions is left out on purpose: equal content has to give equal hashes on every machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from cluster.errors import StoreError
from cluster.records import Record

MANIFEST_NAME = "manifest.json"
MAX_SEGMENT_BYTES = 255
GLOB_OR_ESCAPE = frozenset("*?[\\")


def contained(*parts: str) -> str:
    """Return ``parts`` joined by slashes, after making sure that they name something below where they start.

    Raises StoreError for ``..``, ``.``, absolute names, NUL and other unprintable characters, backslashes, and what a
    glob would read as more than a name.
    """
    segments = [segment for part in parts for segment in part.split("/")]
    for segment in segments:
        odd = not segment.isprintable() or not GLOB_OR_ESCAPE.isdisjoint(segment)
        if segment in ("", ".", "..") or odd or len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise StoreError(
                f"the name {'/'.join(parts)!r} cannot be used in the store",
                "A name has no '..', no leading or doubled slash, and no backslash, unprintable or glob character.",
            )
    return "/".join(segments)


class FileEntry(Record):
    """One file of an artifact: SHA-256 as 64 hex digits, and its size in bytes."""

    sha256: str
    bytes: int

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Return the entry of a file as it lies there; raises StoreError where it is none."""
        return cls(sha256=file_hash(path), bytes=path.stat().st_size)


class Manifest(Record):
    """The files of an artifact by their names relative to it, with slashes, sorted."""

    format: Literal[1] = 1
    files: dict[str, FileEntry]

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(entry.bytes for entry in self.files.values())

    def as_bytes(self) -> bytes:
        """Return the manifest as the JSON that is stored."""
        return (self.model_dump_json(indent=1) + "\n").encode()

    @classmethod
    def of(cls, directory: Path) -> Manifest:
        """Return the manifest of what lies in ``directory``; raises StoreError for links and unsafe names."""
        if (directory / MANIFEST_NAME).exists():
            raise StoreError(f"an artifact cannot have a file {MANIFEST_NAME} of its own", "Give it another name.")
        files: dict[str, FileEntry] = {}
        for name, path in _files_below(directory):
            if path.is_symlink():
                raise StoreError(f"{path} is a link", "Write the file itself into the artifact.")
            files[contained(name)] = FileEntry.of(path)
        return cls(files=files)

    @classmethod
    def parse(cls, text: bytes, where: str) -> Manifest:
        """Return the manifest that ``text`` spells; raises StoreError where it is damaged or names files elsewhere."""
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(f"the manifest is damaged: {first['msg']}", "Make the artifact again.", where) from error
        for name in manifest.files:
            contained(name)
        return manifest

    def check(self, directory: Path, where: str) -> None:
        """Raise StoreError naming the first file in ``directory`` that is missing, changed or not of this artifact."""
        found = dict(_files_below(directory))
        for name, entry in self.files.items():
            path = found.pop(name, None)
            if path is None:
                raise StoreError(f"{name} is missing", "Make the artifact again, or restore the file.", where)
            size_bytes = path.stat().st_size
            if size_bytes != entry.bytes:
                what = f"{name} is damaged: it has {size_bytes} bytes, the manifest says {entry.bytes}"
                raise StoreError(what, "Make the artifact again, or restore the file.", where)
            if file_hash(path) != entry.sha256:
                what = f"{name} is damaged: its content no longer has the hash in the manifest"
                raise StoreError(what, "Make the artifact again, or restore the file.", where)
        if found:
            raise StoreError(f"{min(found)} is not part of this artifact", "Move the file elsewhere.", where)


def content_hash(path: Path) -> str:
    """Return the SHA-256, as 64 hex digits, of a file's content or of a directory's names and contents.

    A file's is the plain one that ``sha256sum`` prints. A directory's covers its files sorted by name and follows
    links to files, since model caches are made of them. Left out are the store's own manifest and every name that
    begins with a dot, where download tools keep their notes. Raises StoreError for a missing path or a broken link.
    """
    if path.is_file():
        return file_hash(path)
    if not path.is_dir():
        raise StoreError(f"{path} is not there", "Check the path.")
    digest = hashlib.sha256()
    for name, file in content_files(path):
        digest.update(f"{name}\0{file_hash(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def content_files(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative name, path) of every file that a directory's content hash covers, sorted by name."""
    for name, file in _files_below(directory):
        if not any(segment.startswith(".") for segment in name.split("/")):
            yield name, file


def _files_below(directory: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative name, path) of every file below ``directory`` sorted by name, except the manifest at its top."""
    found: dict[str, Path] = {}
    waiting = [directory]
    while waiting:
        for path in waiting.pop().iterdir():
            if path.is_dir() and path.is_symlink():
                raise StoreError(f"{path} is a link to a directory", "Put the directory itself there.")
            if path.is_dir():
                waiting.append(path)
            else:
                found[path.relative_to(directory).as_posix()] = path
    found.pop(MANIFEST_NAME, None)
    yield from sorted(found.items())


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file's content as 64 hex digits; raises StoreError where it is none."""
    if not path.is_file():
        raise StoreError(f"{path} is a broken link or not a file", "Only plain files can be kept and hashed.")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
