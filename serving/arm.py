"""One release behind one Ray Serve deployment: requests in, pieces of answers out.

Every arm is an application of its own, without a route, so that adding, replacing or removing one touches no other. A
replica counts as ready only when its release is loaded and has written a token. What goes wrong with a request is
answered as a last item instead of being raised: it arrives as it is, and the replica's log stays free of tracebacks.

Left out: who is answered by which arm, which is the ingress's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from cluster.errors import GenerationFailed, HoneError, NotServing
from serving.engine import EngineKind, Limits, open_engine
from serving.generation import GenerationRequest, Piece
from serving.releases import Served

if TYPE_CHECKING:
    from cluster.capacity import Capacity

log = logging.getLogger("hone.serving")
LONGEST_S = 300.0
"""No request takes longer; what is under way when a replica is taken down has this time to end."""
GRACE_S = LONGEST_S + 10.0
FEW_CPUS = 8
FEW_CPUS_SHARE = 0.05
STARTS = 2
"""How often a replica is tried before its release is called broken."""
HEALTH_EVERY_S = 2.0


class ArmReplica:
    """Loads a release, proves that it writes, then answers until it is taken down."""

    async def __init__(self, release: Served, kind: EngineKind, limits: Limits) -> None:
        self._engine = await asyncio.to_thread(open_engine, release.directory, kind, limits, release.base)
        probe = GenerationRequest(prompt="a", max_tokens=1)
        async with aclosing(self.answer(probe)) as items:
            async for item in items:
                if isinstance(item, HoneError):
                    raise item

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Piece | HoneError]:
        """Yield the pieces of the answers; an error is the last item. A caller that goes away frees its place."""
        try:
            async with self._engine.submit(request) as stream:
                async for piece in stream:
                    yield piece
        except HoneError as error:
            yield error
        except Exception as error:
            log.exception("an answer failed")
            yield GenerationFailed(f"the arm failed: {type(error).__name__}: {error}", "Send the request again.")

    def check_health(self) -> None:
        """Raise where the engine is broken, which makes Serve start another replica."""
        self._engine.check_health()


def arm_application(release: Served, capacity: Capacity, num_arms: int, kind: EngineKind, limits: Limits) -> Any:
    """Return the Serve application of one release, sized for a cluster that ``num_arms`` share."""
    from ray import serve

    deployment = serve.deployment(
        name="arm",
        max_ongoing_requests=limits.max_running + limits.max_waiting,
        max_queued_requests=limits.max_running + limits.max_waiting,
        graceful_shutdown_timeout_s=GRACE_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=HEALTH_EVERY_S,
        max_constructor_retry_count=STARTS,
        ray_actor_options=actor_options(capacity, num_arms),
        autoscaling_config={
            "min_replicas": 1,
            "max_replicas": most_replicas(capacity, num_arms),
            "target_ongoing_requests": limits.max_running,
        },
    )
    return deployment(ArmReplica).bind(release, kind, limits)


def actor_options(capacity: Capacity, num_arms: int) -> dict[str, float]:
    """Return what a replica asks for: its share of a GPU where there are any, else little of few CPUs or one of many.

    A replica that asks for a twentieth of a CPU leaves room for a training beside it; it uses what is idle. GPUs leave
    room for one more arm, so that one can be replaced by another that is brought up beside it.
    """
    num_cpus = FEW_CPUS_SHARE if capacity.cpus < FEW_CPUS else 1.0
    num_gpus = min(1.0, int(100 * capacity.gpus / (num_arms + 1)) / 100) if capacity.gpus else 0.0
    return {"num_cpus": num_cpus} | ({"num_gpus": num_gpus} if num_gpus else {})


def most_replicas(capacity: Capacity, num_arms: int) -> int:
    """Return how far one arm may grow: its share of the GPUs, or of half the CPUs."""
    if capacity.gpus:
        return max(1, int(capacity.gpus // num_arms))
    return max(1, int(capacity.cpus // 2 // num_arms)) if capacity.cpus >= FEW_CPUS else 1


class RemoteArm:
    """An arm as the ingress sees it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle.options(method_name="answer", stream=True)

    async def answer(self, request: GenerationRequest) -> AsyncGenerator[Piece]:
        """Yield the pieces of the answers. Raises the arm's own HoneError, Overloaded or NotServing."""
        from ray.exceptions import RayError
        from ray.serve.exceptions import BackPressureError, RayServeException

        from cluster.errors import Overloaded

        response = self._handle.remote(request)
        is_over = False
        try:
            async for item in response:
                if isinstance(item, HoneError):
                    is_over = True
                    raise item
                yield item
            is_over = True
        except BackPressureError as error:
            is_over = True
            raise Overloaded("more requests wait than may", "Send the request again a little later.") from error
        except (RayError, RayServeException) as error:
            is_over = True
            reason = type(error).__name__
            raise NotServing(f"the arm went away ({reason})", "Send the request again.") from error
        finally:
            if not is_over:
                response.cancel()
