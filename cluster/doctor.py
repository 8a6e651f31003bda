"""What is wrong with this machine or cluster, and the remedy: a table of checks, run one after the other.

Each check returns a line or some, and none of them changes anything. One that itself fails is a failure that says
so, and the others still run. With an address, the cluster's nodes are asked as well: through ``HOST:6379`` by tasks
pinned to each; through a dashboard's ``http://HOST:8265`` only whether it answers and to whom, unless the caller hands
in ``through_jobs``, which runs ``python -m cluster.node_facts`` there and returns what it printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import cluster_checks, machine_checks, ray_token, state_checks
from cluster.diagnosis import Diagnosis, Line, failure
from cluster.errors import HoneError
from cluster.node_facts import PACKAGES, NodeFacts, ask_nodes
from cluster.session import ray_session

if TYPE_CHECKING:
    from cluster.session import Settings

Check = Callable[["Settings"], Line | list[Line]]
ThroughJobs = Callable[[str], Sequence[NodeFacts]]
CHECKS: tuple[tuple[str, Check], ...] = (
    ("python", machine_checks.python),
    ("imports", machine_checks.imports),
    ("torch", machine_checks.torch),
    ("collectives", machine_checks.collectives),
    ("deepspeed", machine_checks.deepspeed),
    ("compilers", machine_checks.compilers),
    ("disk", machine_checks.disk),
    ("storage", state_checks.storage),
    ("database", state_checks.databases),
)


def examine(
    settings: Settings,
    env: Mapping[str, str],
    address: str | None = None,
    through_jobs: ThroughJobs | None = None,
) -> Diagnosis:
    """Return what all checks say of this machine and, where there is an address, of the cluster behind it."""
    lines = [line for name, check in CHECKS for line in _lines(name, lambda check=check: check(settings))]
    lines += _lines("token", lambda: cluster_checks.token(env, Path.home()))
    where = address or settings.ray_address
    if where is not None:
        lines += _lines("cluster", lambda: _cluster(where, env, through_jobs))
    return Diagnosis.of(lines)


def _lines(name: str, look: Callable[[], Line | list[Line]]) -> list[Line]:
    try:
        found = look()
    except HoneError as error:
        return [failure(name, error.what, error.remedy or "See above.")]
    except Exception as error:  # noqa: BLE001 (a check that breaks must not hide the others)
        return [failure(name, f"it could not be looked at: {type(error).__name__}: {error}", "Please report this.")]
    return found if isinstance(found, list) else [found]


def _cluster(address: str, env: Mapping[str, str], through_jobs: ThroughJobs | None) -> list[Line]:
    here = versions_here()
    if address.startswith(("http://", "https://")):
        lines = cluster_checks.head(address, ray_token.token_of(env, Path.home()))
        if through_jobs is None or any(line.state == "failure" for line in lines):
            return lines
        nodes = through_jobs(address)
    else:
        lines = []
        with ray_session(address=address):
            nodes = ask_nodes()
    is_loopback = address.removeprefix("http://").startswith(cluster_checks.LOOPBACK_HOSTS)
    return lines + cluster_checks.node_lines(nodes, here, sys.version.split()[0], is_loopback=is_loopback)


def versions_here() -> dict[str, str]:
    """Return the versions of what all nodes must share, as they are installed here."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
