"""How large an arm's replicas are and how many there may be, on small and large clusters."""

from __future__ import annotations

import pytest

from cluster.capacity import Capacity, NodeCapacity
from serving.arm import FEW_CPUS_SHARE, actor_options, most_replicas


def cluster(cpus: float, gpus: float = 0.0) -> Capacity:
    return Capacity((NodeCapacity("n", cpus, gpus, 2**34),))


@pytest.mark.parametrize(
    ("cpus", "gpus", "arms", "options", "most"),
    [
        (2, 0, 2, {"num_cpus": FEW_CPUS_SHARE}, 1),
        (7, 0, 1, {"num_cpus": FEW_CPUS_SHARE}, 1),
        (16, 0, 2, {"num_cpus": 1.0}, 4),
        (16, 1, 1, {"num_cpus": 1.0, "num_gpus": 0.5}, 1),
        (16, 1, 2, {"num_cpus": 1.0, "num_gpus": 0.33}, 1),
        (64, 8, 2, {"num_cpus": 1.0, "num_gpus": 1.0}, 4),
    ],
)
def test_replicas_leave_room_for_others(cpus: float, gpus: float, arms: int, options: dict[str, float], most: int):
    assert actor_options(cluster(cpus, gpus), arms) == options
    assert most_replicas(cluster(cpus, gpus), arms) == most
    assert arms * options.get("num_gpus", 0.0) <= gpus
