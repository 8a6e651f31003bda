"""Whether every node of the Ray at hand reaches the storage, found out before a run starts: each writes and reads.

A worker that cannot write its checkpoint finds out after hours, and says so from a machine that nobody looks at. Here
the driver leaves a note, a task pinned to each node reads it, leaves one of its own and asks the database for an
answer, and the driver reads all of those: storage that each node can write to and that is not the same one (a path on
every disk) fails as well. Skipped for a local home on one host, which cannot fail in this way. Left out: speed.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cluster.errors import HoneError, StoreError
from cluster.store import Store

if TYPE_CHECKING:
    from cluster.session import Settings

PREFLIGHT = "preflight"
DRIVER = "driver"
TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10
REMEDY = (
    "Give that node the storage's address and credentials (environment, mounted secret or role), then try again; "
    "hone doctor --address looks at all nodes."
)


def refuse_unreachable(settings: Settings, timeout_s: float = TIMEOUT_S) -> None:
    """Raise StoreError naming the nodes, and why, where one cannot use the home or the database; Ray is up."""
    import ray

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    if settings.is_local and len({node["NodeManagerHostname"] for node in nodes}) < 2:
        return
    store, attempt = Store(settings.home), uuid.uuid4().hex
    try:
        store.put_text(DRIVER, PREFLIGHT, attempt, DRIVER)
        reasons = _asked(nodes, settings, attempt, timeout_s)
        for node in nodes:
            reasons.setdefault(node["NodeID"], _unread(store, attempt, node["NodeID"]))
    finally:
        with suppress(StoreError):
            store.remove(PREFLIGHT, attempt)
    failed = [f"{_shown(node)}: {reason}" for node in nodes if (reason := reasons[node["NodeID"]])]
    if failed:
        raise StoreError(f"{len(failed)} of {len(nodes)} nodes cannot use {settings.home}: {'; '.join(failed)}", REMEDY)


def _asked(nodes: list[dict[str, Any]], settings: Settings, attempt: str, timeout_s: float) -> dict[str, str]:
    """Return what is wrong by node id, of the nodes where something is; all are asked at once."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task: Any = ray.remote(num_cpus=0, max_retries=0)(knock)
    asked: dict[Any, str] = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        answer = task.options(scheduling_strategy=here).remote(settings.home, settings.db, attempt, node["NodeID"])
        asked[answer] = node["NodeID"]
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=timeout_s)
    found = {asked[answer]: f"it did not answer within {timeout_s:g} s" for answer in late}
    for answer in late:
        ray.cancel(answer, force=True)
    for answer in done:
        try:
            reason = ray.get(answer)
        except RayError as error:
            reason = str(error).strip().splitlines()[-1]
        if reason:
            found[asked[answer]] = reason
    return found


def knock(home: str, db: str | None, attempt: str, node: str) -> str:
    """Read the driver's note on this node, leave one, and reach the database; return why not, or nothing."""
    try:
        store = Store(home)
        if not store.exists(PREFLIGHT, attempt, DRIVER):
            return "what this machine wrote there is not seen, so it is other storage"
        store.put_text(node, PREFLIGHT, attempt, node)
        return database_refusal(db) if db else ""
    except HoneError as error:
        return error.what


def database_refusal(db: str) -> str:
    """Return why the database does not answer from here; nothing where it does."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        engine = create_engine(db, connect_args={"connect_timeout": CONNECT_TIMEOUT_S})
        try:
            with engine.connect() as connection:
                connection.execute(text("SELECT 1"))
        finally:
            engine.dispose()
    except ModuleNotFoundError:
        return "PostgreSQL's driver is missing there (hone[postgres])"
    except SQLAlchemyError as error:
        return f"the database refused: {str(error).splitlines()[0]}"
    return ""


def _unread(store: Store, attempt: str, node: str) -> str:
    return "" if store.exists(PREFLIGHT, attempt, node) else "what it wrote there is not seen here"


def _shown(node: Mapping[str, Any]) -> str:
    return f"node {node['NodeID'][:12]} ({node['NodeManagerAddress']})"
