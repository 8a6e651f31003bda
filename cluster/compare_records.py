"""What `hone compare` and `hone review` print: models held against each other, and what people made of answers."""

from __future__ import annotations

from pydantic import Field

from cluster.record_base import Interval, Metrics, Record


class Compared(Record):
    """One model's scores."""

    model: str = Field(description="as it was named")
    path: str
    metrics: Metrics
    intervals: dict[str, Interval]


class Best(Record):
    """Which model does best by a metric, and whether the rows tell it apart from every other."""

    model: str
    clear: bool


class CompareReport(Record):
    """Several models on the same rows."""

    examples: int
    of: int = Field(description="examples that the sample was drawn from")
    models: list[Compared]
    differences: dict[str, dict[str, Interval]] = Field(description="each model less the first, over the same rows")
    level: float = Field(description="level of the differences' intervals: 95 % over all models together")
    best: dict[str, Best]
    notes: list[str] = Field(default_factory=list)


class ReviewSample(Record):
    """A sample of answers written for people to rate."""

    run: str
    test: str
    items: int
    of: int
    file: str
    config: str = Field(default="", description="Label Studio's labelling configuration")


class Agreement(Record):
    """How far raters agree beyond chance; None where there is nothing to compare."""

    items: int = Field(description="items that two or more rated")
    krippendorff_alpha: float | None = Field(default=None, description="interval scale")
    cohen_kappa: float | None = Field(default=None, description="two raters, quadratic weights")


class ReviewReport(Record):
    """What people said of a run's answers."""

    run: str
    items: int
    raters: int
    ratings: int
    mean_rating: Interval = Field(description="1 to 5, over items")
    rating: float = Field(description="the mean from 0 to 1")
    agreement: Agreement
    corrections: int
    rows: int = Field(description="rows written: corrected, or rated well enough")
    file: str = Field(description="the rows as JSONL, ready for a job")
