"""What the environment says, and one quiet Ray for as long as it is needed.

Only here are environment variables read and is ``ray.init`` called. A Ray of our own listens on the loopback
interface alone (its Jobs interface runs code for whoever reaches it), has no dashboard, reports to nobody and prints
nothing; it is shut down by whoever started it, and only then. A cluster that exists is joined and left as it was.
Left out: submitting jobs to clusters, which is ``cluster.jobs``.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Generator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cluster.capacity import Capacity, NodeCapacity
from cluster.database import Tables, database_url, making_tables, postgres_url
from cluster.errors import RunFailed, UsageError
from cluster.ports import LOOPBACK
from cluster.ray_token import BY_TOKEN, keep_private, token_of
from cluster.ray_worker import prepare_worker

OBJECT_STORE_BYTES = 2**30
REPLICA = "ServeReplica:"
KNOCK_S = 5.0
TOKEN_HELP = "Check the address, and the cluster's token: RAY_AUTH_MODE=token with RAY_AUTH_TOKEN."
NO_TELEMETRY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}
OWN_RAY = {
    "RAY_TRAIN_V2_ENABLED": "1",
    # Ray replaces 127.0.0.1 by an outward address unless it believes that this platform knows no clusters
    # (ray/_private/services.py, resolve_ip_for_localhost, Ray 2.60); its servers would listen on every interface.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Watches for machines being taken away, which ours is not; costs a process and a C++ error line a run (ray#53727).
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # Ours has no dashboard, so nobody reads these; each of Ray's processes wakes up for them (of 2 cores, 0.5 %).
    "RAY_task_events_report_interval_ms": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_event_stats": "0",
    # Ray's workers otherwise give way to everything on the machine, Ray's own processes first (its default is 15).
    "RAY_worker_niceness": "0",
    # Gloo otherwise listens on the address that this machine's name resolves to, and fails where it does not.
    "GLOO_SOCKET_IFNAME": "lo0" if sys.platform == "darwin" else "lo",
}
KEPT_MEMORY = {
    # glibc's: what a training step frees is kept for the next one, whichever thread asks (trainers/allocator.py).
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where state lives: ``home`` is an absolute path or a URL, ``db`` a PostgreSQL URL or None for SQLite files."""

    home: str
    db: str | None
    mlflow_uri: str
    ray_address: str | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str], cwd: Path) -> Self:
        """Return what HONE_HOME, HONE_DB, MLFLOW_TRACKING_URI and RAY_ADDRESS say; relative paths start at ``cwd``.

        Raises UsageError for a URL home without HONE_DB, and for a HONE_DB that is no PostgreSQL.
        """
        home = env.get("HONE_HOME") or ".hone"
        if home.startswith("file://"):
            home = home.removeprefix("file://")
        is_local = "://" not in home
        home = str((cwd / Path(home).expanduser()).absolute()) if is_local else home.rstrip("/")
        db = postgres_url(env["HONE_DB"]) if env.get("HONE_DB") else None
        if not is_local and db is None:
            raise UsageError(
                f"HONE_HOME is {home}, and HONE_DB is not set",
                "Databases cannot live at a URL: set HONE_DB to postgresql://USER:PASSWORD@HOST/DATABASE.",
            )
        mlflow_uri = env.get("MLFLOW_TRACKING_URI") or database_url(home, db, "mlflow")
        return cls(home, db, mlflow_uri, env.get("RAY_ADDRESS") or None)

    @classmethod
    def here(cls) -> Self:
        """Return what this process's environment says, seen from its working directory."""
        return cls.from_env(os.environ, Path.cwd())

    @property
    def is_local(self) -> bool:
        """Whether artifacts lie on this machine's disk."""
        return "://" not in self.home

    def making_tables(self, tables: Tables) -> AbstractContextManager[str]:
        """Yield the SQLAlchemy URL of one set of tables, its place made, to one process at a time; see there."""
        return making_tables(self.home, self.db, tables)


@contextmanager
def ray_session(
    num_cpus: int | None = None,
    address: str | None = None,
    *,
    worker_env: Mapping[str, str] | None = None,
    log_to_driver: bool = False,
) -> Generator[None]:
    """Keep Ray up for the block: an own local one with ``num_cpus`` (default: all), or the cluster at ``address``.

    ``worker_env`` is added to every worker's environment; ``log_to_driver`` shows what workers print. Inside another
    session the outer one goes on and nothing changes. Raises UsageError for an address where no cluster answers and
    RunFailed where Ray does not start.
    """
    is_here = address is None or address.startswith(f"{LOOPBACK}:")
    if address is not None:
        _refuse_dead_address(address)
    has_token = token_of(os.environ, Path.home()) is not None
    joining = BY_TOKEN if address is not None and is_here and has_token else {}
    with environment(NO_TELEMETRY | (OWN_RAY if is_here else {}) | joining), ExitStack() as undo:
        import ray

        if ray.is_initialized():
            yield
            return
        arguments: dict[str, Any] = {
            "log_to_driver": log_to_driver,
            "logging_level": logging.ERROR,
            "runtime_env": {
                "env_vars": KEPT_MEMORY | dict(worker_env or {}),
                "worker_process_setup_hook": prepare_worker,
            },
        }
        if is_here:
            undo.enter_context(_loopback_only())
        if address is None:
            keep_private(os.environ, Path.home())
            arguments |= {
                "address": "local",
                "num_cpus": num_cpus,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_node_ip_address": LOOPBACK,
            }
        else:
            arguments["address"] = address
        undo.enter_context(_unchanged_logger("ray"))
        undo.callback(ray.shutdown)
        _start(ray, arguments, address)
        yield


def job_capacity() -> Capacity:
    """Return what the Ray of this session has for jobs: all but what the replicas of endpoints hold."""
    return cluster_capacity().without(held_by_endpoints())


def held_by_endpoints() -> dict[str, tuple[float, float]]:
    """Return node → CPUs and GPUs of the Serve replicas on it, which stay as long as their endpoints.

    Read from the actors' table, which Ray 2.60 hands out whole only without a public name; its state interface needs a
    dashboard.
    """
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData  # pyright: ignore[reportAttributeAccessIssue] (generated)

    held: dict[str, tuple[float, float]] = {}
    accessor: Any = state._connect_and_get_accessor()  # pyright: ignore[reportPrivateUsage]
    for row in accessor.get_actor_table(None, "ALIVE"):
        actor = ActorTableData.FromString(row)
        if not actor.class_name.startswith(REPLICA):
            continue
        node, asked = actor.address.node_id.hex(), dict(actor.required_resources)
        cpus, gpus = held.get(node, (0.0, 0.0))
        held[node] = (cpus + asked.get("CPU", 0.0), gpus + asked.get("GPU", 0.0))
    return held


def cluster_capacity() -> Capacity:
    """Return what the Ray of this session has, asking its directory only; nodes without CPUs do not work for us."""
    import ray

    working = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    return Capacity(tuple(_node_capacity(node) for node in working))


def _node_capacity(node: Mapping[str, Any]) -> NodeCapacity:
    has: Mapping[str, float] = node["Resources"]
    memory_bytes = int(has.get("memory", 0.0))
    return NodeCapacity(node["NodeID"], has["CPU"], has.get("GPU", 0.0), memory_bytes, host=node["NodeManagerHostname"])


def refuse_local_home(settings: Settings, capacity: Capacity) -> None:
    """Raise UsageError where several machines would each write to a home on their own disk."""
    if settings.is_local and capacity.num_hosts > 1:
        raise UsageError(
            f"HONE_HOME is {settings.home} on this machine, and the cluster has {capacity.num_hosts}",
            "Set HONE_HOME to storage that all of them reach, such as s3://BUCKET/PATH, and HONE_DB to PostgreSQL.",
        )


@contextmanager
def environment(values: Mapping[str, str]) -> Generator[None]:
    """Set environment variables that have no value yet for the block, and take them back after it."""
    ours = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _start(ray: Any, arguments: dict[str, Any], address: str | None) -> None:
    """Call ``ray.init`` without its warnings, and give back the handler of SIGTERM that it takes for itself."""
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if in_main else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ray.init(**arguments)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if address is not None:
            raise UsageError(f"no Ray cluster answers at {address}: {reason}", TOKEN_HELP) from error
        raise RunFailed(f"Ray did not start: {reason}", "See /tmp/ray/session_latest/logs.") from error
    if in_main and handler not in (None, signal.SIG_DFL):
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def _loopback_only() -> Generator[None]:
    """Let Ray keep the loopback address it is given, where it was imported before its environment was set."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _unchanged_logger(name: str) -> Generator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    try:
        yield
    finally:
        logger.setLevel(level)


def _refuse_dead_address(address: str) -> None:
    """Knock before Ray does: it waits for minutes for a server that is not there."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "/" in address or not host or not port.isdecimal():
        raise UsageError(
            f"{address} is not an address that a driver can join",
            "Give HOST:6379 on a machine of the cluster, or ship the job with hone submit --address.",
        )
    try:
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(f"no Ray cluster answers at {address}: {error}", "Check the address.") from error
