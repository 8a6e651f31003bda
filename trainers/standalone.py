"""The training loop without Ray: under plain ``python`` on one rank, under ``torchrun`` on several.

    python -m trainers.standalone job.yaml --out DIR
    torchrun --nproc-per-node 2 -m trainers.standalone job.yaml --out DIR

For debugging, profiling and machines without Ray: the same data stage, plan and loop as `hone train`, which leave the
best weights (``best-N``), ``trained.json`` and ``history.jsonl`` in DIR. Started again with the same DIR they go on
from the newest checkpoint there. Left out: scoring against the base, gate and registry.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch.distributed as dist

from cluster.errors import BudgetSpent, HoneError
from cluster.jobfile import load_job
from cluster.progress import Progress
from cluster.records import Plan
from cluster.session import Settings
from cluster.store import Store
from trainers.curve_tracking import curve_trackers
from trainers.loop import Silent, run_loop
from trainers.planning import refuse_best_by
from trainers.prepare import ready
from trainers.prepared import Prepared
from trainers.ranks import Ranks, world
from trainers.recorder import Recorder
from trainers.train_worker import loop_inputs, max_seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a job on the ranks that torchrun started, or alone; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainers.standalone")
    parser.add_argument("job", type=Path, help="the job file")
    parser.add_argument("--out", type=Path, required=True, help="directory for weights and checkpoints")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a key of the job")
    asked = parser.parse_args(arguments)
    try:
        with world() as ranks:
            train_alone(asked.job, asked.out, asked.set, ranks)
    except HoneError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(error, file=sys.stderr)
        return error.exit_code
    return 0


def train_alone(job_file: Path, out: Path, overrides: Sequence[str], ranks: Ranks) -> None:
    """Prepare and plan on rank 0, train on all, and write what was done beside the weights."""
    settings, progress = Settings.here(), Progress(sys.stderr)
    job = load_job(job_file, [*overrides, f"cluster.workers={ranks.world_size}"])
    shared: list[object] = [None]
    if ranks.rank == 0:
        try:
            out.mkdir(parents=True, exist_ok=True)
            done = ready(job, settings, progress)
            prepared = Prepared(Store(settings.home).reading("data", done.prepared))
            assert done.report.plan is not None, "a job that is ready has a plan"
            refuse_best_by(job, prepared, done.report.plan.model_copy(update={"scores_aside": False}))
            shared = [(done.prepared, done.report.plan)]
        except (HoneError, OSError) as error:
            shared = [error]
    dist.broadcast_object_list(shared)
    if isinstance(shared[0], BaseException):
        raise shared[0]
    key, plan = _received(shared[0])
    inputs = loop_inputs(job, plan, Prepared(Store(settings.home).reading("data", key)), out)
    if ranks.rank > 0:
        run_loop(inputs, ranks, Silent())
        return
    trackers = curve_trackers(job.tracking, out, job.name, job.name)
    recorder = Recorder(job.name, out, progress.update, max_seconds=max_seconds(job, plan), trackers=trackers)
    trained = run_loop(inputs, ranks, recorder)
    recorder.close()
    if trained is None:
        raise BudgetSpent("stopped after a checkpoint: cluster.max_hours is used up", "the same command goes on")
    (out / "trained.json").write_text(trained.as_json())
    progress.say(f"best step {trained.best_step}, {trained.throughput.examples_per_s:.1f} examples/s; {out}")


def _received(shared: object) -> tuple[str, Plan]:
    assert isinstance(shared, tuple)
    key, plan = shared
    assert isinstance(key, str)
    assert isinstance(plan, Plan)
    return key, plan


if __name__ == "__main__":
    raise SystemExit(main())
