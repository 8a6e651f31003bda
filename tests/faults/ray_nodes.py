"""Ray nodes on this machine that are announced to go, as a cloud does for its spot machines."""

from __future__ import annotations

import subprocess
import sys

from cluster.local_cluster import RAY, LocalCluster, host


def drain(nodes: LocalCluster, number: int, seconds: int) -> None:
    """Announce that a node will be taken away."""
    listed = f"import ray; ray.init(address={nodes.address!r}, log_to_driver=False); print(*ray.nodes(), sep='\\n')"
    found = _said(nodes, [sys.executable, "-c", listed]).splitlines()
    (node,) = (line.split("'")[3] for line in found if f"'{host(number)}'" in line)
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    deadline = ["--deadline-remaining-seconds", str(seconds)]
    _said(nodes, [RAY, "drain-node", "--address", nodes.address, "--node-id", node, *reason, *deadline])


def _said(nodes: LocalCluster, command: list[str]) -> str:
    return subprocess.run(command, env=nodes.environment, check=True, capture_output=True, text=True).stdout
