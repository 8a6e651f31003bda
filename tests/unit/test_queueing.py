"""Workers without room: what they wait for, said once, and how the waiting ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cluster.errors import CapacityError, RunStopped
from cluster.queueing import GRACE_S, LOOK_EVERY_S, Queue, is_queued, waiting_for
from cluster.records import RunStatus
from cluster.runs import read_status, request_stop, write_status
from cluster.store import Store
from tests.plans import a_plan

RUN = "router-20260301-120000-abcd"
GPUS = a_plan(workers=4, cpus_per_worker=2, gpus_per_worker=1)
CPUS = a_plan(workers=2, cpus_per_worker=2)


def groups(state: str, *bundles: dict[str, float]) -> dict[str, Any]:
    return {"group": {"state": state, "bundles": dict(enumerate(bundles))}}


class Setting:
    """A run whose workers are queued for as long as ``pending`` is set; every look is a step of the clock."""

    def __init__(self, store: Store, max_wait_hours: float | None = None) -> None:
        write_status(store, RunStatus(run=RUN, stage="train", state="running", metrics={"loss": 1.0}))
        cluster = SimpleNamespace(max_wait_hours=max_wait_hours)
        ctx: Any = SimpleNamespace(store=store, run=RUN, job=SimpleNamespace(cluster=cluster))
        self.store, self.now_s, self.pending, self.free = store, 0.0, True, {"CPU": 1.0}
        self.queue = Queue(ctx, CPUS, self.ask, lambda: self.now_s)

    def ask(self) -> tuple[dict[str, Any], dict[str, float]]:
        return groups("PENDING" if self.pending else "CREATED", {"CPU": 2.0}, {"CPU": 2.0}), self.free

    def look_for(self, seconds: float) -> None:
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += LOOK_EVERY_S
            self.queue.look()

    def status(self) -> RunStatus:
        status = read_status(self.store, RUN)
        assert status is not None
        return status


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path))


def test_the_reason_names_what_is_needed_and_what_is_free() -> None:
    assert waiting_for(GPUS, {"GPU": 2.0, "CPU": 64.0}) == "waiting for 4 GPUs, 2 free"
    assert waiting_for(CPUS, {}) == "waiting for 4 CPUs, 0 free"
    assert waiting_for(CPUS, {"CPU": 6.0}) == "waiting for 4 CPUs, 6 free, but not so that 2 workers could start"
    assert waiting_for(GPUS.model_copy(update={"min_workers": 1}), {}) == "waiting for 1 GPU, 0 free"


def test_only_groups_of_the_plans_shape_count() -> None:
    own = {"CPU": 2.0, "GPU": 1.0}
    assert is_queued(groups("PENDING", own, own), GPUS)
    assert not is_queued(groups("CREATED", own, own), GPUS)
    assert not is_queued(groups("PENDING", {"CPU": 2.0}), GPUS)
    assert not is_queued({}, GPUS)


def test_a_moment_of_placing_is_no_waiting(store: Store) -> None:
    setting = Setting(store)
    setting.look_for(GRACE_S)
    setting.pending = False
    setting.look_for(60)
    assert setting.status().state == "running"


def test_a_status_waits_while_its_workers_do_and_keeps_the_rest(store: Store) -> None:
    setting = Setting(store)
    setting.look_for(30)
    assert (setting.status().state, setting.status().why) == ("waiting", "waiting for 4 CPUs, 1 free")
    assert setting.status().metrics == {"loss": 1.0}
    setting.pending = False
    setting.look_for(5)
    assert (setting.status().state, setting.status().why) == ("running", "")


def test_a_run_that_waits_can_be_stopped(store: Store) -> None:
    setting = Setting(store)
    setting.look_for(30)
    request_stop(store, RUN)
    with pytest.raises(RunStopped, match="before it had its workers"):
        setting.look_for(30)


def test_a_run_waits_as_long_as_its_job_says(store: Store) -> None:
    setting = Setting(store, max_wait_hours=0.1)
    setting.look_for(350)
    with pytest.raises(CapacityError, match=r"waiting for 4 CPUs, 1 free, for 0\.1 hours"):
        setting.look_for(30)
