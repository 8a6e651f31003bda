"""What a cluster's machines offer, and how many workers of a given size they hold; pure.

``cluster.session`` fills this in from Ray or from this machine, ``cluster.resources`` decides with it. A worker never
spans machines, so room is counted machine by machine and a sum over the cluster is only used in messages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import floor
from typing import Self


@dataclass(frozen=True, slots=True)
class NodeCapacity:
    """One node of Ray's: what may be handed out on it, and what of that is free now (None: not asked).

    Usually a machine; several nodes with one ``host`` name share theirs and its disk.
    ``gpu_memory_bytes`` is one GPU's memory, None where it is unknown; ``has_bf16``: its GPUs compute in bf16.
    """

    node_id: str
    cpus: float
    gpus: float
    memory_bytes: int
    gpu_memory_bytes: int | None = None
    has_bf16: bool = True
    free_cpus: float | None = None
    free_gpus: float | None = None
    host: str = ""

    def without(self, cpus: float, gpus: float) -> Self:
        """Return the node with so much less to hand out."""
        return replace(self, cpus=round(self.cpus - cpus, 4), gpus=round(self.gpus - gpus, 4))

    def slots(self, cpus: float, gpus: float) -> int:
        """Return how many workers of that many CPUs (above 0) and GPUs this machine holds."""
        return _slots(self.cpus, self.gpus, cpus, gpus)

    def free_slots(self, cpus: float, gpus: float) -> int:
        """Return how many such workers would start now."""
        free_cpus = self.cpus if self.free_cpus is None else self.free_cpus
        free_gpus = self.gpus if self.free_gpus is None else self.free_gpus
        return _slots(free_cpus, free_gpus, cpus, gpus)


@dataclass(frozen=True, slots=True)
class Capacity:
    """The machines that can run workers."""

    nodes: tuple[NodeCapacity, ...]

    def without(self, held: Mapping[str, tuple[float, float]]) -> Self:
        """Return the same machines less CPUs and GPUs that are held on them, by node."""
        return replace(self, nodes=tuple(node.without(*held.get(node.node_id, (0.0, 0.0))) for node in self.nodes))

    @property
    def num_hosts(self) -> int:
        """Machines that the nodes lie on."""
        return len({node.host or node.node_id for node in self.nodes})

    @property
    def cpus(self) -> float:
        """CPUs of all machines."""
        return sum(node.cpus for node in self.nodes)

    @property
    def gpus(self) -> float:
        """GPUs of all machines."""
        return sum(node.gpus for node in self.nodes)

    def slots(self, cpus: float, gpus: float) -> int:
        """Return how many workers of that size the cluster holds."""
        return sum(node.slots(cpus, gpus) for node in self.nodes)

    def free_slots(self, cpus: float, gpus: float) -> int:
        """Return how many of them would start now."""
        return sum(node.free_slots(cpus, gpus) for node in self.nodes)

    def cpus_per_worker(self, workers: int, gpus: float) -> int:
        """Return the most whole CPUs that each of ``workers`` can have at once; 0 where they do not fit at all."""
        most = floor(max((node.cpus for node in self.nodes), default=0))
        return next((cpus for cpus in range(most, 0, -1) if self.slots(cpus, gpus) >= workers), 0)

    def memory_bytes_per_worker(self, workers: int, cpus: float, gpus: float) -> int:
        """Return the main memory that the worst placed of ``workers`` has; workers are packed, as Ray does."""
        used = [(node, min(workers, node.slots(cpus, gpus))) for node in self.nodes]
        return min(node.memory_bytes // slots for node, slots in used if slots)

    def gpu_memory_bytes_per_worker(self, cpus: float, gpus: float) -> int | None:
        """Return the memory of the GPU, or share of one, that a worker computes on; None where one is unknown."""
        sizes = [node.gpu_memory_bytes for node in self.nodes if node.slots(cpus, gpus)]
        known = [size for size in sizes if size is not None]
        return floor(min(known) * min(1.0, gpus)) if known and len(known) == len(sizes) else None


def _slots(has_cpus: float, has_gpus: float, cpus: float, gpus: float) -> int:
    by_cpus = floor(has_cpus / cpus + 1e-9)
    if gpus <= 0:
        return by_cpus
    # A worker with a share of a GPU stays on one; with several it has them whole.
    by_gpus = floor(has_gpus) * floor(1 / gpus + 1e-9) if gpus < 1 else floor(has_gpus / gpus + 1e-9)
    return min(by_cpus, by_gpus)
