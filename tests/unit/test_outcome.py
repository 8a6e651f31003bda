"""What a finished sweep says of its winner, in the words that the terminal, the JSON result and the page share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.pipeline import result_of
from cluster.records import SweepResult
from cluster.store import Store
from cluster.tables import result_lines
from tests.contracts.test_records import TRAIN
from tests.finished_sweeps import job, trial
from tuning.contest import Verdict
from tuning.finals import told
from tuning.trials import TrialRecord

RUN = "router-20260101-000000-abcd"
SEARCHED = [trial(0, 0.9), trial(9, 0.6)]
LED = Verdict(9, 0.02, (0.3, 0.2, 0.4))
UNKNOWN = "Trial 9 won; whether it beats the job's own values is not known."


def finals(*states: str) -> list[TrialRecord]:
    """Trainings of trials 9 and 0 with seeds 1 and 2; those of 0 end as ``states`` say."""
    own = [trial(0, 0.8 if state == "complete" else None, state, seed) for seed, state in enumerate(states, 1)]  # pyright: ignore
    return [*(trial(9, 0.5 + seed / 100, seed=seed) for seed in (1, 2)), *own]


def said(verdict: Verdict | None, runs: list[TrialRecord], searched: list[TrialRecord] = SEARCHED, **sweep: Any) -> str:
    winner = next((record for record in runs if record.number == 9), searched[-1])
    return told(job(**sweep), winner, verdict, runs, searched)["result"]["comparison"]


def test_a_lead_is_told_with_its_interval() -> None:
    found = said(LED, finals("complete", "complete"))
    assert found.startswith("Trial 9 won and beats the job's own values. It leads by 0.3 loss")


def test_own_values_that_diverged_in_the_search_are_why_there_is_no_lead() -> None:
    found = said(Verdict(9, None, None), finals(), [trial(0, None, "diverged"), SEARCHED[1]])
    assert found == f"{UNKNOWN} In the search the job's own values diverged: the loss became nan at step 3 of 600."


def test_own_values_of_which_a_final_failed_are_why_there_is_no_lead() -> None:
    runs = finals("complete", "failed")
    runs[-1] = runs[-1].model_copy(update={"why": "its process died"})
    assert said(Verdict(9, None, None), runs) == (
        f"{UNKNOWN} Trained again with seed 2 the job's own values failed: its process died."
    )


@pytest.mark.parametrize(
    ("sweep", "runs", "key"),
    [({"finalists": 1}, [], "sweep.finalists"), ({"seeds": 1}, [trial(9, 0.5, seed=1)], "sweep.seeds")],
)
def test_one_seed_is_why_there_is_no_lead_and_the_key_that_gives_more_is_named(
    sweep: dict[str, Any], runs: list[TrialRecord], key: str
) -> None:
    found = said(Verdict(9, None, None) if runs else None, runs, **sweep)
    assert found.startswith(f"{UNKNOWN} Every set of values was trained with one seed")
    assert found.endswith(f"raise {key}.")


def test_the_result_and_the_terminal_tell_the_winner_that_is_released_and_how_it_compares(tmp_path: Path) -> None:
    store, runs = Store(str(tmp_path)), finals("complete", "complete")
    searched = {
        "study": RUN,
        "trials": 2,
        "pruned": 0,
        "failed": 0,
        "best": {"params": {"train.epochs": 7}, "value": 9.0},
    }
    store.put_text(TRAIN, "runs", RUN, "result.json")
    store.put_json(searched, "runs", RUN, "search.json")
    store.put_json(told(job(), runs[0], LED, runs, SEARCHED), "runs", RUN, "finals.json")
    result = result_of(store, RUN)
    assert isinstance(result, SweepResult)
    assert (result.best.value, result.best.params["train.learning_rate"]) == (0.51, 1e-3), "not the search's"
    assert result.lead is not None
    assert (result.lead.value, result.lead.low, result.lead.high) == (0.3, 0.2, 0.4)
    lines = "\n".join(result_lines(result, "report.html", "mlflow ui"))
    assert "winner 0.5100: train.learning_rate=0.001" in lines
    assert "Trial 9 won and beats the job's own values. It leads by 0.3 loss" in lines
