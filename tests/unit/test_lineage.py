"""A release leads back to its data and forward to what it did and what was made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import UsageError
from cluster.registry import Registry
from serving.lineage import lineage
from tests.parents import RUN, correction, exposure, world

CHILD = "router-20260302-120000-beef"


def test_a_release_is_followed_from_its_data_to_its_child(tmp_path: Path) -> None:
    made = world(tmp_path)
    registry = Registry(made.settings)
    base = "name: router\nbase: /base\ndata: {train: [/d/tickets.jsonl]}\n"
    made.store.put_text(base, "runs", RUN, "job.yaml")
    child = f"{base}parent: {{run: {RUN}, release: router@1, endpoint: support}}\n"
    made.store.put_text(child, "runs", CHILD, "job.yaml")
    searched = {"study": "s", "trials": 4, "best": {"params": {"train.epochs": 2}, "value": 0.7}}
    made.store.put_json(searched, "runs", RUN, "search.json")
    won = {"best": {"params": {"train.epochs": 3}, "value": 0.6}}
    made.store.put_json({"result": won}, "runs", RUN, "finals.json")
    for run in (RUN, CHILD):
        result = {"release": made.store.path("runs", run, "release"), "gate": {"decision": "accept"}}
        made.store.put_json(result, "runs", run, "result.json")
        registry.start_run(run, {}, data_hash="d" * 64, sources=["/d/tickets.jsonl"])
        registry.register("router", result["release"], run, {})
    before = made.endpoint
    second = before.arms["first"].model_copy(update={"version": "router@2"})
    made.change(**before.after({"first": second}, "serve", 50.0).model_dump())
    made.write([*correction("a", "q", "x", "u"), exposure("b", "q", "u"), exposure("c", "q", "u", epoch=2),
                exposure("d", "q", "u", epoch=2, experiment="router-v2")])  # fmt: skip
    found = lineage("router@1", made.settings)
    assert (found.run, found.version, found.aliases, found.gate) == (RUN, "router@1", ["champion"], "accept")
    assert found.data is not None
    assert (found.data.hash, found.data.sources) == ("d" * 64, ["/d/tickets.jsonl"])
    assert found.trial is not None
    assert found.trial.params == {"train.epochs": 3}, "the winner of the finals, not of the search"
    counts = [(row.arm, row.experiment, row.exposures, row.outcomes, row.corrections) for row in found.served]
    assert counts == [("first", None, 2, 1, 1)], "by what the arm served then"
    (grown,) = found.children
    assert (grown.run, grown.parent_run, grown.parent_release) == (CHILD, RUN, "router@1")
    assert sorted((row.experiment or "", row.exposures) for row in grown.served) == [("", 1), ("router-v2", 1)]
    text = "\n".join(found.lines())
    for word in ("data dddddddddddd", "trial: the best of 4", "2 exposures → 1 outcomes → 1 corrections", "child"):
        assert word in text
    assert lineage(RUN, made.settings) == found == lineage(made.store.path("runs", RUN, "release"), made.settings)
    assert lineage("router@2", made.settings) == grown


def test_what_is_no_release_and_no_run_is_refused(tmp_path: Path) -> None:
    made = world(tmp_path)
    for name in ("router-20260301-120000-0000", "nothing@3", str(tmp_path)):
        with pytest.raises(UsageError):
            lineage(name, made.settings)
