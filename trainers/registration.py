"""The last stage: a released run → MLflow, and a model version where the gate accepted.

Metrics over steps, final scores and the report files go to the run that was opened for this job; the version carries
the lineage (data, base, run). The run's result is written last, as what `hone train` prints.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cluster.records import GateReport, Release, TrainResult
from trainers.evaluation import read_acceptance
from trainers.look_numbers import Number, numbers_of
from trainers.recorder import read_history
from trainers.train import trained_weights

if TYPE_CHECKING:
    from cluster.run_context import RunContext


def run(ctx: RunContext) -> None:
    """Log the run, register an accepted release, and leave ``runs/RUN/result.json``."""
    trained, weights_dir = trained_weights(ctx)
    gate = GateReport.model_validate(ctx.store.get_json("runs", ctx.run, "gate.json"))
    release_dir, place = ctx.store.reading("runs", ctx.run, "release"), ctx.store.path("runs", ctx.run, "release")
    release = Release.model_validate_json((release_dir / "release.json").read_text())
    if "mlflow" in ctx.job.tracking:
        ctx.registry.log_history(ctx.run, read_history(weights_dir))
    found = read_acceptance(ctx)
    ctx.registry.log_metrics(ctx.run, flat_metrics(release) | flat_looks(numbers_of(found, "tuned")))
    ctx.registry.log_artifact(ctx.run, release_dir / "README.md")
    ctx.registry.log_artifact(ctx.run, release_dir / "release.json")
    version = None
    if gate.decision == "accept":
        lineage = {"data_hash": release.data_hash, "base": release.base, "base_hash": release.base_hash}
        if (parent := ctx.job.parent) is not None:
            lineage |= {"parent_run": parent.run, "parent_release": parent.release}
        version = ctx.registry.register(ctx.job.name, place, ctx.run, lineage)
    result = TrainResult(
        run=ctx.run,
        release=place,
        version=version,
        steps=trained.steps,
        examples=trained.examples,
        metrics=release.metrics,
        intervals=release.intervals,
        throughput=trained.throughput,
        gate=gate,
        acceptance=None if found.is_empty else found,
    )
    ctx.store.put_json(result.model_dump(mode="json"), "runs", ctx.run, "result.json")


def flat_metrics(release: Release) -> dict[str, float]:
    """Return final scores under names as ``test.accuracy`` or, for named tests, ``test.NAME.accuracy``."""
    flat: dict[str, float] = {}
    for role, scores in release.metrics.items():
        for name, value in scores.items():
            if isinstance(value, dict):
                flat |= {f"{role}.{name}.{metric}": number for metric, number in value.items()}
            else:
                flat[f"{role}.{name}"] = value
    return flat


def flat_looks(numbers: Iterable[Number]) -> dict[str, float]:
    """Return what looks came to, under names as final scores have; the release's own numbers have no test's name."""

    def named(number: Number) -> str:
        where = {"": [], "test": ["test"]}.get(number.test, ["test", number.test])
        return ".".join([*where, number.name])

    return {named(number): number.value for number in numbers if number.value is not None}
