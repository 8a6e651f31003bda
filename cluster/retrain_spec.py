"""The ``retrain:`` block of a serve file: how an endpoint's feedback becomes a child, and what the child must do.

Bounds are here because feedback comes from strangers: whatever one of them says, it is at most so many rows, and at
most such a share of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cluster.blocks import Block, Word


class RetrainSpec(Block):
    """How feedback becomes rows of a child job, and how the child meets traffic."""

    metric: Literal["auto"] | Word = Field(
        default="auto", description="The metric that compares child and champion; auto chooses by the task."
    )
    margin: float = Field(
        default=0.02, ge=0, description="How much the child may lose on the parent's tests, in the metric, at least 0."
    )
    holdout: float = Field(
        default=0.25, gt=0, lt=1, description="Share of the new rows that is never trained on, above 0 to below 1."
    )
    confirmed: bool = Field(
        default=False, description="Whether answers that users called right (outcome 1) become rows as well."
    )
    min_rows: int = Field(default=50, ge=2, description="Fewer new rows than this train no child, at least 2.")
    max_rows_per_unit: int = Field(default=20, ge=1, description="Most new rows of one unit, at least 1.")
    max_unit_frac: float = Field(
        default=0.1, gt=0, le=1, description="Largest share of the new rows that one unit may have, above 0 to 1."
    )
    weight: float = Field(
        default=10.0, gt=0, lt=100, description="Percent of the traffic that the child gets as challenger, 0 to 100."
    )
    horizon_h: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="The experiment's horizon_h, above 0; null: the last experiment's, or 24."
    )
    promote: Literal["manual", "auto"] | None = Field(
        default=None, description="The experiment's promote; null: the last experiment's, or manual."
    )
