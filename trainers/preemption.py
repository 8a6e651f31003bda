"""Ray's notice that a machine of this run will be taken away → the wish for a checkpoint, before it is gone.

Ray Train tells every worker of a group when a node under one of them begins to drain (a spot machine that is
reclaimed), and starts the group again when the node is gone; the run then goes on after the checkpoint that was written
on notice. ``ray.train.get_preemption_info`` would wait for all workers at every call; this reads what it reads, and the
wish travels to the other ranks beside the loss. It can go when Ray offers that without waiting (Ray 2.60 does not).
"""

from __future__ import annotations


class PreemptionNotice:
    """What this worker was told, once: each notice that is news is true the first time it is asked for."""

    def __init__(self) -> None:
        self._known: object = None

    def is_news(self) -> bool:
        """Whether a notice has come since the last call."""
        from ray.train.v2._internal.execution.context import get_train_context

        info: object = get_train_context().preemption_context.preemption_info
        if info is None or info == self._known:
            return False
        self._known = info
        return True
