"""The process that keeps an endpoint up: a Ray of its own on the loopback interface, until it is told to stop.

Where it runs is written under ``clusters`` in the store, so that a second `hone serve` of the same endpoint changes
the one that runs, and `hone stop` finds it. Detached, the same process runs in the background with a log file. Its end
takes the endpoint's Ray with it; nothing is left running that nobody keeps.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from pydantic import Field

from cluster.durable import locked
from cluster.errors import HoneError, RunFailed, UsageError
from cluster.ports import refuse_taken
from cluster.ray_token import BY_TOKEN
from cluster.records import Record
from cluster.runs import Owner, is_gone, start_mark
from cluster.session import Settings, environment, ray_session
from cluster.stopping import stop_on_signal
from cluster.store import Store
from serving import endpoint as endpoints
from serving.deploy import Options, bring_up, take_down
from serving.drift import look
from serving.drift_looks import looking
from serving.proxy import PROXY_ENV
from serving.traffic import steer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from cluster.progress import Progress
    from cluster.serve_spec import ServeSpec
    from serving.endpoint import Endpoint

CLUSTERS = "clusters"
LOOK_S = 0.2
STEER_EVERY_S = 5.0
START_S = 600.0
ASKED_S = 20.0
STOP_S = 400.0
"""Longer than an arm's grace."""


class Kept(Record):
    """An endpoint that runs here, and the process that keeps it."""

    endpoint: str
    url: str
    ray_address: str
    owner: Owner
    keys: str = Field(description="a mark of the keys that it accepts")
    engine: str


class Serving(Record):
    """What `hone serve` prints."""

    endpoint: str
    url: str
    epoch: int
    arms: dict[str, str]
    weights: dict[str, float]

    def lines(self) -> list[str]:
        """Return it for a reader."""
        arms = [f"  {arm:<12} {release}  weight {self.weights[arm]:g}" for arm, release in self.arms.items()]
        return [f"{self.endpoint} answers at {self.url}/v1", *arms]


def serve(
    spec: ServeSpec,
    settings: Settings,
    progress: Progress,
    options: Options,
    announce: Callable[[Serving], None],
) -> None:
    """Serve an endpoint until a signal comes; where it runs already, change that one and return.

    ``announce`` is called once it answers.
    """
    store = Store(settings.home)
    kept = find_kept(store, spec.endpoint)
    if kept is not None:
        _refuse_other_options(kept, options)
        with ray_session(address=kept.ray_address):
            announce(_serving(bring_up(spec, settings, options, progress), kept.url))
        return
    refuse_taken(options.host, options.port)
    stopping = threading.Event()
    own = BY_TOKEN if settings.ray_address is None else {}
    ray_up = ray_session(address=settings.ray_address, worker_env=PROXY_ENV)
    with _alone(store, spec.endpoint), stop_on_signal(stopping.set), environment(own), ray_up:
        endpoint = bring_up(spec, settings, options, progress)
        try:
            kept = _claim(store, endpoint, options)
            announce(_serving(endpoint, kept.url))
            with looking(lambda: look(spec.endpoint, settings, time.time()), progress):
                while not stopping.wait(STEER_EVERY_S):
                    _steered(spec.endpoint, settings, progress)
            progress.say(f"{spec.endpoint}: draining")
        finally:
            take_down(spec.endpoint)
            store.remove(CLUSTERS, f"{spec.endpoint}.json")


def changed(spec: ServeSpec, settings: Settings, progress: Progress) -> Serving:
    """Change an endpoint that runs here into what ``spec`` says. Raises UsageError where none runs here."""
    kept = find_kept(Store(settings.home), spec.endpoint)
    if kept is None:
        raise UsageError(f"no endpoint {spec.endpoint!r} runs here", "hone serve starts one.")
    options = Options(engine="vllm" if kept.engine == "vllm" else "transformers")
    with environment(BY_TOKEN), ray_session(address=kept.ray_address):
        return _serving(bring_up(spec, settings, options, progress), kept.url)


def detach(endpoint: str, arguments: Sequence[str], settings: Settings) -> Serving:
    """Start `hone serve` with these arguments in the background, and return once the endpoint answers.

    Raises RunFailed with the end of its log where it does not come up.
    """
    store = Store(settings.home)
    if find_kept(store, endpoint) is not None:
        raise UsageError(f"{endpoint} runs already", "Leave --detach out to change it, or: hone stop " + endpoint)
    log = log_path(endpoint, settings)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "cluster.cli", "serve", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline_s = time.monotonic() + START_S
    try:
        while time.monotonic() < deadline_s and process.poll() is None:
            kept = find_kept(store, endpoint)
            if kept is not None and kept.owner.pid == process.pid:
                return _serving(endpoints.read(store, endpoint), kept.url)
            time.sleep(LOOK_S)
    except BaseException:
        _end(process)
        raise
    _end(process)
    tail = " | ".join(log.read_text(errors="replace").strip().splitlines()[-5:])
    raise RunFailed(f"{endpoint} did not come up: {tail}", f"See {log}.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a keeper that does not come up: its first signal asks, its second one leaves."""
    for _ in range(2):
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(ASKED_S)


def stop(endpoint: str, settings: Settings) -> None:
    """Tell an endpoint's keeper to drain and end, and wait until it has. Raises UsageError where none runs here."""
    store = Store(settings.home)
    kept = find_kept(store, endpoint)
    if kept is None:
        raise UsageError(f"no endpoint {endpoint!r} runs here", "hone serve starts one.")
    os.kill(kept.owner.pid, signal.SIGTERM)
    deadline_s = time.monotonic() + STOP_S
    while not is_gone(kept.owner, socket.gethostname()):
        if time.monotonic() > deadline_s:
            raise RunFailed(f"{endpoint} is still draining", f"Its process is {kept.owner.pid}.")
        time.sleep(LOOK_S)


def find_kept(store: Store, endpoint: str) -> Kept | None:
    """Return where an endpoint runs on this machine; None where it does not, or its keeper is gone."""
    if not store.exists(CLUSTERS, f"{endpoint}.json"):
        return None
    kept = Kept.model_validate(store.get_json(CLUSTERS, f"{endpoint}.json"))
    host = socket.gethostname()
    return None if kept.owner.host != host or is_gone(kept.owner, host) else kept


def beside(endpoint: str, settings: Settings) -> Settings:
    """Return settings under which a job joins the Ray of an endpoint that runs here. Raises UsageError otherwise."""
    kept = find_kept(Store(settings.home), endpoint)
    if kept is None:
        raise UsageError(f"no endpoint {endpoint!r} runs here", "Leave --beside out, or serve it: hone serve.")
    if settings.ray_address not in (None, kept.ray_address):
        raise UsageError(
            f"{endpoint} runs in the Ray at {kept.ray_address}, and RAY_ADDRESS is {settings.ray_address}",
            "Unset RAY_ADDRESS, or leave --beside out.",
        )
    return replace(settings, ray_address=kept.ray_address)


def log_path(endpoint: str, settings: Settings) -> Path:
    """Return where a detached keeper writes what it has to say."""
    home = Path(settings.home) if settings.is_local else Path.home() / ".cache" / "hone"
    return home / CLUSTERS / f"{endpoint}.log"


def _steered(endpoint: str, settings: Settings, progress: Progress) -> None:
    """Let ramp and automatic promotion take their next step; what keeps them from it is said, and tried again."""
    try:
        moved = steer(endpoint, settings)
    except HoneError as error:
        progress.say(f"{endpoint}: traffic stays as it is: {error.what}")
        return
    except Exception as error:  # noqa: BLE001 (whatever it is, the endpoint answers on)
        progress.say(f"{endpoint}: traffic stays as it is: {type(error).__name__}: {error}")
        return
    if moved is not None:
        for line in moved.lines():
            progress.say(line)


@contextmanager
def _alone(store: Store, endpoint: str) -> Generator[None]:
    """Be the only keeper of an endpoint on this machine. Raises UsageError where another one is there."""
    if not store.is_local:
        yield
        return
    with ExitStack() as held:
        try:
            held.enter_context(locked(Path(store.path(CLUSTERS), f".{endpoint}.lock"), wait=False))
        except BlockingIOError:
            raise UsageError(f"another process is starting {endpoint}", "Wait until it answers.") from None
        yield


def _claim(store: Store, endpoint: Endpoint, options: Options) -> Kept:
    import ray

    pid = psutil.Process().pid
    owner = Owner(host=socket.gethostname(), pid=pid, started=start_mark(pid) or "")
    kept = Kept(
        endpoint=endpoint.name,
        url=f"http://{options.host}:{options.port}",
        ray_address=ray.get_runtime_context().gcs_address,
        owner=owner,
        keys=options.keys.mark,
        engine=options.engine,
    )
    store.put_json(kept.model_dump(mode="json"), CLUSTERS, f"{endpoint.name}.json")
    return kept


def _serving(endpoint: Endpoint, url: str) -> Serving:
    arms = {name: arm.version or arm.release for name, arm in endpoint.arms.items()}
    return Serving(endpoint=endpoint.name, url=url, epoch=endpoint.epoch, arms=arms, weights=endpoint.weights)


def _refuse_other_options(kept: Kept, options: Options) -> None:
    """Raise UsageError where a running endpoint would have to begin anew to be served like this."""
    asked = f"http://{options.host}:{options.port}"
    for what, is_same in (
        (f"at {asked}", asked in (kept.url, f"http://{Options().host}:{Options().port}")),
        (f"with the engine {options.engine}", options.engine == kept.engine),
        ("with these API keys", options.keys.mark == kept.keys),
    ):
        if not is_same:
            raise UsageError(
                f"{kept.endpoint} runs already at {kept.url}, and not {what}",
                f"hone stop {kept.endpoint}, then serve it again; or leave this as it is.",
            )
