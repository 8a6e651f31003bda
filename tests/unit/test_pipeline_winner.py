"""After a sweep's training is committed the run's job is the winner's, and before that the sweep's."""

from __future__ import annotations

import io
from pathlib import Path

from cluster.jobfile import dump_job
from cluster.pipeline import SWEEP, TRAINING
from cluster.progress import Progress
from cluster.registry import Registry
from cluster.run_context import DATA_JSON, WINNER, WINNER_DATA, RunContext, as_trained
from cluster.runs import RUNS
from cluster.session import Settings
from cluster.store import Store
from tests.finished_sweeps import job
from tuning.space import trial_job

RUN = "router-20260101-000000-abcd"


def test_the_later_stages_see_the_winners_job_and_data(tmp_path: Path) -> None:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    store = Store(str(tmp_path))
    ctx = RunContext(RUN, job(), settings, store, Registry(settings), Progress(io.StringIO()))
    winner = trial_job(job(), {"train.batch_size": 32}, seed=2).model_copy(update={"base": str(tmp_path)})
    store.put_text(dump_job(winner), RUNS, RUN, WINNER)
    store.put_json({"prepared": "sweep's"}, RUNS, RUN, DATA_JSON)
    store.put_json({"prepared": "winner's"}, RUNS, RUN, WINNER_DATA)
    assert as_trained(ctx) is ctx, "killed before the weights were committed: the finals go on"
    with store.writing(RUNS, RUN, "train") as directory:
        (directory / "weights").touch()
    later = as_trained(ctx)
    assert (later.job.sweep, later.job.train.batch_size, later.job.train.seed) == (None, 32, 2)
    assert (ctx.data()["prepared"], later.data()["prepared"]) == ("sweep's", "winner's")


def test_a_training_keeps_its_own_job(tmp_path: Path) -> None:
    settings = Settings.from_env({"HONE_HOME": str(tmp_path)}, tmp_path)
    plain = job().model_copy(update={"sweep": None})
    store = Store(str(tmp_path))
    ctx = RunContext(RUN, plain, settings, store, Registry(settings), Progress(io.StringIO()))
    with store.writing(RUNS, RUN, "train") as directory:
        (directory / "weights").touch()
    assert as_trained(ctx) is ctx


def test_a_sweep_goes_a_trainings_way_from_its_weights_on() -> None:
    assert [stage.leaves for stage in SWEEP[:2]] == ["search.json", "train"]
    assert SWEEP[2:-1] == TRAINING[1:]
