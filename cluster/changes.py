"""What a run that goes on may change of its job: where it runs, and how much its search may use while it searches."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.errors import UsageError
from cluster.run_context import SEARCHED
from cluster.runs import RUNS
from cluster.store import Store

BUDGET = ("sweep.trials=", "sweep.max_hours=", "sweep.max_cost=")
MAY_DIFFER = ("cluster.", *BUDGET)


def refuse_changes(store: Store, run: str, overrides: Sequence[str]) -> None:
    """Raise UsageError for an override that would change what a run trains, or a search that is over already."""
    if odd := [text for text in overrides if not text.startswith(MAY_DIFFER)]:
        raise UsageError(
            f"--set {odd[0]} would change what is trained", "only keys of cluster: and a sweep's budget may differ"
        )
    late = [text for text in overrides if text.startswith(BUDGET)]
    if late and store.exists(RUNS, run, SEARCHED):
        what = f"--set {late[0]} comes too late: the search of {run} is over, and what follows would not heed it"
        raise UsageError(what, f"hone resume {run}; or search anew: hone sweep")
