"""What every stage of a run is handed: the run's id and job, and where its artifacts and messages go.

The documents that lie in a run's directory beside the stages' artifacts have their names here: whoever hands a context
on and whoever reads through one agree on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from cluster.jobfile import stored_job
from cluster.records import CheckReport, Plan
from cluster.runs import RUNS

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.registry import Registry
    from cluster.session import Settings
    from cluster.spec import JobSpec
    from cluster.store import Store

DATA_JSON = "data.json"
SEARCHED, FINALS_JSON = "search.json", "finals.json"
WINNER, WINNER_DATA = "winner.yaml", "winner.json"


@dataclass(frozen=True)
class RunContext:
    """What every stage is handed: the run, its job, and where its artifacts and messages go.

    ``document`` names what the data stage left for this job.
    """

    run: str
    job: JobSpec
    settings: Settings
    store: Store
    registry: Registry
    progress: Progress
    document: str = DATA_JSON

    def data(self) -> dict[str, Any]:
        """Return what the data stage left: the check report, the prepared set's key and the data's hash."""
        return self.store.get_json(RUNS, self.run, self.document)

    def check(self) -> CheckReport:
        """Return the audit, split sizes and plan of this run."""
        return CheckReport.model_validate(self.data()["check"])

    def plan(self) -> Plan:
        """Return what was decided before any worker started."""
        plan = self.check().plan
        assert plan is not None, "a run without a plan never passes its data stage"
        return plan

    def prepared_path(self) -> str:
        """Return the directory of the prepared data set (verified) on this node."""
        return str(self.store.reading("data", self.data()["prepared"]))

    def prepared_place(self) -> str:
        """Return where every node opens the prepared data set: a directory that all see, or a URL."""
        return self.store.path("data", self.data()["prepared"])


def as_trained(ctx: RunContext) -> RunContext:
    """Return the context of the stages after a sweep, whose job and data are the winner's; any other one as it is."""
    if not (ctx.store.exists(RUNS, ctx.run, WINNER) and ctx.store.is_committed(RUNS, ctx.run, "train")):
        return ctx
    return replace(ctx, job=stored_job(ctx.store, RUNS, ctx.run, WINNER), document=WINNER_DATA)
