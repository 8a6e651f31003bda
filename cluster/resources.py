"""Facts of a job and what the cluster has → the plan of a run, or a refusal with numbers; pure, and without torch.

The result of a run does not depend on how it is laid out, so everything about it is chosen here: as many workers as
asked and possible, GPUs where there are any, the number format the hardware has, then a ZeRO stage and a micro-batch
that fit (``cluster.fitting``), with the fewest workers where a range is asked. What cannot be done is refused before
anything starts. Left out: waiting for a busy cluster, which is Ray's; the plan only says that it will.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from cluster.advice import advice
from cluster.capacity import Capacity
from cluster.errors import CapacityError
from cluster.fitting import Device, JobFacts, Precision, Site, choose_layout, counted, format_bytes
from cluster.records import Plan
from cluster.spec import ClusterSpec, MinMax, SweepSpec, TrainSpec


@dataclass(frozen=True)
class Rate:
    """Training tokens a second that one worker does, and who says so (``measured by RUN``, ``stated``)."""

    tokens_per_s: float
    source: str


def make_plan(
    train: TrainSpec,
    cluster: ClusterSpec,
    facts: JobFacts,
    capacity: Capacity,
    rate: Rate | None = None,
    at_once: int = 1,
) -> Plan:
    """Return what the run will do, need and cost. Raises CapacityError for what cannot fit, with the numbers.

    Without a ``rate`` hours and cost stay unknown, and their bounds are left to the run. ``at_once`` runs of this kind
    share the capacity.
    """
    site = choose_site(train, cluster, facts, capacity, at_once)
    fewest = cluster.fewest_workers if isinstance(cluster.workers, MinMax) else None
    chosen = choose_layout(train, facts, replace(site, workers=fewest or site.workers))
    steps_per_epoch = ceil(len(facts.row_tokens) / train.batch_size)
    steps = max(1, ceil(train.epochs * steps_per_epoch - 1e-9))
    hours = cost = None
    if rate is not None:
        tokens = facts.num_tokens * steps / steps_per_epoch
        hours = tokens / (rate.tokens_per_s * site.workers) / 3600
        if cluster.price_per_gpu_hour is not None and site.gpus:
            cost = hours * site.workers * site.gpus * cluster.price_per_gpu_hour
    _refuse_bounds(train, cluster, hours, cost, rate)
    layout = chosen.layout
    return Plan(
        workers=site.workers,
        min_workers=fewest,
        gpus_per_worker=site.gpus,
        cpus_per_worker=site.cpus,
        device=site.device,
        precision=layout.precision,
        zero_stage=layout.zero_stage,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        micro_batch_tokens=layout.micro_batch_tokens,
        micro_batches=layout.micro_batches,
        scores_aside=train.best_by_is_generated and capacity.slots(site.cpus, site.gpus) > site.workers * at_once,
        parameters=facts.parameters,
        trainable_parameters=facts.trainable_parameters,
        memory_bytes=chosen.footprint.parts,
        available_bytes=site.memory_bytes or 0,
        formula=facts.formula,
        hours=hours,
        hours_source=rate.source if rate else "",
        cost_usd=cost,
        advice=list(advice(train, facts, capacity, site, chosen)),
    )


def trials_at_once(cluster: ClusterSpec, sweep: SweepSpec, capacity: Capacity) -> int:
    """Return how many trials of a sweep run at the same time: as many as there is room for, or as asked.

    A trial's driver only waits for its workers and takes no processor of its own. Raises CapacityError where more are
    asked than fit.
    """
    workers = cluster.fewest_workers
    room = room_for_workers(cluster, capacity) // workers
    if sweep.at_once != "auto" and sweep.at_once > room:
        raise CapacityError(
            f"{counted(sweep.at_once, 'trial')} at once of {counted(workers, 'worker')} each asked, there is room for "
            f"{room}",
            f"set sweep.at_once to {room}" if room else "lower cluster.workers",
            "sweep.at_once",
        )
    wanted = min(sweep.trials, room) if sweep.at_once == "auto" else sweep.at_once
    return max(1, wanted)  # none at all is refused by the plan, which says what is missing


def workers_together(cluster: ClusterSpec, capacity: Capacity, num: int, smallest_batch: int) -> int:
    """Return the workers of each of ``num`` trainings, whose steps have at least so many examples.

    As asked; of a range so many that all trainings have room at once, and the fewest where they have not.
    """
    if not isinstance(cluster.workers, MinMax):
        return cluster.workers
    share = room_for_workers(cluster, capacity) // num
    return max(cluster.workers.min, min(cluster.workers.max, share, smallest_batch))


def room_for_workers(cluster: ClusterSpec, capacity: Capacity) -> int:
    """Return how many workers of the size asked the cluster holds, each with a single CPU where the size is open."""
    cpus = 1 if cluster.cpus_per_worker == "auto" else cluster.cpus_per_worker
    return capacity.slots(cpus, gpus_asked(cluster, capacity))


def gpus_asked(cluster: ClusterSpec, capacity: Capacity) -> float:
    """Return the GPUs of one worker: as asked, or one where there are any."""
    if cluster.gpus_per_worker == "auto":
        return 1.0 if capacity.gpus else 0.0
    return cluster.gpus_per_worker


def choose_site(train: TrainSpec, cluster: ClusterSpec, facts: JobFacts, capacity: Capacity, at_once: int = 1) -> Site:
    """Return how many workers of which size the run gets. Raises CapacityError where the cluster has no room."""
    gpus = gpus_asked(cluster, capacity)
    if gpus and not capacity.gpus:
        raise CapacityError(
            f"{gpus:g} GPUs a worker asked, the cluster has none", "set it to auto or 0", "cluster.gpus_per_worker"
        )
    device: Device = "cuda" if gpus else "cpu"
    precision = _precision(train, capacity, device)
    _refuse_method(train, facts, device)
    workers = _num_workers(train, cluster, capacity, gpus)
    cpus = cluster.cpus_per_worker
    if cpus == "auto":
        cpus = capacity.cpus_per_worker(workers * at_once, gpus)
    host_bytes = capacity.memory_bytes_per_worker(workers * at_once, cpus, gpus)
    memory_bytes = capacity.gpu_memory_bytes_per_worker(cpus, gpus) if gpus else host_bytes
    if memory_bytes is None and train.zero_stage == "auto":
        raise CapacityError(
            "the memory of the cluster's GPUs is unknown, so no ZeRO stage can be chosen",
            "set train.zero_stage to 0, 1, 2 or 3",
            "train.zero_stage",
        )
    return Site(workers, cpus, gpus, device, precision, memory_bytes, host_bytes)


def _refuse_method(train: TrainSpec, facts: JobFacts, device: str) -> None:
    if train.method == "qlora" and device == "cpu":
        raise CapacityError("qlora needs a GPU, and the run has none", "set train.method to lora", "train.method")
    if train.method == "qlora" and not facts.has_bitsandbytes:
        what = "qlora needs bitsandbytes, which is not installed"
        raise CapacityError(what, "install bitsandbytes, or set train.method to lora", "train.method")
    if train.offload != "none" and device == "cpu":
        what = f"offload {train.offload} moves states off a GPU, and the run has none"
        raise CapacityError(what, "set train.offload to none", "train.offload")


def _num_workers(train: TrainSpec, cluster: ClusterSpec, capacity: Capacity, gpus: float) -> int:
    asked = cluster.workers
    least, most = (asked.min, asked.max) if isinstance(asked, MinMax) else (asked, asked)
    cpus = 1 if cluster.cpus_per_worker == "auto" else cluster.cpus_per_worker
    room = capacity.slots(cpus, gpus)
    if room < least:
        each = counted(cpus, "CPU") + (f" and {counted(gpus, 'GPU')}" if gpus else "")
        has = ", ".join(
            counted(number, noun)
            for number, noun in ((len(capacity.nodes), "machine"), (capacity.cpus, "CPU"), (capacity.gpus, "GPU"))
        )
        raise CapacityError(
            f"{counted(least, 'worker')} asked, the cluster has room for {room} ({each} each; it has {has})",
            f"set cluster.workers to {room}" + " or fewer" * (room > 1) if room else f"find a machine with {each}",
            "cluster.workers",
        )
    if train.batch_size < least:
        raise CapacityError(
            f"a step of {train.batch_size} examples cannot be spread over {least} workers",
            f"set train.batch_size to {least} or more, or cluster.workers to {train.batch_size} or fewer",
            "train.batch_size",
        )
    return min(most, room, train.batch_size)


def _precision(train: TrainSpec, capacity: Capacity, device: Device) -> Precision:
    if device == "cpu":
        return "fp32" if train.precision == "auto" else train.precision
    has_bf16 = all(node.has_bf16 for node in capacity.nodes if node.gpus)
    if train.precision == "bf16" and not has_bf16:
        raise CapacityError(
            "bf16 asked, and not all GPUs compute in it", "set train.precision to fp32", "train.precision"
        )
    if train.precision == "auto":
        return "bf16" if has_bf16 else "fp32"
    return train.precision


def _refuse_bounds(
    train: TrainSpec, cluster: ClusterSpec, hours: float | None, cost: float | None, rate: Rate | None
) -> None:
    """Refuse a run that is predicted to be stopped by its own bounds."""
    for value, bound, unit, key in (
        (hours, cluster.max_hours, "hours", "cluster.max_hours"),
        (cost, cluster.max_cost, "US dollars", "cluster.max_cost"),
    ):
        if value is not None and bound is not None and value > bound and rate is not None:
            raise CapacityError(
                f"the run is predicted to take {value:.3g} {unit}, and {key} is {bound:g} ({rate.tokens_per_s:,.0f} "
                f"tokens a second and worker, {rate.source})",
                f"raise it, or lower train.epochs from {train.epochs:g} to {train.epochs * bound / value:.2g}",
                key,
            )


def format_plan(plan: Plan) -> list[str]:
    """Return the plan as lines for a terminal."""
    return [f"{name:<12}{text}" for name, text in plan_facts(plan)]


def plan_facts(plan: Plan) -> list[tuple[str, str]]:
    """Return what a plan says, each sentence with its heading."""
    each = counted(plan.cpus_per_worker, "CPU")
    if plan.gpus_per_worker:
        each += f" and {counted(plan.gpus_per_worker, 'GPU')}"
    parts = ", ".join(f"{name} {format_bytes(size)}" for name, size in plan.memory_bytes.items() if size)
    peak = format_bytes(sum(plan.memory_bytes.values()))
    available = f" of {format_bytes(plan.available_bytes)}" if plan.available_bytes else ""
    workers = f"{plan.min_workers} to {plan.workers}" if plan.min_workers else str(plan.workers)
    steps = (
        f"{plan.steps:,} ({plan.steps_per_epoch:,} an epoch), on each worker at most "
        f"{counted(plan.micro_batches, 'micro-batch')} of {plan.micro_batch_tokens:,} tokens"
    )
    facts = [
        ("workers", f"{workers}, each with {each}, {plan.device}, {plan.precision}, ZeRO-{plan.zero_stage}"),
        ("steps", steps),
        ("parameters", f"{plan.trainable_parameters:,} of {plan.parameters:,} are trained"),
        ("memory", f"{peak}{available} a worker at the peak: {parts}"),
    ]
    if plan.hours is not None:
        cost = f", {plan.cost_usd:,.2f} US dollars" if plan.cost_usd is not None else ""
        facts.append(("time", f"{plan.hours:.3g} hours{cost} ({plan.hours_source})"))
    return facts + [("cheaper", line) for line in plan.advice]
