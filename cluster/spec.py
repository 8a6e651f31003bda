"""The job file as a frozen value: what to tune, on which data, with what, judged by what.

Three keys are required; every other default is written here (or in the block's own module) and nowhere else. Rules
between keys live here too, so a job that cannot work is refused before a worker starts. Each field carries its bound
and one sentence, from which the reference page and the JSON Schema are made (``cluster.schema``). Reading files, line
numbers and paths are left to ``cluster.jobfile``; whether data and base exist, to the stages that open them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self, cast

from pydantic import BeforeValidator, Field, model_validator

from cluster.audit_spec import AuditSpec
from cluster.blocks import WORD_PATTERN, Block, Name, SourceList, Sources, Text, Word, refusal
from cluster.evaluate_spec import EvaluateSpec
from cluster.layout_spec import COLUMNS, Columns, DataFormat, refuse_unknown_columns
from cluster.parent_spec import ParentSpec
from cluster.serve_spec import ServeSpec
from cluster.speed_spec import SpeedSpec
from cluster.sweep_spec import SweepSpec, refuse_impossible_space
from cluster.train_spec import EarlyStopping, LoraSpec, TrainSpec

__all__ = [
    "AuditSpec",
    "ClusterSpec",
    "DataSpec",
    "EarlyStopping",
    "EvaluateSpec",
    "JobSpec",
    "LoraSpec",
    "MinMax",
    "MixSource",
    "ServeSpec",
    "SplitSpec",
    "SweepSpec",
    "TrainSpec",
]

RESERVED_TESTS = frozenset({"base", "champion", "train", "validation"})
COMPARISON = re.compile(r"<=|>=|==|!=|<|>")


def _as_named_tests(value: object) -> object:
    if value is None:
        return {}
    return {"test": value} if isinstance(value, (str, list)) else value


def _as_list_or_none_at_all(value: object) -> object:
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _as_data_block(value: object) -> object:
    return {"train": value} if isinstance(value, (str, list)) else value


OptionalSources = Annotated[
    list[Text], BeforeValidator(_as_list_or_none_at_all, json_schema_input_type=Text | list[Text] | None)
]
TestSets = Annotated[
    dict[str, Sources],
    BeforeValidator(_as_named_tests, json_schema_input_type=Text | SourceList | dict[str, Text | SourceList] | None),
]


class SplitSpec(Block):
    """How rows without a split of their own are divided; a file the user gave for a split wins."""

    validation: float = Field(default=0.1, ge=0, lt=1, description="Share of rows for validation, 0 to below 1.")
    test: float = Field(default=0.1, ge=0, lt=1, description="Share of rows for the test, 0 to below 1.")
    stratify: Literal["auto"] | bool = Field(
        default="auto", description="Keep the shares of labels equal in every split; auto does so where labels exist."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the division, 0 to 4294967295.")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise refusal(
                ["test"],
                f"validation {self.validation} and test {self.test} leave nothing to train on",
                "Choose shares whose sum is below 1.",
            )
        return self


class MixSource(Block):
    """A further source of training rows, to hold on to general ability."""

    name: Word = Field(description="The source's name, a slice in evaluation: letters, digits and underscores.")
    train: Sources = Field(
        description="Files, globs, URLs or hub ids; a share (data.split) is held out and scored under the name."
    )
    weight: float = Field(gt=0, description="Examples drawn from here per example of data.train, above 0.")
    format: DataFormat = Field(default="auto", description="How the rows are written; auto infers it.")
    columns: Columns = Field(default_factory=dict, description=f"Our name → your column; ours: {', '.join(COLUMNS)}.")

    @model_validator(mode="after")
    def _columns_are_ours(self) -> Self:
        refuse_unknown_columns(self.columns)
        return self


class DataSpec(Block):
    """The rows to learn from and to be judged on."""

    train: Sources = Field(description="Files, globs, URLs or hub ids; split if no validation or test is given.")
    validation: OptionalSources = Field(
        default_factory=list, description="Rows that pick the best checkpoint; none: split off from train."
    )
    test: TestSets = Field(
        default_factory=dict, description="Rows scored once, at the end; several sets as NAME: SOURCE; none: split off."
    )
    format: DataFormat = Field(default="auto", description="How the rows are written; auto infers and reports it.")
    template: Text | None = Field(
        default=None, description="Chat template (Jinja), as a file or as text; null: the base's own, or a plain one."
    )
    loss_on: Literal["completion", "all"] = Field(
        default="completion", description="Tokens that carry loss: the last answer's, or every assistant turn's."
    )
    columns: Columns = Field(default_factory=dict, description=f"Our name → your column; ours: {', '.join(COLUMNS)}.")
    split: SplitSpec = Field(default_factory=SplitSpec, description="How rows are divided where no file is given.")
    audit: AuditSpec = Field(default_factory=AuditSpec, description="What the audit lets pass and mends.")
    mix: list[MixSource] | None = Field(
        default=None, description="Further sources of training rows with weights; data.train itself has weight 1."
    )

    @model_validator(mode="after")
    def _names_are_usable(self) -> Self:
        refuse_unknown_columns(self.columns)
        for name in self.test:
            if not re.fullmatch(WORD_PATTERN, name) or name in RESERVED_TESTS:
                raise refusal(
                    ["test", name],
                    f"{name!r} cannot name a test set",
                    f"Use letters, digits and underscores, and none of {', '.join(sorted(RESERVED_TESTS))}.",
                )
        names = [source.name for source in self.mix or []]
        if taken := sorted(set(names) & (RESERVED_TESTS | {"test", *self.test})):
            raise refusal(["mix"], f"{taken[0]!r} cannot name a source", "Choose a name that no split has.")
        if len(set(names)) < len(names):
            raise refusal(["mix"], f"two sources share a name in {names}", "Give every source a name of its own.")
        return self


class MinMax(Block):
    """A range of workers; the run goes on with fewer after a loss and grows back."""

    min: int = Field(ge=1, description="Fewest workers the run goes on with, at least 1.")
    max: int = Field(ge=1, description="Most workers the run uses, at least `min`.")
    grow_every_s: float = Field(
        default=60.0, ge=1, description="Seconds between looks for room for more workers, at least 1; growing restarts."
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.min > self.max:
            raise refusal(["max"], f"min {self.min} is above max {self.max}", "Set max to min or above.")
        return self


class ClusterSpec(Block):
    """What the run may use and cost."""

    workers: Annotated[int, Field(ge=1)] | MinMax = Field(
        default=1, description="Training processes, at least 1, or {min, max}; the result does not depend on it."
    )
    gpus_per_worker: Literal["auto"] | Annotated[float, Field(ge=0)] = Field(
        default="auto", description="GPUs of one worker: 0, a fraction of one, or a whole number; auto: 1 where any is."
    )
    cpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="CPUs, and threads, of one worker, at least 1; auto: as many as fit."
    )
    max_failures: int = Field(
        default=3, ge=0, description="How often lost workers are started again, from the newest checkpoint; at least 0."
    )
    hang_timeout_s: float = Field(
        default=1800.0,
        ge=10,
        description="Seconds without a finished step or evaluation after which a worker counts as hung, at least 10.",
    )
    tokens_per_s: float | None = Field(
        default=None,
        gt=0,
        description="Tokens a second that one worker trains, above 0, for the plan's hours; null: as measured before.",
    )
    price_per_gpu_hour: float | None = Field(
        default=None, ge=0, description="US dollars for one GPU and hour, at least 0; null: unknown."
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="Hours after which a run stops with a checkpoint, above 0; null: no bound."
    )
    max_wait_hours: float | None = Field(
        default=24.0,
        gt=0,
        description="Hours that a run waits for room on a busy cluster before it fails, above 0; null: no bound.",
    )
    max_cost: float | None = Field(
        default=None, gt=0, description="US dollars after which a run stops with a checkpoint, above 0; null: no bound."
    )

    @property
    def fewest_workers(self) -> int:
        """The workers asked for, or the fewest of a range."""
        return self.workers.min if isinstance(self.workers, MinMax) else self.workers

    def of_fixed(self, workers: int) -> ClusterSpec:
        """Return the same with so many workers, and no range of them."""
        return self.model_copy(update={"workers": workers})

    @model_validator(mode="after")
    def _limits_can_be_kept(self) -> Self:
        if self.max_cost is not None and not self.price_per_gpu_hour:
            raise refusal(
                ["max_cost"], "max_cost needs a price", "Set cluster.price_per_gpu_hour, or use cluster.max_hours."
            )
        if self.gpus_per_worker != "auto" and self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise refusal(
                ["gpus_per_worker"],
                f"{self.gpus_per_worker} GPUs is no whole number",
                "Use a fraction below 1 or a whole number.",
            )
        return self


def _without_empty(value: object) -> object:
    """Read a key with nothing after it (a block whose keys are all commented out) as if it were not there."""
    if not isinstance(value, dict):
        return value
    return {key: part for key, part in cast("dict[str, object]", value).items() if part is not None}


class JobSpec(Block):
    """One job: a base model, data, and how to get from them to a release."""

    name: Name = Field(description="The job's and the model's name: lower-case letters, digits, hyphens, at most 63.")
    base: Text = Field(description="The model to tune: a directory or a hub id.")
    data: Annotated[DataSpec, BeforeValidator(_as_data_block, json_schema_input_type=Text | SourceList | DataSpec)] = (
        Field(description="A source, a list of sources, or a block of keys.")
    )
    train: TrainSpec = Field(default_factory=TrainSpec, description="How the base model is trained.")
    cluster: ClusterSpec = Field(default_factory=ClusterSpec, description="What the run may use and cost.")
    evaluate: EvaluateSpec = Field(default_factory=EvaluateSpec, description="How base and tuned model are scored.")
    gate: list[Text] = Field(
        default_factory=list, description="Rules TERM OP TERM [± NUMBER] that a release must pass; none: accept."
    )
    speed: SpeedSpec = Field(default_factory=SpeedSpec, description="How speed is measured where a gate rule names it.")
    tracking: list[Literal["mlflow", "tensorboard", "wandb"]] = Field(
        default_factory=lambda: ["mlflow"],
        description="Where curves go: mlflow (at the end), tensorboard, wandb (both live, in the run's directory).",
    )
    sweep: SweepSpec | None = Field(
        default=None, description="A search for better values; present: the job is a sweep."
    )
    serve: ServeSpec | None = Field(default=None, description="Where and against what the release is served.")
    parent: ParentSpec | None = Field(
        default=None, description="What the job was retrained from, as `hone retrain` writes it."
    )

    def of_trials(self) -> JobSpec:
        """Return the job that the trials of its sweep begin from: with their workers, on their share of the data.

        Of a range of workers each has the fewest: another would wait for what it grew into.
        """
        assert self.sweep is not None, "a job with a sweep block"
        train = self.train.model_copy(update={"subset": self.train.subset * self.sweep.proxy})
        workers = self.sweep.workers or self.cluster.fewest_workers
        return self.model_copy(update={"train": train, "cluster": self.cluster.of_fixed(workers)})

    @model_validator(mode="before")
    @classmethod
    def _empty_keys_are_absent(cls, value: object) -> object:
        return _without_empty(value)

    @model_validator(mode="after")
    def _gate_rules_compare(self) -> Self:
        for place, rule in enumerate(self.gate):
            sides = COMPARISON.split(rule)
            if len(sides) != 2 or not all(side.strip() for side in sides):
                what, remedy = f"{rule!r} compares nothing", 'Write a rule as "accuracy >= base + 0.10".'
                raise refusal(["gate", place], what, remedy)
        self.evaluate.refuse_unasked(self.gate, mixed=bool(self.data.mix))
        return self

    @model_validator(mode="after")
    def _space_is_possible(self) -> Self:
        if self.sweep is None:
            return self
        refuse_impossible_space(self.sweep, type(self), self.train.method)
        if self.sweep.max_cost is not None and not self.cluster.price_per_gpu_hour:
            remedy = "Set cluster.price_per_gpu_hour, or use sweep.max_hours."
            raise refusal(["sweep", "max_cost"], "max_cost needs a price", remedy)
        return self
