"""What a head's dashboard says of its cluster, in Ray's words → what jobs are planned with; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.capacity import Capacity, NodeCapacity


@dataclass(frozen=True)
class Offer:
    """What a head says of its cluster."""

    ray_version: str
    python_version: str
    capacity: Capacity
    hosts: frozenset[str] = field(default_factory=frozenset)
    """Names of all machines, the head's too, which may have no CPUs to hand out."""
    knows_free: bool = True


def usage_by_node(status: Mapping[str, Any]) -> dict[str, Mapping[str, list[float]]]:
    """Return by node what is used and there is of each resource; empty where the head keeps no such account."""
    report = (status.get("clusterStatus") or {}).get("loadMetricsReport") or {}
    return report.get("usageByNode") or {}


def node_capacity(told: Mapping[str, Any], usage: Mapping[str, Mapping[str, list[float]]]) -> NodeCapacity:
    """Return one node of the head's summary as planning sees it, what is free of it by ``usage``."""
    raylet = told["raylet"]
    has: Mapping[str, float] = raylet["resourcesTotal"]
    node_id = raylet["nodeId"]
    used = usage.get(node_id, {})

    def free(resource: str) -> float | None:
        amounts = used.get(resource)
        return None if amounts is None else max(0.0, amounts[1] - amounts[0])

    sizes = [gpu["memoryTotal"] for gpu in told.get("gpus") or [] if gpu.get("memoryTotal")]
    return NodeCapacity(
        node_id=node_id,
        cpus=has.get("CPU", 0.0),
        gpus=has.get("GPU", 0.0),
        memory_bytes=int(has.get("memory", 0.0)),
        gpu_memory_bytes=int(min(sizes)) * 2**20 if sizes else None,
        free_cpus=free("CPU"),
        free_gpus=free("GPU"),
        host=raylet["nodeManagerHostname"],
    )
