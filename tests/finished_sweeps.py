"""Finished sweeps made on the spot: trials of every kind, as the stages would have left them."""

from __future__ import annotations

from math import exp
from typing import Any

from cluster.spec import JobSpec
from tuning.judge import FULL
from tuning.report import FinishedSweep
from tuning.trials import State, TrialRecord

RATE, BATCH = "train.learning_rate", "train.batch_size"
SPACE = {
    "train.learning_rate": "loguniform(1e-5, 1e-2)",
    "train.batch_size": "choice(16, 32)",
    "train.lora.targets": ["all-linear", ["<b>q</b>"]],
    "train.lora.rank": "int(4, 64)",
}
TRADED = {"tradeoff": {"against": "latency", "give_up": 0.1}}


def job(**sweep: Any) -> JobSpec:
    block = {"space": SPACE, "trials": 12, **sweep}
    train = {"learning_rate": 1e-3, "batch_size": 16, "lora": {"rank": 8}}
    return JobSpec.model_validate({"name": "router", "base": "b", "data": "c", "train": train, "sweep": block})


def trial(number: int, value: float | None, state: State = "complete", seed: int = 0, **values: Any) -> TrialRecord:
    own = {
        "train.learning_rate": 1e-3,
        "train.batch_size": 16,
        "train.lora.targets": "all-linear",
        "train.lora.rank": 8,
    }
    return TrialRecord(
        name=f"trials/{number}" if seed == 0 else f"finals/{number}-seed-{seed}",
        number=number,
        values=own | values,
        seed=seed,
        state=state,
        value=value,
        step=600 if state == "complete" else 100,
        steps=600,
        progress=FULL if state == "complete" else 167,
        seconds=60.0,
        why="the loss became nan at step 3 of 600" if state == "diverged" else "",
    )


def trials() -> list[TrialRecord]:
    found = [trial(0, 0.9)]
    for number in range(1, 10):
        value = 1.5 - 0.1 * number
        state: State = "complete" if number in (7, 9) else "pruned"
        found.append(trial(number, value, state, **{RATE: 1e-5 * 2**number, BATCH: (16, 32)[number % 2]}))
    found.append(trial(10, None, "diverged", **{"train.learning_rate": 1e-2}))
    found.append(trial(11, None, "failed", **{"train.lora.targets": ["<b>q</b>"]}))
    return found


def traded_trials() -> list[TrialRecord]:
    """The same trials as if nobody had ended them: larger ranks are slower."""
    found: list[TrialRecord] = []
    for trial in trials():
        ran = trial.state in ("complete", "pruned")
        paid = {"latency_s": 0.001 + 0.0001 * trial.number} if ran else {}
        values = trial.values | {"train.lora.rank": 8 + trial.number}
        state: State = "complete" if ran else trial.state
        found.append(trial.model_copy(update={"state": state, "progress": FULL, "values": values, "against": paid}))
    return found


def finished_sweep(
    finals: dict[str, Any] | None = None,
    runs: list[TrialRecord] | None = None,
    told: list[TrialRecord] | None = None,
    **sweep: Any,
) -> FinishedSweep:
    told = told or trials()
    curves = {
        t.name: [(at / 6, (t.value or 3.0) + exp(-at)) for at in range(1, 7 if t.progress == FULL else 2)] for t in told
    }
    return FinishedSweep(
        job=job(**sweep),
        run="router-20260101-000000-abcd",
        searched={"best": {"value": 0.6}, "ended": "its trials were used up"},
        finals={"winner": 9, "own": 0, "lead": None, "no_lead": "", "half_width": None} | (finals or {}),
        trials=told,
        final_runs=runs or [],
        curves=curves,
    )
