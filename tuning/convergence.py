"""Whether a search could be judged to have converged at all → a warning before it begins, a sentence after its end.

Optuna's terminator counts trials that ran to their end. Successive halving lets few of them do so, and then it never
speaks: a user who asked for it is told, since silence would read as "not converged".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState

from cluster import fitting
from tuning.study import CONVERGED_AFTER, counted

if TYPE_CHECKING:
    import optuna

    from cluster.spec import SweepSpec


def warning(sweep: SweepSpec, trials: int) -> str:
    """Return why ``until_converged`` cannot end a search of so many trials; empty where it may."""
    if not sweep.until_converged or trials > CONVERGED_AFTER:
        return ""
    return (
        f"sweep.until_converged cannot end this search: convergence is judged after {CONVERGED_AFTER} trials that ran "
        f"to their end, and it has {trials}{_pruned(sweep)}; raise sweep.trials"
    )


def unjudged(sweep: SweepSpec, study: optuna.Study) -> str:
    """Return why the convergence of a search that is over is unknown; empty where it was judged or not asked for.

    A trial that diverged counts as one that ran to its end: the study knows its value.
    """
    whole = sum(trial.state == TrialState.COMPLETE for trial in counted(study))
    if not sweep.until_converged or whole >= CONVERGED_AFTER:
        return ""
    ran = f"{fitting.counted(whole, 'trial')} ran to their end, and it takes {CONVERGED_AFTER}{_pruned(sweep)}"
    return f"whether it had converged could not be judged: {ran}"


def _pruned(sweep: SweepSpec) -> str:
    return "" if sweep.prune == "none" else " (pruned ones do not count)"
