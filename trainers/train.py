"""The training stage: a prepared data set and a plan → the best weights, through Ray Train workers.

``run`` wraps ``trainers.train_worker`` in a TorchTrainer: Ray Train places the workers, sets up the process group and
starts all of them again when one is lost; the loop then goes on from its newest checkpoint. Workers write straight to
the run's place in the store, a directory that all of them see or a URL; the stage is committed, manifest last, when
they have returned. Rank 0 keeps the run's status up to date, which the driver (and ``hone status``) reads. The first
Ctrl-C asks the run to stop after a checkpoint, the second one leaves at once.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from cluster.errors import BudgetSpent, HoneError, RunFailed, RunStopped, StoreError
from cluster.fitting import counted
from cluster.places import local_directory
from cluster.queueing import Queue
from cluster.records import TrainedWeights
from cluster.runs import read_status, request_stop, stop_requested
from cluster.session import environment
from cluster.stopping import stop_on_signal
from cluster.store import Store
from trainers.checkpoint import best_place
from trainers.prepared import TRAIN
from trainers.rates import keep_rate
from trainers.recorder import HISTORY
from trainers.train_worker import OUTCOME, read_outcome, train_worker

if TYPE_CHECKING:
    from cluster.records import Plan
    from cluster.run_context import RunContext
    from cluster.spec import JobSpec

LOOK_EVERY_S = 0.5
LOOK_REMOTE_EVERY_S = 2.0
INNER = ("_base_exc", "cause", "controller_failure", "__cause__")
"""Where Ray's errors keep the error that they wrap."""
CHECKPOINTS = "checkpoints"
TRAINED = "trained.json"
FOREVER_HOURS = 10 * 365 * 24.0


def run(ctx: RunContext) -> None:
    """Train on Ray Train workers and commit ``runs/RUN/train``: weight shards, ``trained.json``, the curve.

    Raises the worker's own HoneError where there is one, RunStopped after a stop, RunFailed otherwise.
    """
    directory = ctx.store.path("runs", ctx.run, CHECKPOINTS)
    ctx.store.remove("runs", ctx.run, CHECKPOINTS, OUTCOME)
    plan = ctx.plan()
    ctx.progress.say(
        f"train: {counted(plan.workers, 'worker')} on {plan.device}, ZeRO-{plan.zero_stage}, "
        f"{plan.steps} steps of {ctx.job.train.batch_size} examples"
    )
    attempt = f"{ctx.run}-{uuid.uuid4().hex[:6]}"  # Ray would go on with an attempt of the same name by itself
    workers = Workers(ctx.settings.home, ctx.run, directory, ctx.job, plan, ctx.prepared_place())
    ctx.prepared_path()  # verified here, before anybody trains on it
    trainer = workers.trainer(attempt, ray_directory(ctx.store))
    queue = Queue(ctx, plan)
    with _watching(ctx), stop_on_signal(partial(_ask_to_stop, ctx)), environment(patience(ctx.job)):
        try:
            in_thread(trainer.fit, queue.look)
        except Exception as error:
            outcome = read_outcome(directory)
            known = outcome.error() if outcome else None
            raise known or cause_of(error, ctx.run) from error
        finally:
            shutil.rmtree(Path(ray_directory(ctx.store), attempt), ignore_errors=True)
    trained = _trained(ctx, directory)
    _commit(ctx, directory, trained)
    keep_rate(ctx.job, ctx.store, ctx.run, trained, ctx.check().splits[TRAIN])


@dataclass(frozen=True)
class Workers:
    """What a group of training workers is given: the run (or trial of one) that they train, and where it lies."""

    home: str
    run: str
    directory: str
    job: JobSpec
    plan: Plan
    prepared: str

    def trainer(self, attempt: str, storage: str) -> Any:
        """Return Ray Train's trainer; ``attempt`` must be new, since Ray would go on with one of the same name."""
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        plan, cluster = self.plan, self.job.cluster
        resources: dict[str, float] = {"CPU": plan.cpus_per_worker}
        if plan.gpus_per_worker:
            resources["GPU"] = plan.gpus_per_worker
        return TorchTrainer(
            train_worker,
            train_loop_config={
                "home": self.home,
                "run": self.run,
                "directory": self.directory,
                "job": self.job.model_dump(mode="json"),
                "plan": plan.model_dump(mode="json"),
                "prepared": self.prepared,
            },
            torch_config=TorchConfig(
                backend="nccl" if plan.device == "cuda" else "gloo", timeout_s=round(cluster.hang_timeout_s)
            ),
            scaling_config=ScalingConfig(
                **_num_workers(self.job), use_gpu=plan.gpus_per_worker > 0, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=attempt,
                storage_path=storage,
                failure_config=FailureConfig(max_failures=cluster.max_failures, controller_failure_limit=1),
            ),
        )


def patience(job: JobSpec) -> dict[str, str]:
    """Return how long Ray Train lets a fixed number of workers wait for room: as long as the job says, not a minute.

    With a range it looks again every minute, perhaps for fewer.
    """
    hours = job.cluster.max_wait_hours
    if not isinstance(job.cluster.workers, int):
        return {}
    return {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(round((hours or FOREVER_HOURS) * 3600) + 600)}


def _num_workers(job: JobSpec) -> dict[str, Any]:
    """Return Ray Train's words for how many workers: of a range also more than the cluster has now."""
    workers = job.cluster.workers
    if isinstance(workers, int):
        return {"num_workers": workers}
    most = min(workers.max, job.train.batch_size)
    return {"num_workers": (workers.min, most), "elastic_resize_monitor_interval_s": workers.grow_every_s}


def in_thread(
    work: Callable[[], object], meanwhile: Callable[[], object] | None = None, *, every_s: float = 0.5
) -> None:
    """Run ``work`` beside this thread, which stays free for signals and does ``meanwhile``; raise what it raised.

    ``meanwhile`` is done every ``every_s`` seconds, and once more after the end. Ray Train's own answer to Ctrl-C is to
    abort (ray.train.v2, ``_register_sigint_handler``); it only gives it in the main thread.
    """
    raised: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            raised.append(error)

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(every_s)
        if meanwhile:
            meanwhile()
    if raised:
        raise raised[0]


def _ask_to_stop(ctx: RunContext) -> None:
    ctx.progress.say("stopping after a checkpoint; once more leaves at once")
    request_stop(ctx.store, ctx.run)


def ray_directory(store: Store) -> str:
    """Return where Ray keeps its own notes of an attempt: with the home, or on this node where that is remote.

    Ray looks for its marker there only where it persists a checkpoint (ray/train/v2, execution/storage.py, Ray 2.60),
    and ours never pass through it, so no other node has to see it.
    """
    return store.path("ray") if store.is_local else str(Path(gettempdir(), f"hone-ray-{os.getuid()}"))


def _trained(ctx: RunContext, directory: str) -> TrainedWeights:
    """Return what the workers trained; raises what ended them otherwise."""
    outcome = read_outcome(directory)
    if outcome is None:
        raise RunFailed("training ended without an outcome", f"go on with: hone resume {ctx.run}")
    if error := outcome.error():
        raise error
    if outcome.trained is not None:
        return outcome.trained
    go_on = f"go on with: hone resume {ctx.run}"
    if stop_requested(ctx.store, ctx.run):
        raise RunStopped("stopped after a checkpoint, as asked", go_on)
    raise BudgetSpent("stopped after a checkpoint: cluster.max_hours or max_cost is used up", go_on)


def _commit(ctx: RunContext, directory: str, trained: TrainedWeights) -> None:
    """Move the best weights and the curve into the committed artifact, and drop the checkpoints."""
    commit_weights(ctx, directory, trained)
    ctx.store.remove("runs", ctx.run, CHECKPOINTS)


def commit_weights(ctx: RunContext, directory: str, trained: TrainedWeights) -> None:
    """Commit ``runs/RUN/train``: the best weights of a finished training, its curve and its record."""
    with ctx.store.writing("runs", ctx.run, "train") as fresh:
        best = Path(local_directory(best_place(directory, trained.best_step)))
        for part in sorted(best.glob("*.safetensors")):
            shutil.copy(part, fresh / part.name)
        (fresh / HISTORY).write_text(Store(directory).get_text(HISTORY), encoding="utf-8")
        (fresh / TRAINED).write_text(trained.as_json())


def trained_weights(ctx: RunContext) -> tuple[TrainedWeights, Path]:
    """Return the committed training stage: its record and its directory."""
    directory = ctx.store.reading("runs", ctx.run, "train")
    return TrainedWeights.model_validate_json((directory / TRAINED).read_text()), directory


@contextmanager
def _watching(ctx: RunContext) -> Generator[None]:
    """Show the run's status on the terminal while the driver waits, and once whatever the workers note beside it."""
    stop = threading.Event()
    told = ""

    def show() -> None:
        nonlocal told
        try:
            status = read_status(ctx.store, ctx.run)
        except StoreError:
            if ctx.store.is_local:
                raise
            return  # far away, and perhaps back the next time
        if status is None:
            return
        if status.why not in ("", told):
            told = status.why
            ctx.progress.say(f"train: {told}")
        ctx.progress.update(status)

    def watch() -> None:
        while not stop.wait(LOOK_EVERY_S if ctx.store.is_local else LOOK_REMOTE_EVERY_S):
            show()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        show()
        ctx.progress.close()


def cause_of(error: BaseException, run: str) -> BaseException:
    """Return our own error where Ray wrapped one, or what ended the training in its words."""
    last = innermost(error)
    if isinstance(last, HoneError):
        return last
    reason = (str(last).strip().splitlines() or [""])[0][:300]
    go_on = f"go on with: hone resume {run} (with --debug for the traceback)"
    return RunFailed(f"training failed: {type(last).__name__}: {reason}", go_on)


def innermost(error: BaseException) -> BaseException:
    """Return our own error out of the wrappers that Ray put around it, or else the last one wrapped."""
    seen: list[BaseException] = [error]
    for wrapper in seen:
        if isinstance(wrapper, HoneError):
            return wrapper
        failures = getattr(wrapper, "worker_failures", None) or {}
        inner = [*failures.values(), *(getattr(wrapper, name, None) for name in INNER)]
        seen += [e for e in inner if isinstance(e, BaseException) and not any(e is s for s in seen)]
    return seen[-1]
