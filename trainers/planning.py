"""A prepared data set, a base and the machines at hand → the plan of a run.

Brings together what only training code knows (``trainers.plan``) and what the machines have, and leaves the decision to
``cluster.resources``. The base's weights are not loaded: shapes come from its configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.capacity import Capacity
from cluster.errors import JobFileError
from cluster.resources import make_plan, trials_at_once
from cluster.session import job_capacity, ray_session, refuse_local_home
from cluster.store import Store
from trainers.batches import drawn
from trainers.metrics import METRICS
from trainers.plan import job_facts
from trainers.prepared import TRAIN, Prepared
from trainers.quantised import has_library
from trainers.rates import known_rate
from trainers.tokens import TokenSet

if TYPE_CHECKING:
    from cluster.records import Plan
    from cluster.session import Settings
    from cluster.spec import JobSpec


def plan_run(job: JobSpec, prepared: Prepared, settings: Settings) -> Plan:
    """Return the plan of a job; of one of its trials where it is a sweep.

    Raises CapacityError with numbers where it cannot fit, JobFileError for ``best_by``.
    """
    found = capacity(settings)
    store = Store(settings.home)
    if job.sweep is None:
        return plan_within(job, prepared, store, found)
    trials = job.of_trials()
    return plan_within(trials, prepared, store, found, trials_at_once(trials.cluster, job.sweep, found))


def plan_within(job: JobSpec, prepared: Prepared, store: Store, found: Capacity, at_once: int = 1) -> Plan:
    """Return the plan of one of ``at_once`` runs that share a known capacity; raises what ``plan_run`` raises."""
    path = prepared.tokens_path(TRAIN)
    assert path is not None, "a prepared data set without training tokens"
    tokens = drawn(TokenSet.load(path), job.train.subset, job.train.seed)
    facts = job_facts(job, tokens.lengths, tokens.target_counts, has_bitsandbytes=has_library())
    on_gpu = bool(found.gpus) and job.cluster.gpus_per_worker != 0
    rate = known_rate(job, store, "cuda" if on_gpu else "cpu")
    plan = make_plan(job.train, job.cluster, facts, found, rate, at_once)
    refuse_best_by(job, prepared, plan)
    return plan


def capacity(settings: Settings) -> Capacity:
    """Return what the cluster of RAY_ADDRESS has, or this machine where none is named.

    A driver's address is joined; the URL of a head, to which a job is submitted, is asked.
    """
    if settings.ray_address is not None and "://" in settings.ray_address:
        from cluster.jobs import head_capacity

        found = head_capacity(settings.ray_address)
        refuse_local_home(settings, found)
        return found
    if settings.ray_address is None:
        from trainers.machine import this_machine

        return this_machine()
    with ray_session(address=settings.ray_address):
        found = job_capacity()
        refuse_local_home(settings, found)
        return found


def refuse_best_by(job: JobSpec, prepared: Prepared, plan: Plan) -> None:
    """Raise JobFileError where the best checkpoint cannot be picked by the metric that was asked for."""
    name = job.train.best_by
    metric = METRICS.get(name)
    if metric is None:
        raise JobFileError(f"{name!r} is no known metric", f"known: loss, {', '.join(METRICS)}", "train.best_by")
    if metric.needs == "nll":
        return
    if metric.needs == "label_scores" or (metric.needs == "labels" and prepared.record.task != "classification"):
        raise JobFileError(f"{name!r} cannot be computed in training", "use loss or another metric", "train.best_by")
    if plan.zero_stage == 3 and not plan.scores_aside:
        raise JobFileError(
            f"best_by {name} generates during training, which needs whole weights; ZeRO-3 shards them",
            "use best_by: loss, train.zero_stage: 2, or a cluster with room for one more worker beside these",
            "train.best_by",
        )
