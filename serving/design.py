"""What an experiment fixes before its first unit: arms, what counts as an outcome, bounds and error budgets.

Every statement of a verdict holds because these were chosen without the data. They come from the `experiment:` block;
the budgets are constants of the method, so that two experiments' verdicts mean the same:

- effect: `alpha` 0.05 over all challengers (Bonferroni), of which the exact test has a tenth and the interval the rest.
  A challenger is promoted, or rolled back for its outcomes, by mistake with at most this probability, however often
  it is looked at.
- guardrails: 0.05 over all arms and bounds (Bonferroni), one-sided, not shared with the effect.
- sample ratio: 0.01 (a false alarm throws an experiment away), halved where units without an outcome are left out,
  since then there are two checks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cluster.serve_spec import ExperimentSpec, GuardrailSpec

HOUR_S = 3600.0


@dataclass(frozen=True)
class Design:
    """The declared side of an experiment; see the module for the budgets."""

    experiment: str
    arms: tuple[str, ...]
    control: str
    outcome: str = "success"
    horizon_s: float = 24 * HOUR_S
    missing: Literal["exclude", "zero"] = "exclude"
    guardrails: GuardrailSpec = field(default_factory=GuardrailSpec)
    alpha: float = 0.05
    exact_share: float = 0.1
    guardrail_alpha: float = 0.05
    ratio_alpha: float = 0.01
    tightest_at: float = 50.0
    """V*, the variance time at which the interval is narrowest for its evidence: 1,250 units split evenly with an
    outcome variance of 0.16 (a rate of 0.2). At a tenth of it the interval is a quarter wider than one made for that
    time, at ten times 7 %, at a hundred 17 %. Outcomes on another scale than 0..1 are judged as validly, later."""
    least_of_each: int = 10
    """Units of each binary value that every arm needs before the interval, which is asymptotic, may decide."""

    def __post_init__(self) -> None:
        assert self.control in self.arms, f"the control {self.control!r} is no arm of {self.arms}"
        assert len(set(self.arms)) == len(self.arms) >= 2, f"{self.arms} are not two or more different arms"

    @property
    def challengers(self) -> tuple[str, ...]:
        """The arms that want the control's place, in their order."""
        return tuple(arm for arm in self.arms if arm != self.control)

    @property
    def interval_alpha(self) -> float:
        """Error budget of one challenger's interval, both sides together."""
        return (1 - self.exact_share) * self.alpha / len(self.challengers)

    @property
    def exact_alpha(self) -> float:
        """Error budget of one challenger's exact test on one side."""
        return self.exact_share * self.alpha / len(self.challengers) / 2

    @property
    def ratio_check_alpha(self) -> float:
        """Error budget of one sample-ratio check."""
        return self.ratio_alpha / (2 if self.missing == "exclude" else 1)

    @property
    def bound_alpha(self) -> float:
        """Error budget of one bound on one arm."""
        bounds = sum(bound is not None for bound in self.guardrails.model_dump().values())
        return self.guardrail_alpha / (max(1, bounds) * len(self.arms))


def design_of(experiment: ExperimentSpec, arms: Sequence[str]) -> Design:
    """Return the design of an experiment between arms."""
    return Design(
        experiment=experiment.name,
        arms=tuple(arms),
        control=experiment.control,
        outcome=experiment.outcome,
        horizon_s=experiment.horizon_h * HOUR_S,
        missing=experiment.missing,
        guardrails=experiment.guardrails,
    )
