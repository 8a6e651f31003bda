"""A base, a training block and the rows' lengths → the plan that `hone train` would choose on given machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.resources import make_plan
from cluster.spec import JobSpec
from trainers.plan import job_facts

if TYPE_CHECKING:
    from cluster.capacity import Capacity
    from cluster.records import Plan
    from cluster.spec import TrainSpec
    from trainers.batches import Examples


def chosen_plan(base: str, train: TrainSpec, data: Examples, capacity: Capacity) -> Plan:
    """Raises CapacityError where the job does not fit."""
    job = JobSpec.model_validate({"name": "benchmark", "base": base, "data": "rows", "train": train})
    facts = job_facts(job, data.lengths, data.target_counts, has_bitsandbytes=False)
    return make_plan(train, job.cluster, facts, capacity)
