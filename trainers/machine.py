"""What a plan may use of the machine that it is made on."""

from __future__ import annotations

import os

import psutil
import torch

from cluster.capacity import Capacity, NodeCapacity


def this_machine() -> Capacity:
    """Return this machine's processors, GPUs and memory as one node."""
    gpus = torch.cuda.device_count()
    return Capacity(
        (
            NodeCapacity(
                node_id="this machine",
                cpus=float(os.cpu_count() or 1),
                gpus=float(gpus),
                memory_bytes=psutil.virtual_memory().available,
                gpu_memory_bytes=torch.cuda.get_device_properties(0).total_memory if gpus else None,
                has_bf16=bool(gpus) and torch.cuda.is_bf16_supported(),
            ),
        )
    )
