"""The Ray Serve deployment of the endpoint's app: looks at the endpoint's document and at its arms twice a second.

A replica starts from the document, so killing one loses no setting. What it sees becomes one new snapshot; requests
under way keep theirs. An arm counts as ready while Serve has a running replica of it. When the document or the cluster
cannot be asked, the last snapshot stays in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import HoneError
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.arm import RemoteArm
from serving.callers import Keys
from serving.drift import latest, measure_of, reference_arm
from serving.endpoint import Endpoint
from serving.gateway import Gateway, Snapshot
from serving.ledger import Ledger
from serving.ledger_rows import Row
from serving.live_prompts import Measure
from serving.meters import Meters
from serving.spool import Spool

if TYPE_CHECKING:
    from fastapi import FastAPI

LOOK_EVERY_S = 0.5
DRIFT_EVERY_LOOKS = 20
MOST_ONGOING = 1000
SPOOL = "spool"
log = logging.getLogger("hone.serving")


class LedgerWriter:
    """Writes rows to a ledger that is opened when the first arrive, and again after it was away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._ledger: Ledger | None = None

    def write(self, rows: Sequence[Row]) -> None:
        """Write rows. Raises StoreError."""
        if self._ledger is None:
            self._ledger = Ledger.open(self._settings)
        self._ledger.write(rows)


class Ingress:
    """One replica of the app."""

    async def __init__(self, name: str, settings: Settings, keys: Keys) -> None:
        self._name, self._settings, self._keys = name, settings, keys
        self._store = Store(settings.home)
        self._arms: dict[str, RemoteArm] = {}
        self._measures: dict[str, Measure] = {}
        self._looks = 0
        self._spool = self._open_spool(settings)
        snapshot = await asyncio.to_thread(self._look)
        self._gateway = Gateway(snapshot, self._spool, Meters(name))
        self._watch = asyncio.get_running_loop().create_task(self._keep_looking())

    def _open_spool(self, settings: Settings) -> Spool:
        return Spool(spool_directory(settings), LedgerWriter(settings).write)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the app, as Serve asks for it once this replica is constructed."""
        from serving.app import application
        from serving.console import Console

        app = application(lambda: self._gateway, self._keys)
        app.include_router(Console(lambda: self._gateway, self._keys, self._settings).router())
        return app

    async def __del__(self) -> None:
        self._watch.cancel()
        await asyncio.to_thread(self._spool.close)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                snapshot = await asyncio.to_thread(self._look)
            except HoneError as error:
                log.error("%s", error)
                continue
            except Exception:  # the cluster's directory restarts; the last state stays in force
                log.exception("the endpoint could not be looked at")
                continue
            old = self._gateway.snapshot
            if snapshot.endpoint != old.endpoint or snapshot.ready.keys() != old.ready.keys():
                self._gateway.snapshot = snapshot
                self._gateway.show()
            await self._show_drift()

    async def _show_drift(self) -> None:
        """Let the meters say what the last look at drift found, now and then."""
        self._looks += 1
        if self._looks % DRIFT_EVERY_LOOKS:
            return
        try:
            found = await asyncio.to_thread(latest, self._store, self._name)
        except HoneError as error:
            log.error("%s", error)
            return
        if found is not None:
            self._gateway.meters.drifted(found.drift, flagged=found.flagged, at_s=found.at_s)
            self._gateway.meters.changed(found.outcome, found.errors)

    def _look(self) -> Snapshot:
        """Return the endpoint as its document and the cluster say. Runs in a thread."""
        document = endpoints.read(self._store, self._name)
        running = running_applications()
        ready: dict[str, RemoteArm] = {}
        for name, arm in document.arms.items():
            if arm.application in running:
                ready[name] = self._remote(arm.application)
        return Snapshot.of(document, ready, self._measure(document))

    def _measure(self, document: Endpoint) -> Measure:
        """Return what measures prompts, by the sketch of the release that they are compared with if that is here."""
        directory = document.arms[reference_arm(document)].directory
        if document.log != "features":
            return Measure()
        if directory not in self._measures:
            try:
                self._measures = {directory: measure_of(document)}
            except HoneError as error:
                log.error("%s", error)
                self._measures = {directory: Measure()}
        return self._measures[directory]

    def _remote(self, application: str) -> RemoteArm:
        from ray import serve

        if application not in self._arms:
            self._arms[application] = RemoteArm(serve.get_app_handle(application))
        return self._arms[application]


def spool_directory(settings: Settings) -> Path:
    """Return where rows wait for the ledger: on this machine's disk, also where the home is not."""
    return Path(settings.home) / SPOOL if settings.is_local else Path.home() / ".cache" / "hone" / SPOOL


def running_applications() -> set[str]:
    """Return the Serve applications whose deployments all have a running replica."""
    from ray import serve

    return {name for name, application in serve.status().applications.items() if _is_running(application)}


def _is_running(application: Any) -> bool:
    counts = [deployment.replica_states for deployment in application.deployments.values()]
    return bool(counts) and all(states.get("RUNNING", 0) > 0 for states in counts)


def ingress_application(
    name: str, settings: Settings, keys: Keys, options: dict[str, Any], kind: type[Ingress] = Ingress
) -> Any:
    """Return the Serve application of an endpoint's ingress."""
    from ray import serve

    from serving.arm import GRACE_S, HEALTH_EVERY_S

    deployment = serve.deployment(
        name="ingress",
        num_replicas=1,
        max_ongoing_requests=MOST_ONGOING,
        max_queued_requests=MOST_ONGOING,
        graceful_shutdown_timeout_s=GRACE_S,
        graceful_shutdown_wait_loop_s=0.2,
        health_check_period_s=HEALTH_EVERY_S,
        ray_actor_options=options,
    )
    return deployment(serve.ingress()(kind)).bind(name, settings, keys)
