"""A cluster's answers → what `hone doctor` says of it: who may reach it, and whether its nodes are alike.

Ray's Jobs interface runs code for whoever it answers (CVE-2023-48022), so a cluster that answers without a token is a
failure wherever other machines reach it. What nodes tell is gathered by ``cluster.node_facts``; the lines about it are
made here, purely.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from cluster import ray_token
from cluster.diagnosis import Line, failure, fine, warning
from cluster.node_facts import OPEN, PACKAGES, NodeFacts

if TYPE_CHECKING:
    from cluster.offer import Offer

ANSWERS_WITHIN_S = 4.0
"""A head is asked at most twice."""
LATE_S, TOO_LATE_S = 1.0, 60.0
JOBS = "/api/jobs/"
"""A route of the dashboard that asks for the token; some others answer everybody."""
NO_TOKEN, WRONG_TOKEN = 401, 403


def token(env: Mapping[str, str], user_home: Path) -> Line:
    """Look at the token that this user's Ray asks for."""
    file = ray_token.token_file(env, user_home)
    if ray_token.is_off(env):
        found = f"{ray_token.MODE} is {env[ray_token.MODE]}: whoever reaches Ray here runs code as you"
        return warning("token", found, f"Unset {ray_token.MODE}.")
    if env.get(ray_token.TOKEN):
        return fine("token", f"from {ray_token.TOKEN}")
    if not file.is_file():
        return fine("token", f"none yet; {file} is made with the first run")
    if ray_token.readable_by_others(file) and not env.get(ray_token.TOKEN_PATH):
        return warning("token", f"others on this machine may read {file}", f"chmod 600 {file}")
    return fine("token", f"from {file}")


def head(address: str, token: str | None) -> list[Line]:
    """Ask a head's dashboard at http://HOST:8265 without the token, and with it."""
    open_to_all, reason = _status(address, None)
    if open_to_all is None:
        return [failure("address", f"{address} does not answer: {reason}", "Check the address and the network.")]
    if open_to_all < 400:
        return [_answers_everybody(address)]
    if open_to_all != NO_TOKEN:
        found = f"{address} answers {open_to_all} to {JOBS}"
        return [failure("address", found, "Give the dashboard's address, as http://HOST:8265.")]
    if token is None:
        remedy = f"Set {ray_token.TOKEN} (or {ray_token.TOKEN_PATH}) to the cluster's."
        return [failure("token", f"{address} asks for a token, and there is none here", remedy)]
    status, reason = _status(address, token)
    if status is None or status >= 400:
        word = "refuses this token" if status in (NO_TOKEN, WRONG_TOKEN) else f"answers {status or reason}"
        return [failure("token", f"{address} {word}", f"Set {ray_token.TOKEN} to the cluster's.")]
    return [fine("token", f"{address} asks for a token, and takes this one")]


def _answers_everybody(address: str) -> Line:
    found = f"{address} runs code for whoever reaches it: it asks for no token"
    remedy = "Start the cluster with RAY_AUTH_MODE=token and a token (docs/clusters.md)."
    return warning("token", found, remedy) if is_loopback(address) else failure("token", found, remedy)


def is_loopback(address: str) -> bool:
    """Return whether only this machine reaches an address, written as HOST:PORT or a URL."""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def offer_lines(offer: Offer, here: Mapping[str, str], python: str) -> list[Line]:
    """Return the lines about what a head says: the versions, which all nodes share with it, and what there is."""
    lines: list[Line] = []
    if offer.python_version.split(".")[:2] != python.split(".")[:2]:
        found = f"Python {offer.python_version} on the cluster, here {python}"
        lines.append(failure("nodes", found, "Use one Python: what is pickled here must open there."))
    if offer.ray_version != here.get("ray"):
        found = f"Ray {offer.ray_version} on the cluster, here {here.get('ray', 'none')}"
        lines.append(failure("nodes", found, "Install the cluster's Ray here, or the image's (cluster/deploy)."))
    room = f"{offer.capacity.cpus:g} CPUs, {offer.capacity.gpus:g} GPUs for workers"
    found = f"{len(offer.hosts)} machines with Ray {offer.ray_version}, {room}"
    return lines or [fine("nodes", found)]


def _status(address: str, token: str | None) -> tuple[int | None, str]:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    try:
        asked = Request(f"{address.rstrip('/')}{JOBS}", headers=headers)
        with urlopen(asked, timeout=ANSWERS_WITHIN_S) as answer:
            return int(answer.status), ""
    except HTTPError as error:
        return error.code, ""
    except (URLError, OSError, ValueError) as error:
        return None, str(getattr(error, "reason", error))


def node_lines(nodes: Sequence[NodeFacts], here: Mapping[str, str], python: str, *, is_loopback: bool) -> list[Line]:
    """Return the lines about nodes, compared with the packages and the Python of this machine."""
    broken = [
        failure("nodes", f"{one.node}: {one.problem}", "Look at its log in /tmp/ray.") for one in nodes if one.problem
    ]
    answering = [one for one in nodes if not one.problem]
    if not answering:
        return broken or [failure("nodes", "the cluster has no node", "Start one: ray start --address …")]
    lines = [*broken, *_versions(answering, here, python), *_clocks(answering)]
    if any(one.auth_mode == OPEN for one in answering):
        found, remedy = "the cluster asks for no token", "Start it with RAY_AUTH_MODE=token (docs/clusters.md)."
        lines.append(warning("token", found, remedy) if is_loopback else failure("token", found, remedy))
    return lines


def _versions(nodes: Sequence[NodeFacts], here: Mapping[str, str], python: str) -> list[Line]:
    lines: list[Line] = []
    for node in nodes:
        if node.python.split(".")[:2] != python.split(".")[:2]:
            found = f"{node.node}: Python {node.python}, here {python}"
            lines.append(failure("nodes", found, "Use one image on all nodes: what is pickled here must open there."))
        for name in PACKAGES:
            lines += _package(node, name, here.get(name))
    known = ", ".join(f"{name} {version}" for name, version in here.items())
    return lines or [fine("nodes", f"{len(nodes)} alike: Python {python}, {known}")]


def _package(node: NodeFacts, name: str, here: str | None) -> list[Line]:
    there = node.packages.get(name)
    if there == here or here is None:
        return []
    found = f"{node.node}: {name} {there or 'is missing'}, here {here}"
    remedy = "Use one image on all nodes (cluster/deploy/Dockerfile.*)."
    if name == "hone" and there is None:
        return [warning("nodes", found, "hone submit ships its code; hone run on the cluster needs it there.")]
    return [failure("nodes", found, remedy) if there is None or name == "ray" else warning("nodes", found, remedy)]


def _clocks(nodes: Sequence[NodeFacts]) -> list[Line]:
    lines: list[Line] = []
    for node in nodes:
        off_s = max(0.0, abs(node.clock_s) - node.clock_within_s)
        found = f"{node.node}: its clock is {abs(node.clock_s):.1f} s {'ahead' if node.clock_s > 0 else 'behind'}"
        if off_s > TOO_LATE_S:
            lines.append(failure("clocks", found, "Let NTP set it: signed requests to storage are refused."))
        elif off_s > LATE_S:
            lines.append(warning("clocks", found, "Let NTP set it: times of rows and statuses are compared."))
    most = max(abs(node.clock_s) + node.clock_within_s for node in nodes)
    return lines or [fine("clocks", f"all within {json.dumps(round(most, 2))} s of this one")]
