"""The finals around their trainings: what is trained, what a session that goes on trains again, and how they end."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import RunFailed, RunStopped
from cluster.progress import Progress
from cluster.run_context import RunContext
from cluster.runs import clear_stop, request_stop
from cluster.session import Settings
from cluster.store import Store
from tests.finished_runs import history, trained
from tests.finished_sweeps import job, trial
from tests.unit.test_trials import RUN, Untracked, arena
from tuning import finals
from tuning.contest import Verdict
from tuning.trials import FINALS, State, TrialRecord, keep_trial, read_trials

SEARCHED = [trial(0, 0.9), trial(9, 0.6)]
NAMES = ["finals/0-seed-1", "finals/0-seed-2", "finals/9-seed-1", "finals/9-seed-2"]
Drive = Callable[..., None]


class Finals:
    """Runs the finals of trials 0 (the job's own values) and 9 with what Tune would do in its place."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self._patch = home, monkeypatch
        settings = Settings.from_env({"HONE_HOME": str(home)}, home)
        self.store = Store(str(home))
        self.ctx = RunContext(RUN, job(finalists=2), settings, self.store, Untracked(), Progress(io.StringIO()))  # pyright: ignore
        self.trained: list[str] = []

    def run(self, ends: Mapping[str, State], also: Callable[[], None] = lambda: None) -> Any:
        """Train what the finals ask for; each ends as ``ends`` says by its name, or completes."""

        def drive(_driver: object, listed: finals.Listed, _judge: object, most: int) -> None:
            for number in range(most):
                given = listed.suggest(str(number))
                self.trained.append(given["name"])
                state = ends.get(given["name"], "complete")
                if state != "interrupted":
                    keep_trial(self.store, RUN, final(given["name"], state))
            also()

        self._patch.setattr(finals, "drive", drive)
        return finals.contested(self.ctx, arena(str(self.home)), SEARCHED, [SEARCHED[1], SEARCHED[0]])


def final(name: str, state: State) -> TrialRecord:
    number, seed = (int(part) for part in name.removeprefix("finals/").split("-seed-"))
    record = trial(number, 0.5 + number / 100 + seed / 1000 if state == "complete" else None, state, seed)
    assert record.name == name
    return record.model_copy(update={"trained": trained(history()) if state == "complete" else None, "why": "it died"})


@pytest.fixture
def again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Finals:
    return Finals(tmp_path, monkeypatch)


def test_every_finalist_is_trained_with_every_seed_and_the_best_mean_wins(again: Finals) -> None:
    winner, verdict, runs = again.run({})
    assert sorted(again.trained) == NAMES
    assert (winner.name, len(runs)) == ("finals/0-seed-1", 4)
    assert isinstance(verdict, Verdict)
    assert verdict.winner == 0


def test_finals_that_failed_are_trained_again_at_a_resume_and_the_others_are_not(again: Finals) -> None:
    with pytest.raises(RunFailed, match="it died") as raised:
        again.run({"finals/0-seed-2": "failed", "finals/9-seed-1": "failed"})
    assert f"hone resume {RUN}" in raised.value.remedy
    again.store.put_text("{}", "runs", RUN, "finals/9-seed-1/outcome.json")
    again.trained.clear()
    winner, _, runs = again.run({})
    assert sorted(again.trained) == ["finals/0-seed-2", "finals/9-seed-1"]
    assert not again.store.exists("runs", RUN, "finals/9-seed-1/outcome.json"), "it would be reported once more"
    assert (winner.number, [record.state for record in runs]) == (0, ["complete"] * 4)


def test_finals_that_diverged_would_diverge_again(again: Finals) -> None:
    with pytest.raises(RunFailed):
        again.run({"finals/0-seed-2": "diverged", "finals/9-seed-1": "diverged"})
    again.trained.clear()
    with pytest.raises(RunFailed, match="no finalist could be trained again"):
        again.run({})
    assert again.trained == []


def test_finals_that_were_interrupted_go_on_and_no_other_is_trained_twice(again: Finals) -> None:
    with pytest.raises(RunStopped) as raised:
        again.run(dict.fromkeys(NAMES[2:], "interrupted"), also=lambda: request_stop(again.store, RUN))
    assert f"hone resume {RUN}" in raised.value.remedy
    assert [record.name for record in read_trials(again.store, RUN, FINALS)] == NAMES[:2]
    clear_stop(again.store, RUN)
    again.trained.clear()
    _, _, runs = again.run({})
    assert sorted(again.trained) == NAMES[2:]
    assert [record.name for record in runs] == NAMES
