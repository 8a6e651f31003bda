"""Run a function on several gloo ranks, one process each, and collect what rank 0 returns."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

from cluster.ports import free_port

TIMEOUT_S = 180


def on_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> Any:
    """Call ``function(Ranks, *args)`` on every rank of a fresh gloo world and return rank 0's result."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    port = free_port()
    processes = [
        context.Process(target=_rank, args=(function, rank, world_size, port, queue, args))
        for rank in range(world_size)
    ]
    for process in processes:
        process.start()
    try:
        outcome = queue.get(timeout=TIMEOUT_S)
    finally:
        for process in processes:
            process.join(20)
            if process.is_alive():
                process.kill()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _rank(
    function: Callable[..., Any], rank: int, world_size: int, port: int, queue: Any, args: tuple[Any, ...]
) -> None:
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": str(rank),
    }
    import torch
    import torch.distributed as dist

    from trainers.ranks import Ranks

    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        result = function(Ranks(rank, world_size, torch.device("cpu")), *args)
    except BaseException as error:  # noqa: BLE001 (handed to the test)
        result = error
    if rank == 0:
        queue.put(result)
    if not isinstance(result, BaseException):
        dist.barrier()
    dist.destroy_process_group()
