"""What the looks at a release beyond its scores found: slices, robustness, general ability, memorisation.

One record holds them all; a look that the job did not ask for is left out of its JSON, and so is the whole record where
there was none. Values are in 0..1 but for losses, perplexities and their ratio; intervals are 95 %.
"""

from __future__ import annotations

from pydantic import Field

from cluster.record_base import Interval, Metrics, Record


class SliceScore(Record):
    """The examples with one value of a column; a slice that is too small has no scores."""

    examples: int
    decided: bool = Field(description="whether there are enough examples to score")
    metrics: Metrics = Field(default_factory=dict)
    intervals: dict[str, Interval] = Field(default_factory=dict)


class WorstSlice(Record):
    """The slice that does worst by a metric, among those that are large enough."""

    slice: str
    value: float


class SliceTable(Record):
    """One column's slices, largest first, and how far they are apart.

    ``worst`` and ``gap`` are empty where the slices that are large enough hold less than half of the examples; a gap
    needs two of them.
    """

    slices: dict[str, SliceScore]
    worst: dict[str, WorstSlice] = Field(default_factory=dict)
    gap: dict[str, Interval] = Field(default_factory=dict)
    undecided: int = Field(default=0, description="slices that are too small, also those not listed")
    undecided_examples: int = Field(default=0, description="examples in them")


class Perturbed(Record):
    """What one kind of change to the inputs did: scores on the sample before and after, and how much worse it is."""

    changed: int = Field(description="examples of the sample whose input the change altered")
    clean: Metrics
    metrics: Metrics
    drop: dict[str, Interval] = Field(description="above 0: worse on changed inputs, over the same examples")


class Robustness(Record):
    """Changed inputs and repeated sampling on a sample of one test."""

    examples: int
    kinds: dict[str, Perturbed] = Field(default_factory=dict)
    repeats: int = 0
    temperature: float = 0.0
    consistency: Interval | None = None


class General(Record):
    """Base against tuned on rows that have nothing to do with the task."""

    source: str = Field(description="where the rows come from")
    examples: int
    left_out: int = Field(default=0, description="rows that were also trained on, and are not scored")
    tuned: Metrics
    base: Metrics
    drop: dict[str, Interval] = Field(description="above 0: the tuned model is worse, over the same rows")
    perplexity_ratio: Interval | None = None


class Memorisation(Record):
    """How often a model recites an answer word for word from its beginning, trained on it or not."""

    prefix_tokens: int
    match_tokens: int
    trained: int = Field(description="training rows long enough to be tried")
    held_out: int = Field(description="held-out rows long enough to be tried")
    trained_rate: float | None = None
    held_out_rate: float | None = None
    memorised: Interval | None = Field(default=None, description="the difference of the two rates")
    why: str = Field(default="", description="why there is no number")


class Acceptance(Record):
    """Every look at a release that its job asked for."""

    slices: dict[str, dict[str, dict[str, SliceTable]]] = Field(
        default_factory=dict, description="by model (tuned, base, ..), test and column"
    )
    robustness: dict[str, Robustness] = Field(default_factory=dict, description="by test")
    general: General | None = None
    memorisation: Memorisation | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was looked at."""
        return not (self.slices or self.robustness or self.general or self.memorisation)
