"""A serve file's endpoint → arms and an ingress on Ray Serve, changed and taken down again.

The order is what keeps traffic safe. New arms are brought up beside the old ones; only when every one is ready is the
endpoint's document replaced, which moves the traffic; what no arm needs any more is drained and removed last. If one
does not become ready, everything new is removed and nothing else has changed.

Weights, promotion and rollback touch the document only (``serving.traffic``). Keeping an endpoint up in a process of
its own is ``serving.keeper``'s.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.errors import RunFailed, UsageError
from cluster.serve_spec import ArmSpec, ServeSpec
from cluster.session import LOOPBACK, Settings, cluster_capacity
from cluster.store import Store
from serving import endpoint as endpoints
from serving.arm import GRACE_S, actor_options, arm_application
from serving.callers import API_KEYS, Keys
from serving.endpoint import Arm, Endpoint
from serving.engine import EngineKind, Limits
from serving.ingress import LOOK_EVERY_S, ingress_application
from serving.releases import Served, served

if TYPE_CHECKING:
    from collections.abc import Generator

    from cluster.progress import Progress

DEFAULT_PORT = 8000
GONE = ("NOT_STARTED", "DEPLOY_FAILED", "DELETING")
"""States of an application that Serve lists and that answers nobody, now or later."""
DESIGN_KEYS = ("control", "outcome", "unit", "horizon_h", "missing", "guardrails")
"""Of an experiment, what is declared at its start."""
QUIET = {"log_level": "ERROR", "enable_access_log": False}


@dataclass(frozen=True)
class Options:
    """How an endpoint is served, besides what its file says."""

    host: str = LOOPBACK
    port: int = DEFAULT_PORT
    engine: EngineKind = "transformers"
    limits: Limits = field(default_factory=Limits)
    keys: Keys = field(default_factory=Keys)

    def __post_init__(self) -> None:
        if self.host not in (LOOPBACK, "localhost", "::1") and not self.keys.api:
            raise UsageError(
                f"{self.host} is reached from other machines, and there are no API keys",
                f"Set {API_KEYS} (or {API_KEYS}_FILE), or leave --host out.",
            )


def bring_up(spec: ServeSpec, settings: Settings, options: Options, progress: Progress) -> Endpoint:
    """Serve an endpoint in this session's Ray, or change it into what the file says; return its document.

    Raises UsageError for releases that are not there, before anything is started, and RunFailed for an arm that does
    not become ready, after which the endpoint is as it was.
    """
    from ray import serve

    store = Store(settings.home)
    releases = {name: served(arm.release, settings) for name, arm in spec.arms.items()}
    with _quiet():
        http = {"host": options.host, "port": options.port, "request_timeout_s": GRACE_S}
        serve.start(http_options=http, logging_config=QUIET)
        running = {name for name, found in serve.status().applications.items() if found.status not in GONE}
        _refuse_second(spec.endpoint, running & set(endpoints.names(store)))
        before = endpoints.find(store, spec.endpoint)
        if before is not None:
            _refuse_another_experiment(before, spec, releases)
        arms = {
            name: _arm(spec.endpoint, name, arm, releases[name], before, running) for name, arm in spec.arms.items()
        }
        fresh = {name: arm for name, arm in arms.items() if arm.application not in running}
        started = {arm.application for arm in fresh.values()} | ({spec.endpoint} - running)
        try:
            for name, arm in fresh.items():
                _start_arm(name, arm, releases[name], len(arms), options, progress)
            endpoint = _written(store, spec, arms, before)
            if spec.endpoint not in running:
                _start_ingress(spec.endpoint, settings, options, before)
        except BaseException:
            _drain(started & set(serve.status().applications))
            raise
        _remove_unused(endpoint, running)
    return endpoint


def _refuse_second(name: str, running: Collection[str]) -> None:
    """Raise UsageError where another endpoint has this Ray's one route."""
    for other in running:
        if other != name:
            raise UsageError(
                f"the endpoint {other} runs in this Ray, which has room for one",
                "Leave RAY_ADDRESS out: hone serve then starts a Ray of its own.",
            )


def _refuse_another_experiment(before: Endpoint, spec: ServeSpec, releases: Mapping[str, Served]) -> None:
    """Raise UsageError where an experiment would go on under its name with other arms or rules: its rows would mix."""
    old, new = before.experiment, spec.experiment
    if old is None or new is None or old.name != new.name:
        return
    remedy = "Give the experiment a new name: what it has counted so far was made under the old ones."
    for key in DESIGN_KEYS:
        if getattr(old, key) != getattr(new, key):
            raise UsageError(f"experiment.{key} was {getattr(old, key)}, and is now {getattr(new, key)}", remedy)
    for name in before.arms.keys() & spec.arms.keys():
        arm, release = before.arms[name], releases[name]
        if (arm.directory, arm.base, arm.generation) != (release.directory, release.base, spec.arms[name].generation):
            raise UsageError(f"the arm {name} served {arm.version or arm.release} and would serve another", remedy)


def take_down(name: str) -> None:
    """Drain an endpoint: first its ingress, then its arms."""
    from ray import serve

    with _quiet():
        applications = set(serve.status().applications)
        _drain({name} & applications)
        _drain({application for application in applications if application.startswith(f"{name}--")})


def _drain(applications: Collection[str]) -> None:
    """Remove applications once what is under way in them has ended, and wait for that; Serve itself waits a minute."""
    from ray import serve

    for name in applications:
        serve.delete(name, _blocking=False)
    deadline_s = time.monotonic() + GRACE_S
    while not serve.status().applications.keys().isdisjoint(applications):
        if time.monotonic() > deadline_s:
            raise RunFailed(f"{', '.join(sorted(applications))} did not end", "See the Ray logs.")
        time.sleep(LOOK_EVERY_S)


def _arm(endpoint: str, name: str, spec: ArmSpec, release: Served, before: Endpoint | None, running: set[str]) -> Arm:
    """Return the arm as it will be written down: in the application it has, or in a new one for another release."""
    old = before.arms.get(name) if before else None
    application = f"{endpoint}--{name}"
    if old is not None and old.application in running:
        same = (old.directory, old.base) == (release.directory, release.base)
        application = old.application if same else f"{endpoint}--{name}--{secrets.token_hex(3)}"
    return Arm(
        release=spec.release,
        version=release.version,
        directory=release.directory,
        base=release.base,
        application=application,
        weight=spec.weight,
        asked=spec.weight,
        shadow=spec.shadow,
        generation=spec.generation,
    )


def _start_arm(name: str, arm: Arm, release: Served, num_arms: int, options: Options, progress: Progress) -> None:
    """Deploy one arm and wait until it writes. Raises RunFailed with the reason that its replica gave."""
    from ray import serve

    began_s = time.monotonic()
    capacity = cluster_capacity()
    _refuse_without_room(name, actor_options(capacity, num_arms))
    target = arm_application(release, capacity, num_arms, options.engine, options.limits)
    try:
        serve.run(target, name=arm.application, route_prefix=None, logging_config=QUIET)
    except RuntimeError as error:
        raise RunFailed(
            f"the arm {name} ({arm.release}) did not become ready: {_reason(arm.application, error)}",
            "Nothing was changed. Mend the release, or serve another.",
        ) from error
    progress.say(f"  arm {name}: {arm.version or arm.release} ready after {time.monotonic() - began_s:.1f} s")


def _refuse_without_room(name: str, asked: Mapping[str, float]) -> None:
    """Raise RunFailed where a replica would wait for room that others hold, which Serve does for ever."""
    import ray

    free = ray.available_resources()
    for word, resource in (("num_cpus", "CPU"), ("num_gpus", "GPU")):
        if asked.get(word, 0.0) > free.get(resource, 0.0) + 1e-6:
            raise RunFailed(
                f"the arm {name} needs {asked[word]:g} {resource}, and {free.get(resource, 0.0):g} are free",
                "Nothing was changed. Wait until something ends, or serve fewer arms.",
            )


def _start_ingress(name: str, settings: Settings, options: Options, before: Endpoint | None) -> None:
    """Deploy the ingress; where that fails the document is again what it was ``before``."""
    from ray import serve

    num_cpus = actor_options(cluster_capacity(), 1)["num_cpus"]
    target = ingress_application(name, settings, options.keys, {"num_cpus": num_cpus})
    try:
        serve.run(target, name=name, route_prefix="/", logging_config=QUIET)
    except BaseException as error:
        endpoints.restore(Store(settings.home), name, before)
        if isinstance(error, RuntimeError):
            raise RunFailed(f"the endpoint did not start: {_reason(name, error)}", "See the Ray logs.") from error
        raise


def _written(store: Store, spec: ServeSpec, arms: Mapping[str, Arm], before: Endpoint | None) -> Endpoint:
    """Write the endpoint's document: from here on traffic goes to these arms."""
    now_s = time.time()
    update = {"experiment": spec.experiment, "log": spec.log, "retrain": spec.retrain}
    if before is None:
        first = Endpoint(name=spec.endpoint, salt=secrets.token_hex(16), arms={})
        return endpoints.write(store, first.model_copy(update=update).after(arms, "serve", now_s))

    def edit(old: Endpoint) -> Endpoint:
        return old.model_copy(update=update).after(_at_live_weights(arms, old), "serve", now_s)

    return endpoints.change(store, spec.endpoint, edit)


def _at_live_weights(arms: Mapping[str, Arm], old: Endpoint) -> dict[str, Arm]:
    """Return arms with the weights that they have by now, but for those whose weight was changed in the file."""
    kept = {name: was.weight for name, was in old.arms.items() if name in arms and was.asked == arms[name].asked}
    return {name: arm.model_copy(update={"weight": kept.get(name, arm.weight)}) for name, arm in arms.items()}


def _remove_unused(endpoint: Endpoint, running: set[str]) -> None:
    """Drain the applications that no arm of the endpoint needs, once every ingress has seen the new document."""
    needed = {arm.application for arm in endpoint.arms.values()}
    unused = [name for name in running if name.startswith(f"{endpoint.name}--") and name not in needed]
    if unused:
        time.sleep(3 * LOOK_EVERY_S)
        _drain(unused)


def _reason(application: str, error: RuntimeError) -> str:
    """Return what a replica said, out of the traceback that Serve hands on."""
    from ray import serve

    found = serve.status().applications.get(application)
    deployments: dict[str, Any] = dict(found.deployments) if found else {}
    told = "\n".join([str(error), *(one.message for one in deployments.values())])
    lines = [line.strip() for line in told.splitlines()]
    ours = [line for line in lines if line.startswith(("cluster.errors.", "ray.exceptions.")) or "Error: " in line]
    words = (ours or [line for line in lines if line] or ["no reason was given"])[-1]
    return words.rpartition("cluster.errors.")[2]


@contextmanager
def _quiet() -> Generator[None]:
    """Keep Serve's own messages off the user's terminal; what matters comes back as an error."""
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
