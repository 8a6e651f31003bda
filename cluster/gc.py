"""What is in the store and who needs it → what `hone gc` removes, through the store alone.

Looking costs a listing of every run; nothing is removed without being asked to. Where the registry or an endpoint's
document cannot be read nobody knows what is needed, so the command fails and removes nothing. A removed run's MLflow
runs go to MLflow's bin, from where they can be taken back; versions are never touched.

Left out: clearing away on another machine what it keeps of remote artifacts; each machine looks after its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.durable import discard, storage_errors
from cluster.errors import StoreError
from cluster.registry import Registry
from cluster.retention import Cleaning, Kind, Leaving, Thing, leaving
from cluster.runs import ENDED, RUNS, list_runs
from cluster.store import Store

if TYPE_CHECKING:
    from cluster.profile_spec import RetentionSpec
    from cluster.session import Settings

ENDPOINTS = "endpoints"
BY_HASH: dict[Kind, str] = {"data": "data", "input": "inputs", "base": "bases"}
"""Where things lie under their hash: prepared data sets, uploaded data files, uploaded base models."""
RESUMABLE = ("checkpoints", "trials", "finals")
"""What a run is gone on with, and nothing else is made from."""
REFERRING = ("job.yaml", "data.json", "winner.yaml", "winner.json")
DAY_S = 86_400.0


@dataclass
class Needs:
    """Who needs what: the texts in which things are named, and the runs that something holds."""

    runs: dict[str, str] = field(default_factory=dict[str, str])
    texts: list[str] = field(default_factory=list[str])

    def needing(self, words: Iterable[str], who: str) -> str:
        """Return ``who`` where one of the texts names one of these words."""
        return who if any(word in text for word in words for text in self.texts) else ""


def clean(settings: Settings, retention: RetentionSpec, now_s: float, *, remove: bool) -> Cleaning:
    """Find what may go, and with ``remove`` remove it. Raises StoreError where what is needed cannot be known."""
    store, registry = Store(settings.home), Registry(settings)
    going, kept = _found(store, registry, retention, now_s)
    if remove:
        for item in going:
            _remove(store, registry, item)
    return Cleaning(removed=remove, bytes=sum(item.bytes for item in going), items=going, kept=kept)


def _found(
    store: Store, registry: Registry, retention: RetentionSpec, now_s: float
) -> tuple[list[Leaving], dict[str, int]]:
    needs = _needs(store, registry)
    runs = _runs(store, needs, now_s)
    going, kept = leaving(runs, retention)
    gone = {item.name for item in going}
    staying = [thing.name for thing in runs if thing.name not in gone]
    needs.texts += [text for run in staying for text in _references(store, run)]
    others = [
        *_checkpoints(store, staying, needs, now_s),
        *(thing for kind in BY_HASH for thing in _kept_by_hash(store, kind, needs, now_s)),
        *_scratch(store, now_s),
    ]
    more, reasons = leaving(others, retention)
    for reason, number in reasons.items():
        kept[reason] = kept.get(reason, 0) + number
    return going + more, kept


def _needs(store: Store, registry: Registry) -> Needs:
    """Return which runs are needed, and the documents of the endpoints."""
    needs = Needs()
    statuses = list_runs(store)
    needs.texts = [store.get_text(ENDPOINTS, name) for name in store.list(ENDPOINTS) if name.endswith(".json")]
    for version in registry.list_versions():
        needs.texts.append(version.release)
        needs.runs[version.run] = "runs with a version"
    for status in statuses:
        if status.state not in ENDED:
            needs.runs[status.run] = "runs that go on"
        elif needs.needing([f"{RUNS}/{status.run}/"], "x"):
            needs.runs.setdefault(status.run, "runs that an endpoint serves")
    bases = {text for status in statuses for text in _references(store, status.run, ("job.yaml",))}
    for status in statuses:
        if any(f"{RUNS}/{status.run}/" in text for text in bases):
            needs.runs.setdefault(status.run, "runs whose release is a base")
    return needs


def _runs(store: Store, needs: Needs, now_s: float) -> list[Thing]:
    return [_thing(store, "run", status.run, (RUNS, status.run), now_s, needs.runs.get(status.run, ""))
            for status in list_runs(store)]  # fmt: skip


def _checkpoints(store: Store, staying: Sequence[str], needs: Needs, now_s: float) -> list[Thing]:
    """Return what staying runs could be gone on with; a run that goes on needs it."""
    found: list[Thing] = []
    for run in staying:
        held = needs.runs.get(run, "")
        needed = "checkpoints of runs that go on" if held == "runs that go on" else ""
        there = store.list(RUNS, run)
        age_days = _age_days(store, (RUNS, run), now_s)
        for part in RESUMABLE:
            if part in there:
                size, _ = store.stored(RUNS, run, part)
                found.append(Thing("checkpoints", f"{run}/{part}", size, age_days, needed))
    return found


def _kept_by_hash(store: Store, kind: Kind, needs: Needs, now_s: float) -> list[Thing]:
    """Return what lies in the store under its hash; whoever needs it names the hash."""
    place, who = BY_HASH[kind], f"{kind}: a kept run or release needs it"
    return [_thing(store, kind, name, (place, name), now_s, needs.needing([name], who)) for name in store.list(place)]


def _scratch(store: Store, now_s: float) -> list[Thing]:
    """Return what killed processes of this machine left unfinished, and its copies of remote artifacts."""
    aside, cache = store.scratch_places
    kinds: list[tuple[Kind, Path]] = [("leftover", aside)]
    if not store.is_local:
        kinds.append(("cache", cache))
    found: list[Thing] = []
    for kind, folder in kinds:
        for path in sorted(folder.glob("[!.]*")):
            files = [one.lstat() for one in path.rglob("*") if not one.is_dir()]
            newest_s = max((about.st_mtime for about in files), default=path.lstat().st_mtime)
            size = sum(about.st_size for about in files)
            found.append(Thing(kind, path.name, size, (now_s - newest_s) / DAY_S))
    return found


def _references(store: Store, run: str, parts: Sequence[str] = REFERRING) -> list[str]:
    """Return the texts in which a run names what it was made from."""
    found = [store.get_text(RUNS, run, part) for part in parts if store.exists(RUNS, run, part)]
    if parts is REFERRING and store.is_committed(RUNS, run, "release"):
        with suppress(StoreError):
            found.append(store.get_text(RUNS, run, "release", "release.json"))
    return found


def _thing(store: Store, kind: Kind, name: str, parts: tuple[str, ...], now_s: float, needed: str) -> Thing:
    size, written_s = store.stored(*parts)
    return Thing(kind, name, size, (now_s - written_s) / DAY_S, needed)


def _age_days(store: Store, parts: tuple[str, ...], now_s: float) -> float:
    return (now_s - store.stored(*parts)[1]) / DAY_S


def _remove(store: Store, registry: Registry, item: Leaving) -> None:
    if item.kind == "run":
        store.remove(RUNS, item.name)
        registry.delete_run(item.name)
    elif item.kind == "checkpoints":
        store.remove(RUNS, *item.name.split("/"))
    elif item.kind in BY_HASH:
        store.remove(BY_HASH[item.kind], item.name)
    else:
        folder = store.scratch_places[0 if item.kind == "leftover" else 1]
        with storage_errors(str(folder)):
            discard(folder / item.name, folder)
