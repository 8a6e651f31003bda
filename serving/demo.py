"""The end of `hone demo`: base and tuned model as two arms, held-out rows as users, a verdict, a promotion.

All of it by the doors that a stranger uses: a serve specification, HTTP, the ledger, the experiment's verdict. Every
row of the test set is one user who comes once; what an arm gets right decides, as it would with people.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from cluster.ports import LOOPBACK, free_port
from cluster.serve_spec import ArmSpec, ExperimentSpec, ServeSpec
from cluster.session import Settings, ray_session
from serving.deploy import Options, bring_up, take_down
from serving.proxy import PROXY_ENV
from serving.replay import User, replay
from serving.results import LATE_S, verdict_on
from serving.traffic import promoted
from serving.verdict_table import verdict_lines

if TYPE_CHECKING:
    from cluster.progress import Progress

ENDPOINT, BASE, TUNED = "demo", "base", "tuned"
HORIZON_S = 5.0
TEST_ROWS = Path("rows", "test.parquet")


def serve_and_decide(base: str, version: str, prepared: Path, settings: Settings, progress: Progress) -> list[str]:
    """Put a version and its base before the rows that were held out, and promote what wins; return what to tell.

    ``prepared`` is the data set's directory, ``version`` NAME@N.
    """
    users = users_of(prepared)
    experiment = version.replace("@", "-v")
    port = free_port()
    progress.say(f"serve: {version} against its base, half of the users each")
    with ray_session(worker_env=PROXY_ENV):
        bring_up(_spec(base, version, experiment), settings, Options(port=port), progress)
        try:
            replayed = replay(f"http://{LOOPBACK}:{port}", users, max_tokens=16, prefix=f"user-{time.time_ns()}")
            time.sleep(HORIZON_S + 2 * LATE_S)
            verdict, endpoint = verdict_on(experiment, settings, time.time())
            moved: list[str] = []
            if verdict.decision == "promote":
                moved = promoted(endpoint, verdict.arm, verdict.reason, settings).lines()
        finally:
            take_down(ENDPOINT)
    told = ["", f"experiment {experiment}", *replayed.lines(), "", *verdict_lines(verdict), *moved]
    return [*told, "", f"next: hone serve {version}"]


def users_of(prepared: Path) -> list[User]:
    """Return the rows of the test set as users: the turns before the answer, and every right answer."""
    rows: list[dict[str, Any]] = pq.read_table(prepared / TEST_ROWS, columns=["messages", "references"]).to_pylist()
    asked = [(json.loads(row["messages"]), row["references"] or []) for row in rows]
    return [User(turns[:-1], [turns[-1]["content"], *others]) for turns, others in asked]


def _spec(base: str, version: str, experiment: str) -> ServeSpec:
    arms = {BASE: ArmSpec(release=f"base:{base}", weight=50), TUNED: ArmSpec(release=version, weight=50)}
    return ServeSpec(
        endpoint=ENDPOINT,
        arms=arms,
        experiment=ExperimentSpec(name=experiment, control=BASE, horizon_h=HORIZON_S / 3600),
    )
