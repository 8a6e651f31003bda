"""A place that another node named, a path or the URL of an artifact in a store → a directory on this node.

Jobs, releases and workers hand each other places and never directories of one machine: what lies in a local home is
seen by whoever may see that home, and what lies at a URL is brought to the node that opens it, once, and verified. Hub
ids pass through: their client keeps a cache of its own.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cluster.store import Store

MOST_KNOWN = 64


def is_remote(place: str | Path) -> bool:
    """Return whether a place is a URL."""
    return "://" in str(place)


def local_directory(place: str) -> str:
    """Return the directory on this node that holds what lies at ``place``: itself, unless that is a URL.

    A process verifies each once. Raises StoreError where the URL names no whole artifact.
    """
    if not is_remote(place):
        return place
    found = _brought(place)
    if not Path(found).is_dir():  # the node's cache was emptied
        _brought.cache_clear()
        found = _brought(place)
    return found


@lru_cache(MOST_KNOWN)
def _brought(url: str) -> str:
    root, _, name = url.rstrip("/").rpartition("/")
    return str(Store(root).reading(name))
