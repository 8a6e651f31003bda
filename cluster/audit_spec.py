"""The ``data.audit:`` block of the job file: what the audit lets pass, mends, and calls too much.

Thresholds have one place and a bound each, so that a finding can name the number it was measured against. What the
findings mean and how they are found is in ``trainers.audit``.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cluster.blocks import Block, did_you_mean, refusal
from cluster.records import FINDING_CODES

UNFIXABLE = frozenset({"class_imbalance", "format_mixed", "low_diversity", "small"})
"""Findings about the data as a whole: there is no row to mend or drop."""


class AuditSpec(Block):
    """What the audit of the data lets pass, mends, and calls too much."""

    allow: list[str] = Field(
        default_factory=list,
        description='Finding codes that are only warned about; "*" is all of them.',
        json_schema_extra={"items": {"type": "string", "enum": ["*", *sorted(FINDING_CODES)]}},
    )
    fix: list[str] = Field(
        default_factory=list,
        description="Finding codes whose rows are mended or dropped, and recorded.",
        json_schema_extra={"items": {"type": "string", "enum": [*sorted(FINDING_CODES - UNFIXABLE)]}},
    )
    near_similarity: float = Field(
        default=0.8, gt=0, le=1, description="Jaccard similarity from which two rows are near-duplicates, above 0 to 1."
    )
    imbalance_ratio: float = Field(
        default=20.0, gt=1, description="Rows of the largest class per row of the smallest that is too many, above 1."
    )
    rare_rows: int = Field(default=10, ge=1, description="Classes with fewer rows than this are rare, at least 1.")
    outlier_factor: float = Field(
        default=3.0,
        gt=0,
        description="Interquartile ranges (of the lengths' logarithm) above the upper quartile: an outlier; above 0.",
    )
    suspect_neighbours: int = Field(
        default=10, ge=2, description="Nearest rows whose labels a label is compared with, at least 2."
    )
    min_diversity: float = Field(
        default=0.05, ge=0, le=1, description="Distinct share of the answers' word trigrams that is too low, 0 to 1."
    )
    language_frac: float = Field(
        default=0.02, ge=0, le=1, description="Share of rows in other languages that is called mixed, 0 to 1."
    )
    synthetic_frac: float = Field(
        default=0.5, ge=0, le=1, description="Share of synthetic rows that dominates the data, 0 to 1."
    )
    small_rows: int = Field(default=200, ge=0, description="Fewer training rows than this are called small; 0: never.")
    sample_rows: int = Field(
        default=20_000, ge=100, description="Rows that expensive checks look at, at most; at least 100."
    )

    @model_validator(mode="after")
    def _codes_exist(self) -> Self:
        fixable = FINDING_CODES - UNFIXABLE
        for key, codes, known in (("allow", self.allow, FINDING_CODES | {"*"}), ("fix", self.fix, fixable)):
            for code in codes:
                if code not in known:
                    what = f"{code!r} is no finding code{did_you_mean(code, known)}"
                    if code in UNFIXABLE:
                        what = f"{code!r} is about the data as a whole, and no row can be mended"
                    raise refusal([key], what, f"Use some of {', '.join(sorted(known))}.")
        return self
