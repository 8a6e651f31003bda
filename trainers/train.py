"""The training stage: a prepared data set and a plan → the best weights, through Ray Train workers.

``run`` wraps ``trainers.loop`` in a TorchTrainer: Ray Train places the workers and sets up the process group, the loop
does the rest. Workers write their shards straight to the run's directory; the stage is committed, manifest last, only
when every worker has returned. Rank 0 keeps the run's status up to date, which the driver (and ``hone status``) reads.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import HoneError, RunFailed
from cluster.records import Metrics, Plan, RunStatus, TrainedWeights
from cluster.runs import read_status, write_status
from cluster.spec import JobSpec
from cluster.store import Store
from trainers.loop import EvaluationRecord, LoopInputs, run_loop
from trainers.prepared import TRAIN, VALIDATION, Prepared
from trainers.worker import Ranks, Scorer, StepRecord

if TYPE_CHECKING:
    from cluster.pipeline import RunContext

STATUS_EVERY_S = 1.0
COLLECTIVE_TIMEOUT_S = 1800


@dataclass
class Recorder:
    """Rank 0's hooks: the curve of the run, and its status published at most once a second."""

    run: str
    publish: Callable[[RunStatus], None]
    max_seconds: float = inf
    began_s: float = field(default_factory=time.monotonic)
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    latest: Metrics = field(default_factory=dict)
    first_step_s: float = 0.0
    last_write_s: float = 0.0
    examples: int = 0
    target_tokens: int = 0
    step_seconds: float = 0.0

    def on_step(self, record: StepRecord) -> None:
        """Note a step and, now and then, publish where the run stands."""
        self.first_step_s = self.first_step_s or time.monotonic()
        self.examples += record.examples
        self.target_tokens += record.target_tokens
        self.step_seconds += record.seconds
        self.history.append(
            {
                "step": record.step,
                "loss": record.loss,
                "learning_rate": record.learning_rate,
                "grad_norm": record.grad_norm,
            }
        )
        self.latest |= {
            "loss": record.loss,
            "examples_per_s": self.examples / self.step_seconds,
            "target_tokens_per_s": self.target_tokens / self.step_seconds,
        }
        if record.step == record.steps or time.monotonic() - self.last_write_s >= STATUS_EVERY_S:
            self._show(record.step, record.steps)

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Note an evaluation."""
        scored = {f"validation_{name}": value for name, value in record.metrics.items()}
        self.history.append({"step": record.step, **scored})
        self.latest |= {"validation_loss": record.metrics["loss"]}

    def wants_stop(self) -> bool:
        """Whether the job's time is used up."""
        return time.monotonic() - self.began_s > self.max_seconds

    def _show(self, step: int, steps: int) -> None:
        self.last_write_s = now = time.monotonic()
        left_s = (now - self.first_step_s) / (step - 1) * (steps - step) if step > 1 else None
        status = RunStatus(
            run=self.run, stage="train", state="running", step=step, steps=steps, metrics=self.latest, eta_s=left_s
        )
        self.publish(status)


class Silent:
    """The hooks of every other rank."""

    def on_step(self, record: StepRecord) -> None:
        """Nothing."""

    def on_evaluation(self, record: EvaluationRecord) -> None:
        """Nothing."""

    def wants_stop(self) -> bool:
        """Never: rank 0 watches the clock."""
        return False


def run(ctx: RunContext) -> None:
    """Train on Ray Train workers and commit ``runs/RUN/train``: weight shards, ``trained.json``, ``history.json``.

    Raises the worker's own HoneError where there is one, RunFailed otherwise.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    plan = ctx.plan()
    resources: dict[str, float] = {"CPU": plan.cpus_per_worker}
    if plan.gpus_per_worker:
        resources["GPU"] = plan.gpus_per_worker
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "home": ctx.settings.home,
            "run": ctx.run,
            "job": ctx.job.model_dump(mode="json"),
            "plan": plan.model_dump(mode="json"),
            "prepared": ctx.prepared_path(),
        },
        torch_config=TorchConfig(backend="nccl" if plan.device == "cuda" else "gloo", timeout_s=COLLECTIVE_TIMEOUT_S),
        scaling_config=ScalingConfig(
            num_workers=plan.workers, use_gpu=plan.gpus_per_worker > 0, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name=ctx.run,
            storage_path=ctx.store.path("ray"),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=1),
        ),
    )
    ctx.progress.say(
        f"train: {plan.workers} worker{'s' * (plan.workers > 1)} on {plan.device}, ZeRO-{plan.zero_stage}, "
        f"{plan.steps} steps of {ctx.job.train.batch_size} examples"
    )
    with _watching(ctx):
        try:
            trainer.fit()
        except Exception as error:
            raise _cause(error) from error
    _commit(ctx)


def train_worker(config: dict[str, Any]) -> None:
    """One Ray Train worker: build the loop's inputs from the store, run it, leave this rank's files there."""
    import ray.train
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    job, plan = JobSpec.model_validate(config["job"]), Plan.model_validate(config["plan"])
    if ranks.device.type == "cpu":
        torch.set_num_threads(max(1, int(plan.cpus_per_worker)))
    store = Store(config["home"])
    parts = Path(store.path("runs", config["run"], "parts"))
    inputs = loop_inputs(job, plan, Prepared(Path(config["prepared"])), parts)
    recorder = None
    if ranks.rank == 0:
        recorder = Recorder(config["run"], partial(write_status, store), max_seconds(job, plan))
    trained = run_loop(inputs, ranks, recorder or Silent())
    if recorder is not None:
        (parts / "trained.json").write_text(trained.as_json())
        (parts / "history.json").write_text(json.dumps(recorder.history))


def loop_inputs(job: JobSpec, plan: Plan, prepared: Prepared, best_dir: Path) -> LoopInputs:
    """Return what the loop needs, from a job, its plan and a prepared data set on disk."""
    from trainers.tokens import TokenSet

    train_path, validation_path = prepared.tokens_path(TRAIN), prepared.tokens_path(VALIDATION)
    assert train_path is not None, "a prepared data set without training tokens"
    return LoopInputs(
        base=job.base,
        train=job.train,
        plan=plan,
        train_tokens=TokenSet.load(train_path),
        validation_tokens=TokenSet.load(validation_path) if validation_path else None,
        best_dir=best_dir,
        score=_scorer(job, prepared),
    )


def _scorer(job: JobSpec, prepared: Prepared) -> Scorer | None:
    if job.train.best_by in ("loss", "perplexity") or prepared.tokens_path(VALIDATION) is None:
        return None
    from trainers.validation_scores import validation_scorer

    return validation_scorer(job, prepared)


def max_seconds(job: JobSpec, plan: Plan) -> float:
    """Return how long the loop may take under the job's ``max_hours`` and ``max_cost``; infinity without bounds."""
    bounds = [inf if job.cluster.max_hours is None else job.cluster.max_hours]
    if job.cluster.max_cost is not None and job.cluster.price_per_gpu_hour and plan.gpus_per_worker:
        bounds.append(job.cluster.max_cost / (job.cluster.price_per_gpu_hour * plan.workers * plan.gpus_per_worker))
    return 3600 * min(bounds)


def _commit(ctx: RunContext) -> None:
    """Move what the workers wrote into the committed artifact."""
    parts = Path(ctx.store.path("runs", ctx.run, "parts"))
    with ctx.store.writing("runs", ctx.run, "train") as directory:
        for part in sorted(parts.iterdir()):
            part.rename(directory / part.name)
    parts.rmdir()


def trained_weights(ctx: RunContext) -> tuple[TrainedWeights, Path]:
    """Return the committed training stage: its record and its directory."""
    directory = ctx.store.reading("runs", ctx.run, "train")
    return TrainedWeights.model_validate_json((directory / "trained.json").read_text()), directory


@contextmanager
def _watching(ctx: RunContext) -> Generator[None]:
    """Show the run's status on the terminal while the driver waits in ``fit``."""
    stop = threading.Event()

    def show() -> None:
        status = read_status(ctx.store, ctx.run)
        if status is not None:
            ctx.progress.update(status)

    def watch() -> None:
        while not stop.wait(STATUS_EVERY_S):
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


def _cause(error: BaseException) -> BaseException:
    """Dig our own error out of the wrappers that Ray put around it."""
    seen: list[BaseException] = [error]
    for wrapper in seen:
        if isinstance(wrapper, HoneError):
            return wrapper
        failures = getattr(wrapper, "worker_failures", None) or {}
        inner = [*failures.values(), *(getattr(wrapper, name, None) for name in ("_base_exc", "cause", "__cause__"))]
        seen += [e for e in inner if isinstance(e, BaseException) and not any(e is s for s in seen)]
    last = seen[-1]
    reason = str(last).strip().splitlines()[-1][:500]
    return RunFailed(f"training failed: {type(last).__name__}: {reason}", "run again with --debug for the traceback")
