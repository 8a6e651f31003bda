"""Where the workers of an attempt run, rank by rank: for whoever looks for one, and for proof of what ran where.

Rank 0 gathers it when the group is up and keeps it in the run's directory, one entry an attempt, since a run that loses
a node goes on elsewhere.
"""

from __future__ import annotations

import os
import socket

from cluster.fitting import counted
from cluster.records import Record
from cluster.runs import RUNS
from cluster.store import Store
from trainers.ranks import Ranks

PLACEMENTS = "placements.json"


class Worker(Record):
    """One rank: its process, and the Ray node and address where it runs."""

    rank: int
    pid: int
    host: str
    node: str
    address: str


class Placement(Record):
    """The workers of one attempt, in order of rank, and the address where their process group meets."""

    group: str
    workers: list[Worker]

    def note(self) -> str:
        """Return in words where the workers are; empty where all are on one node."""
        addresses = {worker.node: worker.address for worker in self.workers}
        if len(addresses) < 2:
            return ""
        return f"{counted(len(self.workers), 'worker')} on {len(addresses)} nodes: {', '.join(addresses.values())}"


def placement(ranks: Ranks) -> Placement:
    """Return where the workers of this group are; every rank calls it, inside Ray Train."""
    import ray

    here = Worker(
        rank=ranks.rank,
        pid=os.getpid(),
        host=socket.gethostname(),
        node=ray.get_runtime_context().get_node_id(),
        address=ray.util.get_node_ip_address(),
    )
    group = f"{os.environ.get('MASTER_ADDR', '')}:{os.environ.get('MASTER_PORT', '')}"
    return Placement(group=group, workers=[Worker.model_validate(one) for one in ranks.from_all(here.model_dump())])


def keep_placement(store: Store, run: str, found: Placement) -> None:
    """Add an attempt's placement to what the run keeps; rank 0 alone calls it."""
    before = store.get_json(RUNS, run, PLACEMENTS) if store.exists(RUNS, run, PLACEMENTS) else []
    store.put_json([*before, found.model_dump(mode="json")], RUNS, run, PLACEMENTS)
