"""What Tune reserves for a trial is what the trial's own plan takes, whatever workers the job asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.capacity import Capacity, NodeCapacity
from cluster.fitting import Footprint, JobFacts, Layout
from cluster.records import Plan
from cluster.resources import make_plan, trials_at_once, workers_together
from cluster.spec import ClusterSpec, JobSpec
from tuning import objective
from tuning.finals import job_of_finals
from tuning.objective import Arena
from tuning.space import trial_job
from tuning.tuner import resources_of

GIB = 2**30


def job(asked: object, **sweep: Any) -> JobSpec:
    block = {"space": {"train.batch_size": "choice(2, 8)"}, "trials": 6, **sweep}
    cluster = {"workers": asked}
    return JobSpec.model_validate({"name": "a", "base": "b", "data": "c", "cluster": cluster, "sweep": block})


def machine(cpus: int, gpus: int = 0) -> Capacity:
    return Capacity((NodeCapacity("n", cpus, gpus, 64 * GIB, gpu_memory_bytes=80 * GIB if gpus else None),))


def planned(of: JobSpec, found: Capacity, at_once: int) -> Plan:
    """A plan of 64 short rows of a model that fits everywhere."""

    def memory(layout: Layout) -> Footprint:
        return Footprint({"weights": 10**6})

    facts = JobFacts(np.full(64, 10, np.int32), np.full(64, 2, np.int32), 10**6, 10**6, memory, "")
    return make_plan(of.train, of.cluster, facts, found, at_once=at_once)


def arena(of: JobSpec, found: Capacity, monkeypatch: pytest.MonkeyPatch, home: Path) -> Arena:
    """What the trials of a job share, whose plans are made without a data set."""
    assert of.sweep is not None
    monkeypatch.setattr(objective.Arena, "plan", lambda self, job: planned(job, self.capacity, self.at_once))
    return Arena("r", str(home), of, {}, found, trials_at_once(of.cluster, of.sweep, found), 12.0)


@pytest.mark.parametrize("workers", [1, 2, {"min": 1, "max": 4}, {"min": 2, "max": 4}, {"min": 1, "max": 16}])
@pytest.mark.parametrize("found", [machine(8), machine(16), machine(16, gpus=4)])
def test_what_is_reserved_for_a_trial_is_what_its_plan_takes(
    workers: object, found: Capacity, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = arena(job(workers).of_trials(), found, monkeypatch, tmp_path)
    for batch_size in (2, 8):
        trial = shared.plan(trial_job(shared.job, {"train.batch_size": batch_size}))
        assert resources_of(shared.plan(shared.job)) == resources_of(trial)
        assert shared.at_once * trial.workers * trial.cpus_per_worker <= found.cpus
        assert shared.at_once * trial.workers * trial.gpus_per_worker <= found.gpus


def test_trials_of_a_range_fill_the_machine_with_the_fewest_workers_each(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    on_gpus = arena(job({"min": 1, "max": 4}).of_trials(), machine(16, gpus=4), monkeypatch, tmp_path)
    assert on_gpus.at_once == 4
    assert resources_of(on_gpus.plan(on_gpus.job)) == {"CPU": 4, "GPU": 1.0}
    on_cpus = arena(job({"min": 1, "max": 4}).of_trials(), machine(8), monkeypatch, tmp_path)
    assert on_cpus.at_once == 6, "as many as there are trials"
    assert resources_of(on_cpus.plan(on_cpus.job)) == {"CPU": 1}


@pytest.mark.parametrize(
    ("num", "smallest_batch", "workers"),
    [(1, 32, 4), (2, 32, 4), (3, 32, 2), (8, 32, 1), (20, 32, 1), (1, 3, 3)],
)
def test_finals_of_a_range_share_the_room_that_there_is(num: int, smallest_batch: int, workers: int) -> None:
    cluster = ClusterSpec.model_validate({"workers": {"min": 1, "max": 4}, "cpus_per_worker": 1})
    assert workers_together(cluster, machine(8), num, smallest_batch) == workers
    fixed = cluster.model_copy(update={"workers": 2})
    assert workers_together(fixed, machine(8), num, smallest_batch) == 2, "asked, and so given"


def test_a_range_has_its_fewest_workers_where_there_is_no_room_for_all_at_once() -> None:
    cluster = ClusterSpec.model_validate({"workers": {"min": 3, "max": 4}})
    assert workers_together(cluster, machine(8), 20, 32) == 3


def test_what_is_reserved_for_a_final_is_what_its_plan_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = machine(16, gpus=4)
    for batches, workers, at_once in (([8], 4, 1), ([2], 2, 2), ([2, 8], 2, 2), ([2, 8] * 3, 1, 3)):
        of = job_of_finals(job({"min": 1, "max": 4}, at_once=3), found, batches)
        shared = arena(of, found, monkeypatch, tmp_path)
        assert (of.cluster.workers, shared.at_once) == (workers, at_once)
        for batch_size in batches:
            trial = shared.plan(trial_job(of, {"train.batch_size": batch_size}))
            assert trial.workers == workers
            assert resources_of(shared.plan(shared.job)) == resources_of(trial)


def test_finals_keep_what_was_asked_where_they_run_on_what_the_trials_had() -> None:
    of = job(2, at_once=3)
    assert job_of_finals(of, machine(16), [8] * 6) == of
    ranged = job_of_finals(job({"min": 1, "max": 4}, workers=1, at_once=3), machine(4), [8] * 6)
    assert (ranged.cluster.workers, ranged.sweep and ranged.sweep.at_once) == (1, 3)
