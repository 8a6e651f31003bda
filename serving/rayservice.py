"""An endpoint under KubeRay's RayService: a Serve application that brings the endpoint up and keeps it.

KubeRay deploys one Serve configuration and watches its applications. Ours holds a single one, the keeper, without a
route: it does what `hone serve` does in a process of its own (arms, ingress, ramp, automatic promotion, looks at
drift), and is ready once the endpoint answers, which is what RayService waits for before it sends traffic to a new
cluster. The endpoint's document and ledger lie in HONE_HOME and HONE_DB, so another cluster goes on where this one was.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from typing import Any

from cluster.errors import HoneError, RunFailed
from cluster.progress import Progress
from cluster.serve_spec import ServeSpec
from cluster.session import Settings, cluster_capacity
from serving.callers import keys_of
from serving.deploy import Options, bring_up
from serving.drift import look
from serving.drift_looks import looking
from serving.keeper import STEER_EVERY_S
from serving.traffic import steer

log = logging.getLogger("hone.serving")
NODES_WITHIN_S = 900.0
HOST, PORT = "0.0.0.0", 8000


class ServiceKeeper:
    """Brings an endpoint up, takes the steps of its ramp and looks at its drift; ends with its replica."""

    def __init__(self, serve: dict[str, Any], host: str, port: int) -> None:
        self._settings = Settings.here()
        self._spec = ServeSpec.model_validate(serve)
        options = Options(host=host, port=port, keys=keys_of(os.environ))
        _wait_for_nodes()
        bring_up(self._spec, self._settings, options, Progress(sys.stderr))
        self._ended = threading.Event()
        threading.Thread(target=self._keep, daemon=True).start()

    def _keep(self) -> None:
        name, progress = self._spec.endpoint, Progress(sys.stderr)
        with looking(lambda: look(name, self._settings, time.time()), progress):
            while not self._ended.wait(STEER_EVERY_S):
                self._steered()

    def _steered(self) -> None:
        try:
            moved = steer(self._spec.endpoint, self._settings)
        except HoneError as error:
            log.warning("traffic stays as it is: %s", error.what)
        except Exception:  # whatever it is, the endpoint answers on
            log.exception("traffic stays as it is")
        else:
            if moved is not None:
                log.warning("%s", "; ".join(moved.lines()))

    def __del__(self) -> None:
        if hasattr(self, "_ended"):
            self._ended.set()


def _wait_for_nodes() -> None:
    """Wait until a node that does work has joined: in a new cluster the head, and with it this replica, comes first."""
    deadline_s = time.monotonic() + NODES_WITHIN_S
    while not cluster_capacity().nodes:
        if time.monotonic() > deadline_s:
            raise RunFailed(f"no node has joined within {NODES_WITHIN_S:.0f} s", "See why the pods are pending.")
        time.sleep(STEER_EVERY_S)


def application(args: dict[str, Any]) -> Any:
    """Return the application that Serve builds from a configuration's ``args``: ``serve``, and host and port."""
    from ray import serve

    deployment = serve.deployment(name="keeper", num_replicas=1, ray_actor_options={"num_cpus": 0})
    return deployment(ServiceKeeper).bind(args["serve"], str(args.get("host", HOST)), int(args.get("port", PORT)))
