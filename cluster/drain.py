"""A machine that will be taken away → its Ray node drained, so that runs save and go on elsewhere.

Kubernetes runs ``python -m cluster.drain --seconds N`` in a pod before it sends SIGTERM (the preStop hook of our
manifests). Ray then gives the node no more work and tells every training on it, which saves and goes on without the
node; the hook waits until the node has nothing left to do, or its time is over. On a node that Ray does not know, or
that has ended, there is nothing to do.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from cluster.errors import HoneError, RunFailed, UsageError

LOOK_EVERY_S = 1.0
WHY = "the machine is taken away"


def drain(address: str, ip: str, seconds: float) -> bool:
    """Drain the node at ``ip`` of the cluster at ``address``; return whether it ended within ``seconds``.

    Raises RunFailed where Ray refuses, which it does not for machines that are taken away.
    """
    raylet, autoscaler = import_module("ray._raylet"), import_module("ray.core.generated.autoscaler_pb2")
    client: Any = raylet.GcsClient(address=address)
    node = _alive(client, ip)
    if node is None:
        return True
    deadline_s = time.time() + seconds
    reason = autoscaler.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, refusal = client.drain_node(node, reason, WHY, int(deadline_s * 1000))
    if not accepted:
        raise RunFailed(f"Ray does not drain the node at {ip}: {refusal}")
    while time.time() < deadline_s:
        if _alive(client, ip) != node:
            return True
        time.sleep(LOOK_EVERY_S)
    return False


def _alive(client: Any, ip: str) -> str | None:
    """Return the id of the living node at an address, in hexadecimal digits."""
    alive = import_module("ray.core.generated.gcs_pb2").GcsNodeInfo.GcsNodeState.ALIVE
    for node_id, node in client.get_all_node_info(timeout=10).items():
        if node.state == alive and node.node_manager_address == ip:
            return str(node_id.hex())
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Drain the node that this runs on."""
    parser = argparse.ArgumentParser(prog="python -m cluster.drain", description="Drain the Ray node of a machine.")
    parser.add_argument("--seconds", type=float, required=True, help="how long the machine will still be there")
    parser.add_argument("--ip", default=os.environ.get("HONE_POD_IP"), help="the node's address (HONE_POD_IP)")
    parser.add_argument("--address", default=os.environ.get("RAY_ADDRESS"), help="the head, HOST:6379 (RAY_ADDRESS)")
    arguments = parser.parse_args(argv)
    try:
        if not arguments.ip or not arguments.address:
            raise UsageError("the node's or the head's address is not known", "Give --ip and --address.")
        ended = drain(arguments.address, arguments.ip, arguments.seconds)
    except HoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{arguments.ip}: {'ended' if ended else 'still at work when its time was over'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
