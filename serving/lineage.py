"""A release or run → where it comes from and what became of it: data, job, trial, release, arms, outcomes, children.

    data HASH → job → trial → release → arm → exposures → outcomes → child …

Nothing is kept for this: the store knows runs and their jobs, the registry versions, an endpoint's history which arm
served what while which epoch was in force, and the ledger how many requests each arm answered then. Children are the
runs whose job names this one as its parent.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field

from cluster.errors import UsageError
from cluster.records import Record
from cluster.registry import Registry
from cluster.run_context import FINALS_JSON, SEARCHED
from cluster.runs import RUNS, find_run, reconciled_status, run_ids
from cluster.store import Store
from serving import endpoint as endpoints
from serving.ledger import Ledger, Tally

if TYPE_CHECKING:
    from cluster.session import Settings
    from serving.endpoint import Endpoint

WINNER, DATA, RESULT, JOB = "winner.yaml", "data.json", "result.json", "job.yaml"


class Data(Record):
    """What a run was trained on."""

    hash: str
    sources: list[str]


class Trial(Record):
    """What a sweep chose."""

    study: str
    trials: int
    params: dict[str, Any]


class Served(Record):
    """What a release did as one arm of an endpoint, within one experiment or outside of any."""

    endpoint: str
    arm: str
    experiment: str | None
    exposures: int
    outcomes: int
    corrections: int


class Lineage(Record):
    """One run and its release, with what came before and after."""

    run: str
    state: str
    job: str = Field(description="the job's name")
    base: str
    data: Data | None
    parent_run: str | None = None
    parent_release: str | None = None
    trial: Trial | None = None
    release: str | None = None
    version: str | None = None
    aliases: list[str] = Field(default_factory=list)
    gate: str | None = None
    served: list[Served] = Field(default_factory=list[Served])
    children: list[Lineage] = Field(default_factory=list["Lineage"])

    def lines(self) -> list[str]:
        """Return it as a tree, the data first."""
        return _drawn(self, "")


def lineage(of: str, settings: Settings) -> Lineage:
    """Return the lineage of NAME@N, NAME@ALIAS, a release's directory or a run. Raises UsageError for what is none."""
    store, registry = Store(settings.home), Registry(settings)
    versions = {version.run: version for version in registry.list_versions()}
    run = _run_of(of, store, registry)
    jobs = {one: _job_of(store, one) for one in run_ids(store)}
    children: defaultdict[str, list[str]] = defaultdict(list)
    for one in reversed(list(jobs)):
        if parent := (jobs[one].get("parent") or {}).get("run"):
            children[parent].append(one)
    served = _served(store, settings)

    def told(one: str, seen: frozenset[str]) -> Lineage:
        version = versions.get(one)
        found = _of_run(store, one, jobs.get(one, {}))
        refs = {ref for ref in (version and version.ref, found.release) if ref}
        more = {
            "version": version.ref if version else None,
            "aliases": list(version.aliases) if version else [],
            "served": [row for ref in sorted(refs) for row in served.get(ref, [])],
            "children": [told(child, seen | {child}) for child in children[one] if child not in seen],
        }
        return found.model_copy(update=more)

    return told(run, frozenset({run}))


def _run_of(of: str, store: Store, registry: Registry) -> str:
    """Return the run behind a release or a run's id."""
    if "@" in of and "/" not in of:
        registry.release_of(of)  # says what there is, where there is no such version
        name, _, which = of.partition("@")
        for version in registry.list_versions(name):
            if version.ref == of or which in version.aliases:
                return find_run(store, version.run)
    about = Path(of) / "release.json"
    if about.is_file():
        run = str(json.loads(about.read_text(encoding="utf-8")).get("run", ""))
        if not run:
            raise UsageError(f"{of} is a release of no run", "Give NAME@N, or a run's id.")
        return find_run(store, run)
    return find_run(store, of)


def _job_of(store: Store, run: str) -> dict[str, Any]:
    """Return a run's job as it was written; nothing where it has none."""
    name = next((one for one in (WINNER, JOB) if store.exists(RUNS, run, one)), None)
    found: Any = yaml.safe_load(store.get_text(RUNS, run, name)) if name else {}
    return found if isinstance(found, dict) else {}


def _of_run(store: Store, run: str, job: dict[str, Any]) -> Lineage:
    """Return what the store knows of one run."""

    def document(name: str) -> dict[str, Any]:
        return store.get_json(RUNS, run, name) if store.exists(RUNS, run, name) else {}

    data, result, searched = document(DATA), document(RESULT), document(SEARCHED)
    best = document(FINALS_JSON).get("result", searched).get("best")
    parent: dict[str, Any] = job.get("parent") or {}
    sources: Any = job.get("data", {})
    names = sources.get("train", []) if isinstance(sources, dict) else sources
    return Lineage(
        run=run,
        state=reconciled_status(store, run).state,
        job=str(job.get("name", "")),
        base=str(job.get("base", "")),
        data=Data(hash=str(data["data_hash"]), sources=[names] if isinstance(names, str) else list(names))
        if data
        else None,
        parent_run=parent.get("run"),
        parent_release=parent.get("release"),
        trial=Trial(study=searched["study"], trials=searched["trials"], params=best["params"]) if best else None,
        release=result.get("release"),
        gate=(result.get("gate") or {}).get("decision"),
    )


def _served(store: Store, settings: Settings) -> dict[str, list[Served]]:
    """Return release (NAME@N or directory) → what it did, by endpoint, arm and experiment."""
    found: dict[tuple[str, str, str, str | None], list[int]] = {}
    with closing(Ledger.open(settings)) as ledger:
        for name in endpoints.names(store):
            endpoint = endpoints.read(store, name)
            for arm, arm_of in endpoint.arms.items():
                found.setdefault((arm_of.version or arm_of.directory, name, arm, None), [0, 0, 0])
            for tally in ledger.tallies(name):
                key = (released(endpoint, tally), name, tally.arm, tally.experiment)
                sums = found.setdefault(key, [0, 0, 0])
                counts = (tally.exposures, tally.outcomes, tally.corrections)
                found[key] = [total + more for total, more in zip(sums, counts, strict=True)]
    rows: defaultdict[str, list[Served]] = defaultdict(list)
    answered = {key[:3] for key, sums in found.items() if sums[0]}
    for (release, name, arm, experiment), sums in found.items():
        if sums[0] or (release, name, arm) not in answered:
            exposures, outcomes, corrections = sums
            rows[release].append(
                Served(
                    endpoint=name,
                    arm=arm,
                    experiment=experiment,
                    exposures=exposures,
                    outcomes=outcomes,
                    corrections=corrections,
                )
            )
    return rows


def released(endpoint: Endpoint, tally: Tally) -> str:
    """Return what an arm served while an epoch was in force; "" where the history does not reach so far."""
    for change in reversed(endpoint.history):
        if change.epoch <= tally.epoch and change.releases:
            return change.releases.get(tally.arm, "")
    return ""


def _drawn(found: Lineage, indent: str) -> list[str]:
    """Return one run's lines, each step below the one it comes from."""
    steps: list[str] = []
    if found.data is not None:
        steps.append(f"data {found.data.hash[:12]} ({', '.join(Path(one).name for one in found.data.sources)})")
    parent = f", a child of {found.parent_release} ({found.parent_run})" if found.parent_run else ""
    steps.append(f"job {found.job}: {found.run}, {found.state}{parent}")
    if found.trial is not None:
        params = ", ".join(f"{key} {value}" for key, value in found.trial.params.items())
        steps.append(f"trial: the best of {found.trial.trials} ({params})")
    if found.release is not None:
        aliases = "".join(f" @{alias}" for alias in found.aliases)
        steps.append(f"release {found.version or 'without a version'}{aliases} (gate: {found.gate}) {found.release}")
    lines = [f"{indent}{'   ' * depth}{'└─ ' if depth else ''}{step}" for depth, step in enumerate(steps)]
    below = indent + "   " * len(steps)
    lines += [f"{below}└─ {_served_line(row)}" for row in found.served]
    for child in found.children:
        lines.append(f"{below}└─ child")
        lines += _drawn(child, below + "   ")
    return lines


def _served_line(row: Served) -> str:
    within = f" in {row.experiment}" if row.experiment else ""
    counts: Sequence[str] = (
        f"{row.exposures:,} exposures",
        f"{row.outcomes:,} outcomes",
        f"{row.corrections:,} corrections",
    )
    return f"arm {row.arm} of {row.endpoint}{within}: {' → '.join(counts)}"
