"""A job and a profile's groups → how many nodes of which group must be there before the job is planned; pure.

`hone run` plans with what there is, and a cluster of its own begins with what its groups' ``min`` says. So a job's
fewest workers decide: they go to the first group with GPUs where there are any, else to the first one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cluster.errors import CapacityError

if TYPE_CHECKING:
    from cluster.profile_spec import GroupSpec
    from cluster.spec import JobSpec


def with_room(groups: Sequence[GroupSpec], job: JobSpec) -> list[GroupSpec]:
    """Return the groups with enough nodes always there for the job. Raises CapacityError where none has so many."""
    workers = job.cluster.fewest_workers
    host = next((group for group in groups if group.gpus), groups[0])
    each = workers_of(host, job)
    nodes = math.ceil(workers / each) if each else 0
    if not each or nodes > host.max:
        has = f"{host.max} nodes of {host.cpus} CPUs and {host.gpus} GPUs"
        what = f"{job.name} needs {workers} workers, and the group {host.name} has at most {has}"
        raise CapacityError(what, "Raise the group's max, or lower cluster.workers.", "workers")
    return [group.model_copy(update={"min": max(group.min, nodes)}) if group is host else group for group in groups]


def workers_of(group: GroupSpec, job: JobSpec) -> int:
    """Return how many of the job's workers a node of the group holds."""
    cluster = job.cluster
    gpus = (1.0 if group.gpus else 0.0) if cluster.gpus_per_worker == "auto" else float(cluster.gpus_per_worker)
    cpus = 1 if cluster.cpus_per_worker == "auto" else cluster.cpus_per_worker
    by_cpus = math.floor(group.cpus / cpus)
    return by_cpus if gpus <= 0 else min(by_cpus, math.floor(group.gpus / gpus + 1e-9))
