"""Workers that a busy cluster has no room for yet: what they wait for, told in the run's status, and for how long.

Ray queues them by itself and says nothing. A run that waits can be stopped, and gives up after
``cluster.max_wait_hours``; what the cluster could never hold was refused by the plan.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cluster.errors import CapacityError, RunStopped
from cluster.fitting import counted
from cluster.runs import read_status, stop_requested, write_status

if TYPE_CHECKING:
    from cluster.records import Plan
    from cluster.run_context import RunContext

LOOK_EVERY_S = 3.0
GRACE_S = 6.0
"""Placing workers takes a moment on an empty cluster too."""
Look = Callable[[], tuple[Mapping[str, Any], Mapping[str, float]]]


class Queue:
    """Watches over one group of workers until it has its place, called as often as one likes by the driver.

    ``ask`` returns Ray's placement groups and what is free.
    """

    def __init__(
        self,
        ctx: RunContext,
        plan: Plan,
        ask: Look | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ctx, self._plan, self._ask, self._clock = ctx, plan, ask or _ray, clock
        self._looked_s = -LOOK_EVERY_S
        self._since_s: float | None = None
        self._told = ""

    def look(self) -> None:
        """Say what the workers wait for, if they do. Raises RunStopped when asked to, CapacityError after too long."""
        now_s = self._clock()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        groups, free = self._ask()
        if not is_queued(groups, self._plan):
            self._since_s = None
            self._tell("")
            return
        self._since_s = now_s if self._since_s is None else self._since_s
        waited_s = now_s - self._since_s
        if waited_s < GRACE_S:
            return
        why = waiting_for(self._plan, free)
        self._tell(why)
        self._end_if_due(why, waited_s)

    def _end_if_due(self, why: str, waited_s: float) -> None:
        ctx, most_hours = self._ctx, self._ctx.job.cluster.max_wait_hours
        if stop_requested(ctx.store, ctx.run):
            raise RunStopped("stopped before it had its workers, as asked", f"go on with: hone resume {ctx.run}")
        if most_hours is not None and waited_s >= most_hours * 3600:
            raise CapacityError(
                f"{why}, for {waited_s / 3600:.3g} hours; cluster.max_wait_hours is {most_hours:g}",
                f"hone resume {ctx.run} waits again, with --set cluster.max_wait_hours=HOURS longer",
            )

    def _tell(self, why: str) -> None:
        """Put why the run waits into its status, or take it out again; whatever else the status says stays."""
        if why == self._told:
            return
        status = read_status(self._ctx.store, self._ctx.run)
        if status is not None:
            state = "waiting" if why else "running"
            write_status(self._ctx.store, status.model_copy(update={"state": state, "why": why}))
        self._told = why


def is_queued(groups: Mapping[str, Any], plan: Plan) -> bool:
    """Return whether a group of workers of this plan's shape is still to be placed."""
    wanted = _bundle(plan)
    return any(
        group["state"] == "PENDING" and all(_amounts(bundle) == wanted for bundle in group["bundles"].values())
        for group in groups.values()
    )


def waiting_for(plan: Plan, free: Mapping[str, float]) -> str:
    """Return what a plan's workers wait for, and how much of it is free."""
    name = "GPU" if plan.gpus_per_worker else "CPU"
    workers = plan.min_workers or plan.workers
    needed = workers * (plan.gpus_per_worker or plan.cpus_per_worker)
    has = free.get(name, 0.0)
    apart = f", but not so that {counted(workers, 'worker')} could start" if has >= needed else ""
    return f"waiting for {counted(needed, name)}, {has:g} free{apart}"


def _bundle(plan: Plan) -> dict[str, float]:
    return _amounts({"CPU": plan.cpus_per_worker, "GPU": plan.gpus_per_worker})


def _amounts(bundle: Mapping[str, float]) -> dict[str, float]:
    return {name: float(amount) for name, amount in bundle.items() if amount}


def _ray() -> tuple[Mapping[str, Any], Mapping[str, float]]:
    import ray
    from ray.util import placement_group_table

    return placement_group_table(), ray.available_resources()
