"""Every node of a Ray cluster → what is installed there and what its clock says, asked by a task pinned to it.

The question travels by value and imports nothing of ours, so a node without hone can answer that it has none.
``python -m cluster.node_facts`` inside a cluster prints all answers as one JSON line, for whoever can only submit jobs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from cluster.records import Record

ANSWERS_WITHIN_S = 60.0
PACKAGES = ("hone", "ray", "torch", "deepspeed", "transformers")
OPEN = "disabled"


class NodeFacts(Record):
    """One node's answer; ``problem`` says why there is none."""

    node: str = Field(description="the host's name, and the node's address")
    python: str = ""
    packages: dict[str, str] = Field(default_factory=dict, description="package → version; without what is missing")
    clock_s: float = Field(default=0.0, description="how far the clock is ahead of the asker's, seconds")
    clock_within_s: float = Field(default=0.0, description="how uncertain that is, seconds")
    auth_mode: str = Field(default="", description="how this node's Ray asks who is there: token or disabled")
    free_bytes: int | None = Field(default=None, description="room for Ray's files")
    problem: str = ""


def ask_nodes() -> list[NodeFacts]:
    """Return what every living node of this session's Ray answers, all asked at once."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    question: Any = ray.remote(num_cpus=0, max_retries=0)(_question())
    nodes = [node for node in ray.nodes() if node["Alive"]]
    asked = [
        (
            node,
            question.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(()),
        )
        for node in nodes
    ]
    deadline_s = time.monotonic() + ANSWERS_WITHIN_S
    found = [_answer(ray, node, answer, deadline_s) for node, answer in asked]
    return [_with_clock(ray, question, node, facts) for node, facts in zip(nodes, found, strict=True)]


def _question() -> Callable[[Any], dict[str, Any]]:
    """Return the task; defined here so that it travels as code and not as the name of a module of ours."""
    packages = PACKAGES

    def facts(_: Any) -> dict[str, Any]:
        import os
        import shutil
        import sys
        import time
        from importlib import metadata

        versions = {}
        for name in packages:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        try:
            from ray._private.authentication.authentication_utils import is_token_auth_enabled

            mode = "token" if is_token_auth_enabled() else "disabled"
        except ImportError:
            mode = os.environ.get("RAY_AUTH_MODE", "")
        python = ".".join(str(part) for part in sys.version_info[:3])
        free = shutil.disk_usage("/tmp").free
        return {"python": python, "packages": versions, "auth_mode": mode, "free_bytes": free, "time_s": time.time()}

    return facts


def _answer(ray: Any, node: Mapping[str, Any], answer: Any, deadline_s: float) -> NodeFacts:
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    try:
        found = ray.get(answer, timeout=max(0.1, deadline_s - time.monotonic()))
    except ray.exceptions.GetTimeoutError:
        return NodeFacts(node=name, problem=f"it does not answer within {ANSWERS_WITHIN_S:.0f} s")
    except Exception as error:  # noqa: BLE001 (whatever a node fails with is what there is to say of it)
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return NodeFacts(node=name, problem=(lines or [type(error).__name__])[-1][:300])
    found.pop("time_s")
    return NodeFacts(node=name, **found)


def _with_clock(ray: Any, question: Any, node: Mapping[str, Any], facts: NodeFacts) -> NodeFacts:
    """Ask a node that answered once more, now that its worker is up, and compare clocks (Cristian 1989)."""
    if facts.problem:
        return facts
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    pinned = question.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
    before_s = time.time()
    try:
        told_s = ray.get(pinned.remote(()), timeout=ANSWERS_WITHIN_S)["time_s"]
    except Exception as error:  # noqa: BLE001 (as above)
        return facts.model_copy(update={"problem": f"it answered once, then: {type(error).__name__}"})
    after_s = time.time()
    ahead_s, within_s = told_s - (before_s + after_s) / 2, (after_s - before_s) / 2
    return facts.model_copy(update={"clock_s": round(ahead_s, 4), "clock_within_s": round(within_s, 4)})


def main() -> int:
    """Print what the nodes of the cluster that this runs in answer."""
    from cluster.session import ray_session

    with ray_session(address="auto"):
        print(json.dumps({"nodes": [facts.model_dump(mode="json") for facts in ask_nodes()]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
