"""The ``serve:`` block of the job file: which releases answer at one endpoint, and the experiment between them.

The same keys, without the ``serve:`` above them, make a file for ``hone serve``. Only the shape and the rules between
keys are here; whether a release exists is known to the registry when it is served.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cluster.blocks import NAME_PATTERN, Block, Name, Text, Word, refusal
from cluster.retrain_spec import RetrainSpec

RELEASE_VERSION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}@([1-9]\d*|champion|challenger)")
Percent = Annotated[float, Field(gt=0, le=100)]
Rate = Annotated[float, Field(gt=0, lt=1)]


class GenerationSpec(Block):
    """How an arm writes its answers where the request does not say."""

    temperature: float = Field(
        default=0.0, ge=0, le=2, description="Randomness of the choice of tokens, 0 (always the likeliest) to 2."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Share of probability that tokens are drawn from, above 0 to 1."
    )
    max_tokens: int = Field(default=256, ge=1, description="Longest answer in tokens, at least 1.")
    stop: list[Text] = Field(default_factory=list, description="Texts that end an answer.")


class ArmSpec(Block):
    """One release behind the endpoint."""

    release: Text = Field(description="NAME@N, NAME@champion, a release directory, or base:PATH for an untuned model.")
    weight: float = Field(
        default=0.0, ge=0, description="Share of the traffic relative to the other arms, at least 0; 0 answers nobody."
    )
    shadow: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description="Percent of the other arms' requests that this arm answers too, unseen by callers and verdict.",
    )
    generation: GenerationSpec = Field(default_factory=GenerationSpec, description="How this arm writes its answers.")


class SlowSpec(Block):
    """A bound on slow answers."""

    latency_s: float = Field(gt=0, description="Seconds after which an answer counts as slow, above 0.")
    rate: Rate = Field(description="Share of slow answers that is still allowed, above 0 to below 1.")


class GuardrailSpec(Block):
    """What no arm may exceed, whatever its outcome."""

    error_rate: Rate | None = Field(
        default=None, description="Share of failed requests that is still allowed, above 0 to below 1; null: no bound."
    )
    overload_rate: Rate | None = Field(
        default=None,
        description="Share of requests turned away for want of room (429) that is still allowed, above 0 to below 1; "
        "null: no bound.",
    )
    slow: SlowSpec | None = Field(default=None, description="Bound on slow answers; null: no bound.")


class ExperimentSpec(Block):
    """A comparison of the arms that may be looked at any time."""

    name: Name = Field(description="The experiment's name: lower-case letters, digits, hyphens, at most 63.")
    control: Name = Field(description="The arm that the others are compared with.")
    outcome: Word = Field(default="success", description="Name of the feedback value that decides; more is better.")
    unit: Literal["user", "request"] = Field(
        default="user", description="Who is assigned to an arm: a user for the whole experiment, or each request."
    )
    horizon_h: float = Field(
        default=24.0, gt=0, description="Hours after a unit's first answer in which its outcomes count, above 0."
    )
    missing: Literal["exclude", "zero"] = Field(
        default="exclude", description="What a unit without an outcome counts as: nothing, or an outcome of 0."
    )
    guardrails: GuardrailSpec = Field(
        default_factory=GuardrailSpec, description="Bounds whose breach ends the experiment for an arm."
    )
    ramp: list[Percent] = Field(
        default_factory=list,
        description="Rising percentages of traffic (above 0 to 100) that the other arms get step by step; empty: none.",
    )
    ramp_every_h: float = Field(
        default=24.0, gt=0, description="Hours after the last change of traffic at which the ramp takes its next step."
    )
    promote: Literal["manual", "auto"] = Field(
        default="manual", description="Whether a verdict is acted on by a person or at once."
    )


class ServeSpec(Block):
    """Releases behind one endpoint."""

    endpoint: Name = Field(description="The endpoint's name: lower-case letters, digits, hyphens, at most 63.")
    arms: dict[str, ArmSpec] = Field(min_length=1, description="Arm name → the release behind it.")
    experiment: ExperimentSpec | None = Field(
        default=None, description="The comparison of the arms; null only splits traffic."
    )
    log: Literal["off", "features", "text"] = Field(
        default="features", description="What is kept of a request: nothing, numbers about it, or its redacted text."
    )
    retrain: RetrainSpec = Field(
        default_factory=RetrainSpec, description="How feedback becomes the rows of a child, and what it must do."
    )

    @model_validator(mode="after")
    def _arms_have_names_and_releases(self) -> Self:
        for name, arm in self.arms.items():
            if not re.fullmatch(NAME_PATTERN, name):
                raise refusal(
                    ["arms", name],
                    f"{name!r} cannot name an arm",
                    "Use lower-case letters, digits and hyphens, at most 63.",
                )
            if "@" in arm.release and "/" not in arm.release and not RELEASE_VERSION.fullmatch(arm.release):
                raise refusal(
                    ["arms", name, "release"],
                    f"{arm.release!r} is no version of a model",
                    "Write NAME@N, NAME@champion, a directory, or base:PATH.",
                )
        return self

    @model_validator(mode="after")
    def _traffic_has_somewhere_to_go(self) -> Self:
        if not sum(arm.weight for arm in self.arms.values()) > 0:
            raise refusal(["arms"], "every arm has weight 0", "Give at least one arm a weight above 0.")
        return self

    @model_validator(mode="after")
    def _experiment_compares_arms(self) -> Self:
        if self.experiment is None:
            return self
        if self.experiment.control not in self.arms:
            raise refusal(
                ["experiment", "control"],
                f"{self.experiment.control!r} is no arm",
                f"Name one of the arms: {', '.join(self.arms)}.",
            )
        if len(self.arms) < 2:
            raise refusal(["arms"], "an experiment needs two arms", "Add an arm, or remove serve.experiment.")
        ramp = self.experiment.ramp
        if any(later <= earlier for earlier, later in pairwise(ramp)):
            raise refusal(
                ["experiment", "ramp"], f"the ramp {ramp} does not rise", "Write rising percentages, as [1, 10, 50]."
            )
        return self
