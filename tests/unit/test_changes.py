"""What a run that goes on may change of its job, and when it is too late."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.changes import refuse_changes
from cluster.errors import UsageError
from cluster.store import Store

RUN = "a-20260101-000000-abcd"


def test_where_it_runs_and_its_budget_may_differ_and_nothing_that_is_trained(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    refuse_changes(store, RUN, ["cluster.workers=2", "sweep.max_hours=3", "sweep.trials=4"])
    with pytest.raises(UsageError, match="would change what is trained"):
        refuse_changes(store, RUN, ["train.epochs=2"])


def test_a_budget_is_refused_once_the_search_is_over(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.put_json({"trials": 4}, "runs", RUN, "search.json")
    refuse_changes(store, RUN, ["cluster.workers=2"])
    for late in ("sweep.max_hours=3", "sweep.max_cost=10", "sweep.trials=40"):
        with pytest.raises(UsageError, match="is over") as raised:
            refuse_changes(store, RUN, [late])
        assert late in raised.value.what
