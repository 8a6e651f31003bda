"""Trials → how much each key mattered, by PED-ANOVA (Watanabe et al. 2023, arXiv 2304.10255).

Judged by the values at the first rung, which nearly all trials reached: among trials that finished, most bad values are
missing. PED-ANOVA asks which keys tell the best trials from the others, so a single diverged trial does not drown the
rest, as it would in an analysis of variances.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any

from cluster.sweep_spec import Choice, Dimension, Range
from tuning.space import packed
from tuning.study import quiet_optuna
from tuning.trials import TrialRecord

MIN_TRIALS = 4
Curve = Sequence[tuple[float, float]]


def importances(
    trials: Sequence[TrialRecord], values: Mapping[int, float], space: Mapping[str, Dimension], mode: str
) -> dict[str, float]:
    """Return the share of each key that all trials set, the largest first; empty where too few trials say nothing.

    A key that had the same value in all of them has decided nothing (PED-ANOVA would count how far its range reaches).
    ``values`` holds what to judge a trial by, under its number; trials without one are left out.
    """
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    quiet_optuna()
    keys = [key for key in space if all(key in trial.values for trial in trials) and _varies(key, trials)]
    if len(values) < MIN_TRIALS or len(keys) < 2:
        return {}
    study = optuna.create_study(direction="minimize" if mode == "min" else "maximize")
    distributions = {key: _distribution(space[key]) for key in keys}
    for trial in trials:
        if trial.number in values:
            params = {key: packed(trial.values[key]) for key in keys}
            known = optuna.trial.create_trial(params=params, distributions=distributions, value=values[trial.number])
            study.add_trial(known)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    return {key: value for key, value in found.items() if isfinite(value)}


def _varies(key: str, trials: Sequence[TrialRecord]) -> bool:
    return len({packed(trial.values[key]) for trial in trials}) > 1


def early_value(curve: Curve, first_rung: float, last: float | None) -> float | None:
    """Return what a curve had reached at a share of its budget; its trial's ``last`` value where it did not."""
    return next((value for at, value in curve if at >= first_rung - 1e-9), last)


def _distribution(found: Dimension) -> Any:
    import optuna

    if isinstance(found, Choice):
        return optuna.distributions.CategoricalDistribution([packed(option) for option in found.options])
    if isinstance(found, Range):
        return optuna.distributions.FloatDistribution(found.low, found.high, log=found.log)
    return optuna.distributions.IntDistribution(found.low, found.high)
