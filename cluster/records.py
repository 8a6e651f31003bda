"""What each stage leaves behind and prints as JSON: the contracts between stages, and with whoever calls us.

Stages never hand each other live objects; they hand over these records and the directories they name. Field names
and words are fixed (see tests/contracts): another program reads them. Metrics are floats in 0..1 under snake_case
names, except ``loss`` and ``perplexity``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from cluster.acceptance_records import Acceptance, SliceTable
from cluster.record_base import Interval as Interval
from cluster.record_base import Metrics as Metrics
from cluster.record_base import Record as Record

Severity = Literal["error", "warning", "note"]
GateDecision = Literal["accept", "hold", "reject"]
RunState = Literal["waiting", "running", "stopping", "finished", "failed", "stopped"]

# fmt: off
FINDING_CODES: frozenset[str] = frozenset(
    (
        "duplicate_exact", "duplicate_near", "leakage_exact", "leakage_near", "conflicting_answers",
        "target_missing", "turn_empty", "roles_broken", "format_mixed", "encoding_damaged", "control_characters",
        "boilerplate", "pii", "class_imbalance", "class_rare", "length_outlier", "truncated", "target_truncated",
        "label_suspect", "low_diversity", "language_mixed", "small",
    )
)
# fmt: on


class Finding(Record):
    """One kind of fault in the data: how often, the first places, and what to do about it."""

    code: str
    severity: Severity
    count: int = Field(description="rows that would have to go")
    rows: list[str] = Field(default_factory=list, description="the first places, as FILE:LINE")
    remedy: str = ""
    detail: str = Field(default="", description="what was seen, with its values")


class Fixed(Record):
    """What one fix asked for in ``data.audit.fix`` did."""

    mended: int = Field(default=0, description="rows whose text was changed in place")
    dropped: int = 0
    rows: list[str] = Field(default_factory=list, description="the first places, as FILE:LINE")


class SplitCount(Record):
    """How large one split is, in rows and tokens."""

    rows: int
    tokens: int
    target_tokens: int


class Plan(Record):
    """What a run will do, need and cost, decided before any worker starts."""

    workers: int
    min_workers: int | None = Field(default=None, description="fewest that it goes on with, where a range was asked")
    gpus_per_worker: float
    cpus_per_worker: float
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    zero_stage: int
    steps: int = Field(description="optimizer steps")
    steps_per_epoch: int
    micro_batch_tokens: int = Field(description="padded tokens that one worker holds in one forward pass")
    micro_batches: int = Field(description="forward passes per worker and step, at the longest rows")
    scores_aside: bool = Field(
        default=False, description="whether generated validation metrics are made beside the training workers"
    )
    parameters: int
    trainable_parameters: int
    memory_bytes: dict[str, int] = Field(description="predicted peak per worker, by part")
    available_bytes: int = Field(description="memory that one worker has")
    formula: str = Field(default="", description="where the memory prediction comes from")
    hours: float | None = None
    hours_source: str = Field(default="", description="the rate behind `hours`, measured or stated")
    cost_usd: float | None = None
    advice: list[str] = Field(default_factory=list, description="what would make it cheaper")


class CheckReport(Record):
    """What `hone check` prints: is the data fit, how large is it, what will the run do."""

    ok: bool
    findings: list[Finding]
    splits: dict[str, SplitCount]
    plan: Plan | None
    fixed: dict[str, Fixed] = Field(default_factory=dict, description="what each fix did, where it did anything")

    def as_json(self) -> str:
        """Return the report as a line of JSON; ``fixed`` only where fixes were asked for."""
        return self.model_dump_json(exclude=None if self.fixed else {"fixed"})


class Throughput(Record):
    """The training loop's rate, without start-up and evaluation."""

    examples_per_s: float
    target_tokens_per_s: float


class RuleOutcome(Record):
    """One gate rule with the numbers it compared; ``passed`` is None where a number was missing."""

    rule: str
    left: float | None
    right: float | None
    passed: bool | None
    note: str = ""


class GateReport(Record):
    """The gate's decision and every rule behind it."""

    decision: GateDecision
    rules: list[RuleOutcome]


class TrainResult(Record):
    """What `hone train` prints at its end."""

    run: str
    release: str
    version: str | None
    steps: int
    examples: int
    metrics: dict[str, Metrics | dict[str, Metrics]]
    intervals: dict[str, Interval | dict[str, Interval] | dict[str, dict[str, Interval]]]
    throughput: Throughput
    gate: GateReport
    acceptance: Acceptance | None = Field(
        default=None, description="slices, robustness, general ability, memorisation, where the job asks for them"
    )

    def as_json(self) -> str:
        """Return the result as a line of JSON, without what the job did not ask for."""
        return self.model_dump_json(exclude=self._absent())

    def _absent(self) -> set[str]:
        return {"acceptance"} if self.acceptance is None else set()


class BestTrial(Record):
    """The winner of a sweep: what it set, and the validation value of the weights that were released."""

    params: dict[str, JsonValue]
    value: float


class SweepResult(TrainResult):
    """What `hone sweep` prints at its end: the winner as `hone train` does, and the search behind it."""

    study: str
    trials: int
    pruned: int
    failed: int = Field(description="trials that diverged or failed twice")
    best: BestTrial
    comparison: str = Field(
        default="", description="whether the winner can be told from the job's own values, in words"
    )
    lead: Interval | None = Field(
        default=None,
        description="how much better the winner is than the job's own values, over the same seeds; null: not known",
    )
    pareto: list[dict[str, JsonValue]] | None = Field(
        default=None,
        description="under a tradeoff the front, cheapest first: params, value, and latency_s, cost_worker_s or "
        "cost_usd",
    )

    def _absent(self) -> set[str]:
        return super()._absent() | ({"pareto"} if self.pareto is None else set())


class RunStatus(Record):
    """Where a run stands."""

    run: str
    stage: str
    state: RunState
    why: str = ""
    step: int = 0
    steps: int = 0
    metrics: Metrics = Field(default_factory=dict)
    eta_s: float | None = None


class EvalReport(Record):
    """One model's scores on one set of held-out rows."""

    model: str = Field(description="directory or id that was scored")
    split: str
    rows: int
    metrics: Metrics
    intervals: dict[str, Interval]
    few_shot: int = 0
    predictions: str = Field(default="", description="Parquet file of per-example predictions and scores")
    slices: dict[str, SliceTable] = Field(default_factory=dict, description="by column, where slices were asked for")

    def as_json(self) -> str:
        """Return the report as a line of JSON; ``slices`` only where they were asked for."""
        return self.model_dump_json(exclude=None if self.slices else {"slices"})


class TrainedWeights(Record):
    """What the training stage leaves: steps done, the best evaluation, and the loop's own rate."""

    steps: int
    examples: int
    target_tokens: int
    seconds: float = Field(description="time in training steps, without evaluation and saving")
    evaluation_s: float = Field(description="time in evaluations")
    saving_s: float = Field(description="time in which the loop waited for checkpoints and best weights")
    best_step: int
    best_value: float
    validation: Metrics
    stopped_early: bool
    throughput: Throughput
    device: str
    device_name: str = Field(description="the device's model, as far as it says")
    world_size: int
    zero_stage: int


class Release(Record):
    """`release.json`: what a served model is made of."""

    name: str
    run: str
    method: Literal["full", "lora", "qlora"]
    base: str
    base_hash: str
    data_hash: str
    job: dict[str, object]
    versions: dict[str, str] = Field(description="library versions at training time")
    metrics: dict[str, Metrics | dict[str, Metrics]] = Field(default_factory=dict)
    intervals: dict[str, Interval | dict[str, Interval] | dict[str, dict[str, Interval]]] = Field(default_factory=dict)
    reload_max_abs_diff: float | None = Field(default=None, description="largest logit difference after reloading")
    merged_from: str = Field(default="", description="the adapter release that this full model was merged from")
