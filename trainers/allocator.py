"""Memory that a step frees is kept for the next one, where it is the C library that gives it back.

glibc maps every block above 32 MB on its own and unmaps it when it is freed, so each step's gradients and buffers are
paid for again, page by page: on 2 cores that took 8 to 20 % of a full-tuning step of 6 layers × 256 with GPT-2's
vocabulary (benchmarks/results/ray_overhead.md). Peak memory is the same; it is not given back between steps. This is
for processes that Ray did not start: in Ray's workers the loop runs in a thread with an arena of its own, which only
the environment they start with can prevent (``cluster.session.KEPT_MEMORY``).
"""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let malloc neither map big blocks on their own nor return freed ones; return whether this malloc can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, NEVER))
