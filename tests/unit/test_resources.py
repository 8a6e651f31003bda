"""The plan of a run against what a cluster has: what is chosen, what is refused, and that numbers are given."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.capacity import Capacity, NodeCapacity
from cluster.errors import CapacityError
from cluster.fitting import FIT_FRAC, Footprint, JobFacts, Layout, format_bytes
from cluster.resources import Rate, format_plan, make_plan, trials_at_once
from cluster.spec import ClusterSpec, SweepSpec, TrainSpec
from tuning.tuner import resources_of

MB = 10**6
STATE_MB = {0: (400, 0), 1: (200, 200), 2: (100, 300), 3: (0, 400)}
"""A model of 400 MB of states: what of it every worker holds, and what is divided, by ZeRO stage."""


def memory(layout: Layout) -> Footprint:
    """Linear in tokens, divided by workers where the stage divides; LoRA leaves a tenth of the states."""
    whole, divided = STATE_MB[layout.zero_stage]
    states = int((whole + divided / layout.workers) * MB * (1.0 if layout.method == "full" else 0.1))
    return Footprint({"weights": states, "activations": layout.rows * layout.longest_tokens * 10_000})


def facts(rows: int = 1000, longest: int = 200, **changes: Any) -> JobFacts:
    row_tokens = np.full(rows, longest // 2, dtype=np.int32)
    row_tokens[0] = longest
    plain = JobFacts(
        row_tokens=row_tokens,
        row_targets=row_tokens // 2,
        parameters=1_000_000,
        trainable_parameters=1_000_000,
        memory=memory,
        formula="a paper",
    )
    return replace(plain, **changes)


def machine(memory_mb: int = 10_000, cpus: float = 8, gpus: float = 0, **more: Any) -> NodeCapacity:
    if gpus and "gpu_memory_bytes" not in more:
        more["gpu_memory_bytes"] = 10_000 * MB
    return NodeCapacity("a", cpus=cpus, gpus=gpus, memory_bytes=memory_mb * MB, **more)


def plan(
    *nodes: NodeCapacity,
    train: dict[str, Any] | None = None,
    cluster: dict[str, Any] | None = None,
    job: JobFacts | None = None,
    rate: Rate | None = None,
) -> Any:
    spec = TrainSpec.model_validate({"method": "full"} | (train or {}))
    capacity = Capacity(nodes or (machine(),))
    return make_plan(spec, ClusterSpec.model_validate(cluster or {}), job or facts(), capacity, rate)


def refusal(*nodes: NodeCapacity, **arguments: Any) -> CapacityError:
    with pytest.raises(CapacityError) as caught:
        plan(*nodes, **arguments)
    assert caught.value.exit_code == 4
    assert caught.value.remedy
    return caught.value


def test_steps_cover_every_example_once_an_epoch() -> None:
    made = plan(train={"batch_size": 32, "epochs": 2.5}, job=facts(rows=100))
    assert (made.steps_per_epoch, made.steps) == (4, 10)


def test_the_lowest_stage_that_fits_is_taken_and_workers_make_room() -> None:
    """400 MB of states and 2 MB for one longest row; two workers need 300, 250 and 200 MB in stages 1, 2 and 3."""
    stages = [
        plan(machine(memory_mb=round(2 * need / FIT_FRAC) + 2), cluster={"workers": 2}).zero_stage
        for need in (402, 302, 252, 202)
    ]
    assert stages == [0, 1, 2, 3]


@settings(max_examples=200, deadline=None)
@given(
    memory_mb=st.integers(100, 3000),
    workers=st.integers(1, 8),
    longest=st.integers(8, 4000),
    method=st.sampled_from(["full", "lora"]),
    batch_size=st.integers(8, 64),
)
def test_auto_never_takes_a_stage_that_does_not_fit_while_a_lower_does(
    memory_mb: int, workers: int, longest: int, method: str, batch_size: int
) -> None:
    node = machine(memory_mb=memory_mb)
    train = {"method": method, "batch_size": batch_size}

    def fits(stage: int) -> bool:
        layout = Layout(method, "cpu", "fp32", stage, workers, batch_size, longest, longest)  # pyright: ignore[reportArgumentType]
        return memory(layout).peak_bytes <= FIT_FRAC * (node.memory_bytes // workers)

    fitting = [stage for stage in range(4) if fits(stage)]
    arguments: dict[str, Any] = {"train": train, "cluster": {"workers": workers}, "job": facts(longest=longest)}
    if not fitting:
        assert re.search(r"\d+ (MB|GB)", refusal(node, **arguments).what)
        return
    made = plan(node, **arguments)
    assert made.zero_stage == fitting[0]
    assert sum(made.memory_bytes.values()) <= FIT_FRAC * made.available_bytes
    assert made.micro_batch_tokens >= longest
    rows = max(1, made.micro_batch_tokens // longest)
    assert made.micro_batches * rows * workers >= batch_size


def test_less_memory_makes_micro_batches_smaller_before_it_raises_the_stage() -> None:
    roomy = plan(machine(memory_mb=10_000), cluster={"workers": 2})
    tight = plan(machine(memory_mb=900), cluster={"workers": 2})
    assert roomy.zero_stage == tight.zero_stage == 0
    assert roomy.micro_batch_tokens > tight.micro_batch_tokens >= 200
    assert roomy.micro_batches < tight.micro_batches


def test_a_stage_asked_for_is_kept_or_refused_never_changed() -> None:
    assert plan(train={"zero_stage": 3}, cluster={"workers": 2}).zero_stage == 3
    assert "402 MB" in refusal(machine(memory_mb=600), train={"zero_stage": 0}, cluster={"workers": 2}).what


def test_what_fits_at_no_stage_is_refused_with_need_room_and_parts() -> None:
    error = refusal(machine(memory_mb=200), cluster={"workers": 2})
    assert "202 MB" in error.what
    assert "100 MB" in error.what
    assert "weights 200 MB" in error.what
    assert "train.method to lora (22 MB a worker)" in error.remedy


def test_a_refusal_names_the_number_of_workers_that_would_fit() -> None:
    error = refusal(*(machine(memory_mb=120, cpus=1) for _ in range(2)), cluster={"workers": 2})
    assert "use 4 workers (102 MB each with ZeRO-3)" in error.remedy


def test_more_workers_than_there_is_room_for_are_refused_with_both_numbers() -> None:
    error = refusal(machine(cpus=1), cluster={"workers": 2})
    assert "2 workers asked, the cluster has room for 1" in error.what
    assert "1 machine, 1 CPU, 0 GPUs" in error.what
    assert "cluster.workers to 1" in error.remedy
    gpus = refusal(machine(cpus=64, gpus=1), cluster={"workers": 2})
    assert "2 workers asked, the cluster has room for 1" in gpus.what


def test_room_is_counted_machine_by_machine() -> None:
    """Two machines of three GPUs have six, and still hold only two workers of two GPUs."""
    nodes = [machine(gpus=3), machine(gpus=3)]
    assert plan(*nodes, cluster={"workers": 2, "gpus_per_worker": 2}).workers == 2
    assert "room for 2" in refusal(*nodes, cluster={"workers": 3, "gpus_per_worker": 2}).what


def test_a_range_of_workers_takes_what_is_there() -> None:
    assert plan(machine(cpus=3), cluster={"workers": {"min": 2, "max": 8}}).workers == 3
    assert plan(machine(cpus=30), cluster={"workers": {"min": 2, "max": 8}}).workers == 8
    assert "4 workers asked" in refusal(machine(cpus=3), cluster={"workers": {"min": 4, "max": 8}}).what


def test_a_range_of_workers_fits_also_with_the_fewest() -> None:
    fixed = plan(machine(memory_mb=2600, cpus=4), cluster={"workers": 4})
    ranged = plan(machine(memory_mb=2600, cpus=4), cluster={"workers": {"min": 1, "max": 4}})
    assert (ranged.min_workers, ranged.workers, fixed.min_workers) == (1, 4, None)
    assert sum(ranged.memory_bytes.values()) > sum(fixed.memory_bytes.values()), "one worker holds all states"
    assert "1 to 4, each with" in "\n".join(format_plan(ranged))


def test_the_cpus_asked_for_are_given_or_refused() -> None:
    assert plan(cluster={"cpus_per_worker": 3}).cpus_per_worker == 3
    error = refusal(machine(cpus=4), cluster={"cpus_per_worker": 3, "workers": 2})
    assert "2 workers asked, the cluster has room for 1 (3 CPUs each" in error.what


def test_a_batch_smaller_than_the_workers_is_refused() -> None:
    error = refusal(train={"batch_size": 2}, cluster={"workers": 4})
    assert "2 examples" in error.what
    assert "4 workers" in error.what


@pytest.mark.parametrize(("cpus", "workers", "each"), [(8, 1, 8), (8, 3, 2), (2, 2, 1)])
def test_workers_share_the_cpus_in_whole_numbers(cpus: int, workers: int, each: int) -> None:
    assert plan(machine(cpus=cpus), cluster={"workers": workers}).cpus_per_worker == each


def test_gpus_and_bf16_are_used_where_there_are_any() -> None:
    on_gpu, on_cpu = plan(machine(gpus=1)), plan()
    assert (on_gpu.device, on_gpu.gpus_per_worker, on_gpu.precision) == ("cuda", 1, "bf16")
    assert (on_cpu.device, on_cpu.gpus_per_worker, on_cpu.precision) == ("cpu", 0, "fp32")
    assert plan(machine(gpus=1, has_bf16=False)).precision == "fp32"
    assert plan(machine(gpus=1), cluster={"gpus_per_worker": 0}).device == "cpu"


def test_half_a_gpu_has_half_its_memory() -> None:
    assert plan(machine(gpus=1), cluster={"workers": 2, "gpus_per_worker": 0.5}).available_bytes == 5_000 * MB


def test_what_the_hardware_lacks_is_refused_and_not_replaced() -> None:
    assert "1 GPUs a worker asked, the cluster has none" in refusal(cluster={"gpus_per_worker": 1}).what
    assert "bf16" in refusal(machine(gpus=1, has_bf16=False), train={"precision": "bf16"}).what
    assert plan(train={"precision": "bf16"}).precision == "bf16"
    assert "GPU" in refusal(train={"method": "qlora"}).what
    assert "bitsandbytes" in refusal(machine(gpus=1), train={"method": "qlora"}).what
    assert plan(machine(gpus=1), train={"method": "qlora"}, job=facts(has_bitsandbytes=True)).device == "cuda"
    assert "offload optimizer" in refusal(train={"offload": "optimizer"}).what


def test_unknown_gpu_memory_is_undecided_unless_the_stage_is_given() -> None:
    node = machine(gpus=1, gpu_memory_bytes=None)
    assert "unknown" in refusal(node).what
    made = plan(node, train={"zero_stage": 1})
    assert (made.zero_stage, made.available_bytes) == (1, 0)


def test_offloaded_states_must_fit_into_main_memory() -> None:
    def offloading(layout: Layout) -> Footprint:
        return replace(memory(layout), host_bytes=5_000 * MB)

    train = {"offload": "optimizer"}
    assert plan(machine(gpus=1), train=train, job=facts(memory=offloading)).zero_stage == 1
    error = refusal(machine(gpus=1, memory_mb=5_000), train=train, job=facts(memory=offloading))
    assert "5 GB of main memory" in error.what


def test_hours_and_cost_follow_from_rate_workers_and_price() -> None:
    """1,000 rows of about 100 tokens, twice, at 10 tokens a second and worker, two workers: 10,010 s."""
    rate = Rate(10.0, "measured by a test")
    cluster = {"workers": 2, "price_per_gpu_hour": 3.0}
    made = plan(machine(gpus=2), train={"epochs": 2}, cluster=cluster, rate=rate)
    assert made.hours == pytest.approx(2 * (999 * 100 + 200) / 20 / 3600)
    assert made.cost_usd == pytest.approx(made.hours * 2 * 3.0)
    assert made.hours_source == "measured by a test"
    unknown = plan(machine(gpus=2), cluster=cluster)
    assert (unknown.hours, unknown.cost_usd) == (None, None)
    assert plan(cluster={"price_per_gpu_hour": 3.0}, rate=rate).cost_usd is None


def test_a_run_that_its_bounds_would_stop_is_refused_with_the_epochs_that_fit() -> None:
    rate = Rate(10.0, "stated")
    hours = refusal(train={"epochs": 2}, cluster={"max_hours": 1}, rate=rate)
    assert "5.56 hours, and cluster.max_hours is 1" in hours.what
    assert "from 2 to 0.36" in hours.remedy
    cost = {"price_per_gpu_hour": 2.0, "max_cost": 5.0}
    assert "11.1 US dollars" in refusal(machine(gpus=1), train={"epochs": 2}, cluster=cost, rate=rate).what
    assert plan(train={"epochs": 2}, cluster={"max_hours": 1}).hours is None


def test_advice_comes_with_its_price_in_numbers() -> None:
    advice = "\n".join(plan(train={"zero_stage": 3}, cluster={"workers": 2}).advice)
    assert re.search(r"train\.method lora: a peak of \d+ MB a worker instead of \d+ MB", advice)
    assert "train.zero_stage 0: it fits" in advice
    assert "train.max_length 100: cuts 1 of 1,000 rows, saves 0.1% of the tokens" in advice
    few = "\n".join(plan(train={"batch_size": 8, "method": "lora"}, cluster={"workers": 8}).advice)
    assert "cluster.workers 1: a step has about 801 tokens, 100 for each of 8 workers" in few
    busy = plan(machine(free_cpus=1), cluster={"workers": 2})
    assert any("room for 0 now" in line for line in busy.advice)


def test_a_plan_without_waste_gets_no_advice() -> None:
    even = np.full(1000, 100, dtype=np.int32)
    made = plan(train={"method": "lora"}, job=facts(row_tokens=even, row_targets=even // 2))
    assert made.advice == []


def test_the_printed_plan_says_everything_that_was_decided() -> None:
    rate = Rate(10.0, "measured by run-1")
    made = plan(machine(gpus=1), cluster={"price_per_gpu_hour": 3.0}, rate=rate)
    text = "\n".join(format_plan(made))
    for needle in (
        "ZeRO-0",
        "bf16",
        "cuda",
        "1,000,000 of 1,000,000",
        "weights 400 MB",
        "of 10 GB",
        "measured by run-1",
    ):
        assert needle in text
    assert f"{made.steps:,}" in text


def test_three_digits_name_a_size() -> None:
    assert [format_bytes(n) for n in (0, 1_234_567, 999_600_000, 12_345_000_000)] == [
        "0 MB",
        "1.23 MB",
        "1 GB",
        "12.3 GB",
    ]


def node(cpus: float, gpus: float = 0, memory_bytes: int = 2**34) -> NodeCapacity:
    return NodeCapacity("here", cpus, gpus, memory_bytes, gpu_memory_bytes=2**34)


def test_as_many_trials_run_at_once_as_there_is_room_for() -> None:
    def at_once(capacity: Capacity, cluster: dict[str, Any] | None = None, **sweep: Any) -> int:
        block = SweepSpec.model_validate({"space": {"train.dropout": "uniform(0, 0.1)"}, **sweep})
        return trials_at_once(ClusterSpec.model_validate(cluster or {}), block, capacity)

    one, two = node(cpus=5), node(cpus=8, gpus=2)
    assert at_once(Capacity((one,))) == 5
    assert at_once(Capacity((one, one)), {"workers": 2}) == 5
    assert at_once(Capacity((one,)), trials=3) == 3
    assert at_once(Capacity((one,)), at_once=2) == 2
    assert at_once(Capacity((two,))) == 2, "one GPU each"
    assert at_once(Capacity((two,)), {"gpus_per_worker": 0.5}) == 4
    assert at_once(Capacity((two,)), {"gpus_per_worker": 0.0}) == 8
    assert at_once(Capacity((one,)), {"cpus_per_worker": 2}) == 2, "what was asked for each"
    with pytest.raises(CapacityError, match="room for 2"):
        at_once(Capacity((one,)), {"workers": 2}, at_once=3)


@pytest.mark.parametrize(
    ("gpus", "asked", "workers", "fit", "each"),
    [
        (1, 0.5, 1, 2, 8),
        (2, 0.5, 1, 4, 4),
        (2, 0.25, 1, 8, 2),
        (2, 0.5, 2, 2, 4),
        (2, 0.4, 1, 4, 4),
        (2, 0.6, 1, 2, 8),
        (4, 2.0, 1, 2, 8),
    ],
)
def test_trials_with_a_share_of_a_gpu_fill_every_gpu_and_reserve_their_share(
    gpus: int, asked: float, workers: int, fit: int, each: int
) -> None:
    """A share lies on one GPU, so that of 0.4 and 0.6 the rest stays empty; processors and memory go with it."""
    capacity = Capacity((node(cpus=16, gpus=gpus),))
    cluster = ClusterSpec.model_validate({"gpus_per_worker": asked, "workers": workers})
    sweep = SweepSpec.model_validate({"space": {"train.dropout": "uniform(0, 0.1)"}})
    at_once = trials_at_once(cluster, sweep, capacity)
    assert at_once == fit
    made = make_plan(TrainSpec(method="full"), cluster, facts(), capacity, at_once=at_once)
    assert (made.device, made.gpus_per_worker, made.cpus_per_worker) == ("cuda", asked, each)
    assert made.available_bytes == int(2**34 * min(1.0, asked))
    reserved = {"CPU": each, "GPU": asked} if workers == 1 else {"CPU": 0, "memory": 1.0}
    assert resources_of(made) == reserved
    more = sweep.model_copy(update={"at_once": fit + 1})
    with pytest.raises(CapacityError, match=f"room for {fit}"):
        trials_at_once(cluster, more, capacity)


def test_trials_side_by_side_share_processors_and_memory() -> None:
    capacity = Capacity((node(cpus=8, memory_bytes=64 * 2**30),))
    alone, beside = (
        make_plan(TrainSpec(method="full"), ClusterSpec(), facts(), capacity, at_once=at_once) for at_once in (1, 4)
    )
    assert (alone.cpus_per_worker, beside.cpus_per_worker) == (8, 2)
    assert beside.available_bytes == alone.available_bytes // 4
