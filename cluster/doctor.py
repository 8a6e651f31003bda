"""What is wrong with this machine or cluster, and the remedy: a table of checks, run one after the other.

Each check returns a line or some, and none of them changes anything. One that itself fails is a failure that says
so, and the others still run. With an address, the cluster's nodes are asked as well: through ``HOST:6379`` by tasks
pinned to each; through a dashboard's ``http://HOST:8265`` only whether it answers and to whom, unless the caller hands
in ``through_jobs``, which runs ``python -m cluster.node_facts`` there and returns what it printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from cluster import cluster_checks, machine_checks, ray_token, state_checks
from cluster.diagnosis import Diagnosis, Line, failure
from cluster.errors import HoneError
from cluster.jobs import Head
from cluster.node_facts import PACKAGES, ask_nodes
from cluster.session import ray_session

if TYPE_CHECKING:
    from cluster.session import Settings

Check = Callable[["Settings"], Line | list[Line]]
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


def examine(settings: Settings, env: Mapping[str, str], address: str | None = None) -> Diagnosis:
    """Return what all checks say of this machine and, where there is an address, of the cluster behind it."""
    lines = [line for name, check in CHECKS for line in _lines(name, lambda check=check: check(settings))]
    lines += _lines("token", lambda: cluster_checks.token(env, Path.home()))
    where = address or settings.ray_address
    if where is not None:
        lines += _lines("cluster", lambda: _cluster(where, env))
    return Diagnosis.of(lines)


def _lines(name: str, look: Callable[[], Line | list[Line]]) -> list[Line]:
    try:
        found = look()
    except HoneError as error:
        return [failure(name, error.what, error.remedy or "See above.")]
    except Exception as error:  # noqa: BLE001 (a check that breaks must not hide the others)
        return [failure(name, f"it could not be looked at: {type(error).__name__}: {error}", "Please report this.")]
    return found if isinstance(found, list) else [found]


def _cluster(address: str, env: Mapping[str, str]) -> list[Line]:
    here, python = versions_here(), sys.version.split()[0]
    if address.startswith(("http://", "https://")):
        lines = cluster_checks.head(address, ray_token.token_of(env, Path.home()))
        if any(line.check == "address" or line.state == "failure" for line in lines):
            return lines
        return lines + cluster_checks.offer_lines(Head(address).offer(), here, python)
    with ray_session(address=address):
        nodes = ask_nodes()
    return cluster_checks.node_lines(nodes, here, python, is_loopback=cluster_checks.is_loopback(address))


def versions_here() -> dict[str, str]:
    """Return the versions of what all nodes must share, as they are installed here."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
