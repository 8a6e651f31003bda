"""What fsspec's file systems leave open, settled for a store: what is there, how bytes get there, how all of it goes.

fsspec's own ``isfile`` and ``exists`` answer "no" to every failure; here an outage is an error, since what is not there
may be made again or cleared away. Failures come out as the vendor's exceptions, which the store puts into words.
"""

from __future__ import annotations

from typing import Any, Literal

from cluster.manifest import MANIFEST_NAME

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oci", "oss", "obs", "tos"})
"""They need no directories, and would make a bucket of a name with a typing error; the others need them."""


def kind_of(fs: Any, key: str) -> Literal["file", "directory", ""]:
    """Return what lies at a key, nothing where nothing does."""
    try:
        return "file" if fs.info(key)["type"] == "file" else "directory"
    except FileNotFoundError:
        return ""


def put_bytes(fs: Any, key: str, content: bytes) -> None:
    """Write a small file in one piece, its directory made where the file system needs one."""
    try:
        fs.pipe_file(key, content)
    except FileNotFoundError:
        protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
        if protocols & OBJECT_STORES:
            raise
        fs.makedirs(key.rsplit("/", 1)[0], exist_ok=True)
        fs.pipe_file(key, content)


def remove_all(fs: Any, key: str) -> None:
    """Remove what lies at a key; the manifest first, so that the rest is never taken for an artifact on its way out."""
    if kind_of(fs, f"{key}/{MANIFEST_NAME}"):
        fs.rm_file(f"{key}/{MANIFEST_NAME}")
    if kind_of(fs, key):
        fs.rm(key, recursive=True)
