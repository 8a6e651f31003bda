"""Files that grow on one node → the same files in a remote store, brought there whole when they should be safe.

A curve is written line by line, and object stores append nothing. So whoever writes one has it on its node, in
``Mirror.path``, and pushes what has changed at checkpoints, evaluations and the end; what came after the last push is
lost with the node, and written again by the run that goes on. With a local home the path is the home's own, and nothing
is pushed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from cluster.store import Store


class Mirror:
    """The growing files below one root of a store, on the one node that writes them."""

    def __init__(self, root: str | Path) -> None:
        self._store = Store(str(root))
        self.path = Path(self._store.path()) if self._store.is_local else self._store.node_directory("mirror")
        self._pushed: dict[str, tuple[int, int]] = {}

    def pull(self, name: str) -> None:
        """Have the file ``name`` here as the store has it: another node may have written it last."""
        if self._store.is_local:
            return
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if self._store.exists(name):
            target.write_text(self._store.get_text(name), encoding="utf-8")

    def push(self) -> None:
        """Bring every file that has changed since the last time to the store. Raises StoreError."""
        if self._store.is_local:
            return
        for name, path in self._files():
            about = path.stat()
            mark = (about.st_size, about.st_mtime_ns)
            if self._pushed.get(name) != mark:
                self._store.put_file(path, name)
                self._pushed[name] = mark

    def _files(self) -> Iterator[tuple[str, Path]]:
        for folder, _, names in os.walk(self.path):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    yield path.relative_to(self.path).as_posix(), path
