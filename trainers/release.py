"""A checked model directory, its scores and its gate → a release: servable, self-describing, with a model card.

A release is written whenever training finished, accepted or not; only an accepted one becomes a version.
``release.json`` holds what a server or an auditor needs (job, hashes, versions, scores), README.md says the same to
people, and ``sketch.npz`` is what live prompts are compared with.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.records import GateReport, Metrics, Release
from cluster.uploads import hash_of_base
from trainers.card import model_card
from trainers.evaluation import read_acceptance, read_scored
from trainers.look_numbers import numbers_of
from trainers.prepared import Prepared
from trainers.sketching import release_sketch
from trainers.train import trained_weights

if TYPE_CHECKING:
    from cluster.run_context import RunContext

LIBRARIES = ("torch", "transformers", "peft", "deepspeed", "ray", "datasets", "tokenizers")


def run(ctx: RunContext) -> None:
    """Commit ``runs/RUN/release`` and drop the exported model that it was made from."""
    model = ctx.store.reading("runs", ctx.run, "model")
    gate = GateReport.model_validate(ctx.store.get_json("runs", ctx.run, "gate.json"))
    record = describe(ctx, json.loads((model / "reload.json").read_text())["max_abs_logit_difference"])
    with ctx.store.writing("runs", ctx.run, "release") as directory:
        for file in sorted(path for path in model.rglob("*") if path.is_file()):
            if file.name not in ("manifest.json", "reload.json"):
                _link(file, directory / file.relative_to(model))
        (directory / "release.json").write_text(record.model_dump_json(indent=2))
        release_sketch(ctx, model, time.time()).save(directory)
        template, looks = Prepared(Path(ctx.prepared_path())).record.template, numbers_of(read_acceptance(ctx), "tuned")
        card = model_card(record, ctx.check(), gate, template, looks)
        (directory / "README.md").write_text(card, encoding="utf-8")
    ctx.store.remove("runs", ctx.run, "model")


def describe(ctx: RunContext, reload_difference: float) -> Release:
    """Return what release.json says."""
    metrics, intervals = reported_scores(ctx)
    return Release(
        name=ctx.job.name,
        run=ctx.run,
        method=ctx.job.train.method,
        base=ctx.job.base,
        base_hash=hash_of_base(ctx.job.base),
        data_hash=ctx.data()["data_hash"],
        job=ctx.job.model_dump(mode="json"),
        versions={name: version(name) for name in LIBRARIES},
        metrics=metrics,
        intervals=intervals,
        reload_max_abs_diff=reload_difference,
    )


def reported_scores(ctx: RunContext) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metrics and intervals in the shape of the contract: by split and role, by name only for named tests."""
    scored = read_scored(ctx)
    trained, _ = trained_weights(ctx)
    metrics: dict[str, Metrics | dict[str, Metrics]] = {
        "validation": trained.validation,
        "test": {},
        "base": {},
    }
    return metrics | _by_role(scored.metrics, scored.slices), _by_role(scored.intervals, scored.slices)


def _by_role(found: Mapping[str, Mapping[str, Any]], slices: Collection[str]) -> dict[str, Any]:
    """Return a role's values by test, and those of its slices as ``ROLE_slices``; the tuned model's role is "test".

    A single unnamed test stands for itself, several stand under their names.
    """
    shown: dict[str, Any] = {}
    for role, tests in found.items():
        named = "test" if role == "tuned" else role
        judged = {test: value for test, value in tests.items() if test not in slices}
        shown[named] = judged["test"] if list(judged) == ["test"] else judged
        if apart := {test: value for test, value in tests.items() if test in slices}:
            shown[f"{named}_slices"] = apart
    return shown


def _link(source: Path, target: Path) -> None:
    """Give a file a second name where the file system can, a copy where it cannot."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
