"""A processor whose memory holds few tokens: every process that finds this file in its path fails to pack more.

Python imports a module of this name at its start, also in workers. Stands in for a GPU that is too small, with
the error that torch raises there.
"""

import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class SmallMemory(MetaPathFinder):
    """Finds ``trainers.batches``, and bounds what its ``pack`` can hold."""

    def find_spec(self, fullname: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname != "trainers.batches":
            return None
        spec = PathFinder.find_spec(fullname, path)  # pyright: ignore[reportArgumentType]
        assert spec is not None
        assert spec.loader is not None
        bound_memory(spec.loader)
        return spec


def bound_memory(loader: Loader) -> None:
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        pack = module.pack

        def bounded(examples: list[tuple[list[int], object]]) -> object:
            import torch

            if sum(len(ids) for ids, _ in examples) > int(os.environ["MEMORY_TOKENS"]):
                raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
            return pack(examples)

        vars(module)["pack"] = bounded

    loader.exec_module = exec_module  # pyright: ignore[reportAttributeAccessIssue]


if "MEMORY_TOKENS" in os.environ:
    sys.meta_path.insert(0, SmallMemory())
