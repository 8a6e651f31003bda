"""A parent's job and the material of a child → the child's job: the same training, more rows, and a gate to earn.

The child begins at the parent's base, not at its weights: what was learned wrongly is not learned on. Its tests are
``old``, every row that the parent was tested on, and ``new``, what users said and nobody trains on. It must not lose on
the old, and must win on the new against the champion, which the evaluation asks for the same rows. The parent's own
rules hold on ``old``. Training rows close to a test row are dropped by the audit (``leakage_exact``, ``leakage_near``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cluster.errors import UsageError
from cluster.gate_text import CHAMPION, Named, named_in, reworded
from cluster.jobfile import load_job
from cluster.located_yaml import CoreDumper
from serving.material import MATERIAL
from serving.parent import GROUP, LABEL, TRAIN, VALIDATION

if TYPE_CHECKING:
    from cluster.retrain_spec import RetrainSpec
    from cluster.spec import JobSpec
    from cluster.store import Store
    from serving.parent import Parent

OLD, NEW = "old", "new"
PREFERRED = ("accuracy", "rouge_l", "chrf", "loss")
LOWER_IS_BETTER = frozenset({"loss", "perplexity"})
FIXED = ("leakage_exact", "leakage_near")
JUDGED_BY_OTHERS = frozenset({"boilerplate", "class_rare", "label_suspect", "language_mixed", "length_outlier"})
"""Fixes that drop a row for what other rows are: with new rows among them they would drop some of the frozen tests."""


def child_job(
    parent: Parent, spec: RetrainSpec, endpoint: str, material: str, store: Store, overrides: Sequence[str] = ()
) -> JobSpec:
    """Return the child's resolved job, with KEY=VALUE ``overrides``. Raises JobFileError for what cannot be."""
    settings = {key: value for key, value in parent.release.job.items() if key not in ("sweep", "serve")}
    settings = {key: value for key, value in settings.items() if value is not None}
    settings["name"] = parent.version.partition("@")[0]
    settings["data"] = _data(parent, material, store)
    settings["gate"] = gate_of(parent, spec)
    settings["evaluate"] = _evaluate(parent)
    settings["parent"] = {"run": parent.release.run, "release": parent.version, "endpoint": endpoint}
    with store.scratch() as scratch:
        file = scratch / "child.yaml"
        file.write_text(yaml.dump(settings, Dumper=CoreDumper, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return load_job(file, overrides)


def stored_job(store: Store, *parts: str) -> JobSpec:
    """Return a job that was written down in the store, wherever that is."""
    with store.scratch() as scratch:
        file = scratch / "child.yaml"
        file.write_text(store.get_text(*parts), encoding="utf-8")
        return load_job(file)


def gate_of(parent: Parent, spec: RetrainSpec) -> list[str]:
    """Return the child's rules. Raises UsageError where the parent was not scored by the metric that compares."""
    metric = metric_of(parent, spec.metric)
    lost, worse, better = ("-", ">=", ">") if metric not in LOWER_IS_BETTER else ("+", "<=", "<")
    rules = [f"{OLD}.{metric} {worse} champion {lost} {spec.margin:g}", f"{NEW}.{metric} {better} champion"]
    own: Any = parent.release.job.get("gate") or []
    return [*rules, *carried(own, parent.tests, parent.renamed)]


def carried(rules: Sequence[str], tests: Collection[str], columns: Mapping[str, str]) -> list[str]:
    """Return a parent's rules as they hold on ``old``; those that compared it with its own parent are made anew.

    ``tests`` are the parent's, all of which are ``old`` now; ``columns`` are its names of those that are named anew.
    """

    def renamed(named: Named) -> Named:
        column = named.column
        argument = named.argument if column is None else columns.get(column, column)
        is_of_ours = named.is_on_tests and (named.test is None or named.test in tests)
        return replace(named, test=OLD if is_of_ours else named.test, argument=argument)

    found: list[str] = []
    for rule in rules:
        before = named_in(rule)
        asked = {one.test for one in before if one.is_on_tests}
        is_made_anew = NEW in asked or (OLD in asked and any(one.name == CHAMPION for one in before))
        rule_now = reworded(rule, renamed)
        after = [str(one) for one in named_in(rule_now)]
        if not is_made_anew and len(set(after)) == len(after):  # two tests that were compared are one now
            found.append(rule_now)
    return list(dict.fromkeys(found))


def metric_of(parent: Parent, asked: str) -> str:
    """Return the metric that compares child and champion."""
    scored = _scored(parent)
    if asked != "auto" and asked in scored:
        return asked
    if asked == "auto" and (fitting := [name for name in PREFERRED if name in scored]):
        return fitting[0]
    raise UsageError(
        f"{parent.version} was not scored by {asked if asked != 'auto' else ' or '.join(PREFERRED)}",
        f"Set retrain.metric to one of {', '.join(scored) or 'its metrics'} in the serve file.",
    )


def _scored(parent: Parent) -> list[str]:
    """Return the metrics that the parent has on its tests."""
    scores = parent.release.metrics.get("test", {})
    found = [name for name, value in scores.items() if not isinstance(value, dict)]
    found += [name for value in scores.values() if isinstance(value, dict) for name in value]
    return list(dict.fromkeys(found))


def _evaluate(parent: Parent) -> dict[str, Any]:
    """Return the parent's evaluation block, over the columns' names in the material."""
    before: Any = parent.release.job.get("evaluate") or {}
    slices = [parent.renamed.get(column, column) for column in before.get("slices") or []]
    return before | ({"slices": list(dict.fromkeys(slices))} if slices else {})


def _data(parent: Parent, material: str, store: Store) -> dict[str, Any]:
    """Return the child's data block: the parent's, over the files of the material."""
    before: Any = parent.release.job["data"]
    there = set(store.list(MATERIAL, material))

    def files(*names: str) -> list[str]:
        return [store.path(MATERIAL, material, name) for name in (f"{one}.jsonl" for one in names) if name in there]

    audit = dict(before["audit"])
    fixes = [code for code in audit["fix"] if code not in JUDGED_BY_OTHERS]
    audit["fix"] = list(dict.fromkeys([*fixes, *FIXED]))
    tests = {OLD: files("old_test"), NEW: files("new_test")}
    validation = files(f"old_{VALIDATION}", f"new_{VALIDATION}")
    split = dict(before["split"]) | ({} if validation else {"validation": 0.0})
    kept = {key: value for key, value in before.items() if key in ("template", "loss_on", "mix") and value is not None}
    return kept | {
        "train": files(f"old_{TRAIN}", f"new_{TRAIN}"),
        "validation": validation,
        "test": {name: paths for name, paths in tests.items() if paths},
        "format": "messages",
        "columns": {"label": LABEL, "group": GROUP},
        "split": split,
        "audit": audit,
    }


def job_path(endpoint: str, run: str) -> Path:
    """Return where a child's job lies below the home."""
    return Path("retraining", endpoint, f"{run}.yaml")
