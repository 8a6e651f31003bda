"""How a job asks to be judged: scores, slices, robustness, general ability, memorisation, faithfulness.

Everything beyond scores on held-out rows is off until it is asked for, since most of it costs generation. A gate rule
that needs something the job does not ask for is refused here, where its line is known; what a rule may say in full is
``trainers.gate_rules``'s, and whether the data can answer it, ``trainers.prepare``'s.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from cluster.blocks import Block, SourceList, Sources, Text, Word, did_you_mean, refusal
from cluster.layout_spec import COLUMNS, Columns, DataFormat, refuse_unknown_columns

Perturbation = Literal["typos", "case", "punctuation", "whitespace", "paraphrase", "distractor"]
PERTURBATIONS: tuple[Perturbation, ...] = ("typos", "case", "punctuation", "whitespace", "paraphrase", "distractor")
OF_SLICES = ("worst_slice", "slice_gap")
ABOUT = re.compile(r"\b(worst_slice|slice_gap|robustness_drop)\(([^()]*)\)")
INSIDE = re.compile(r"\([^()]*\)")
NEEDED = {
    "consistency": "evaluate.robustness.repeats",
    "general_perplexity_ratio": "evaluate.general",
    "general_drop": "evaluate.general",
    "memorised": "evaluate.memorisation",
    "slots_missing": "evaluate.faithfulness",
    "slots_added": "evaluate.faithfulness",
    "faithfulness": "evaluate.faithfulness",
}
"""What a rule may name only where the job has the key."""


class RobustnessSpec(Block):
    """What changed inputs and repeated sampling do to the tuned model's answers, on a sample of each test."""

    kinds: Annotated[list[Perturbation], Field(min_length=1)] = Field(
        default_factory=lambda: list(PERTURBATIONS),
        description="Changes to the last user turn that should leave the right answer as it is.",
    )
    max_examples: int = Field(default=100, ge=2, description="Examples of each test that are asked again, at least 2.")
    repeats: int = Field(
        default=0,
        ge=0,
        description="Sampled answers to each of these whose agreement is `consistency`; 0, or 2 and up.",
    )
    temperature: float = Field(default=0.7, gt=0, description="Temperature of the sampled answers, above 0.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of sample, changes and sampling.")

    @model_validator(mode="after")
    def _repeats_can_agree(self) -> Self:
        if self.repeats == 1:
            raise refusal(["repeats"], "one answer agrees with nothing", "Set repeats to 2 or more, or 0.")
        return self


class GeneralSpec(Block):
    """Rows of general text or tasks, none of them trained on, that base and tuned model are both scored on."""

    data: Sources = Field(description="Files, globs, URLs or hub ids; plain text, or prompts with answers.")
    format: DataFormat = Field(default="auto", description="How the rows are written; auto infers it.")
    columns: Columns = Field(default_factory=dict, description=f"Our name → your column; ours: {', '.join(COLUMNS)}.")
    max_examples: int = Field(default=200, ge=2, description="Rows that are scored, chosen by data.split.seed.")

    @model_validator(mode="after")
    def _columns_are_ours(self) -> Self:
        refuse_unknown_columns(self.columns)
        return self


class MemorisationSpec(Block):
    """Whether beginnings of training answers make the tuned model recite the rest, against held-out answers."""

    max_examples: int = Field(default=200, ge=2, description="Training rows and held-out rows tried, each.")
    prefix_tokens: int = Field(default=8, ge=0, description="Tokens of the answer that are given, besides the prompt.")
    match_tokens: int = Field(default=16, ge=1, description="Tokens after it that must all be equal to count.")


class FaithfulnessSpec(Block):
    """Which values an answer has to hold: those of its input (data-to-text), or those of the right answer (JSON)."""

    form: Literal["slots", "json"] = Field(
        default="slots", description="slots: NAME[VALUE], .. in the last user turn; json: an object as the answer."
    )
    aliases: dict[str, list[Text]] = Field(
        default_factory=dict, description="Value, or the name of a yes/no slot → further wordings of it."
    )


def _as_general_block(value: object) -> object:
    return {"data": value} if isinstance(value, (str, list)) else value


General = Annotated[
    GeneralSpec | None,
    BeforeValidator(_as_general_block, json_schema_input_type=Text | SourceList | GeneralSpec | None),
]


class EvaluateSpec(Block):
    """How the base and the tuned model are scored on the same held-out rows."""

    metrics: Literal["auto"] | Annotated[list[Word], Field(min_length=1)] = Field(
        default="auto", description="Names of metrics; auto chooses by the task."
    )
    base: bool = Field(default=True, description="Score the untuned base as well.")
    few_shot: int = Field(default=0, ge=0, description="Examples in the prompt when the base is scored again; 0: not.")
    max_examples: int | None = Field(
        default=None, ge=1, description="Held-out examples scored per test set, chosen by data.split.seed; null: all."
    )
    max_new_tokens: int = Field(default=64, ge=1, description="Longest generated answer in tokens, at least 1.")
    slices: list[Text] = Field(
        default_factory=list,
        description="Scored apart by value: columns of the data, class, source (the file), length (of the input).",
    )
    min_slice_examples: int = Field(
        default=30, ge=2, description="Examples below which a slice is undecided, not scored; at least 2."
    )
    robustness: RobustnessSpec | None = Field(
        default=None, description="Changed inputs and repeats on a sample of each test; null: not tried."
    )
    general: General = Field(
        default=None,
        description="Held-out general rows (a source, or a block), scored for forgetting; null: those of data.mix.",
    )
    memorisation: MemorisationSpec | None = Field(
        default=None, description="Look for recited training answers; null: not tried."
    )
    faithfulness: FaithfulnessSpec | None = Field(
        default=None, description="Count values that answers lack or add; null: not counted."
    )
    batch_size: int = Field(default=16, ge=1, description="Prompts generated together on one worker, at least 1.")

    @model_validator(mode="after")
    def _comparisons_have_a_base(self) -> Self:
        if self.general is not None and not self.base:
            raise refusal(["general"], "forgetting is a comparison with the base", "Set evaluate.base: true.")
        return self

    def refuse_unasked(self, rules: Sequence[str], *, mixed: bool) -> None:
        """Raise a refusal for the first gate rule that needs what this block does not ask for.

        ``mixed`` says whether the data has further sources, whose held-out rows are general ones.
        """
        for place, rule in enumerate(rules):
            for term, argument in ABOUT.findall(rule):
                self._refuse_argument(place, rule, term, argument.strip())
            for term, key in NEEDED.items():
                if re.search(rf"\b{term}\b(?!\.)", INSIDE.sub("", rule)) and not self._has(key, mixed=mixed):
                    raise refusal(["gate", place], f"{rule!r} needs {key}, which is not set", f"Set {key}.")

    def _refuse_argument(self, place: int, rule: str, term: str, argument: str) -> None:
        known: Sequence[str] = self.slices
        key = "evaluate.slices"
        if term not in OF_SLICES:
            known = self.robustness.kinds if self.robustness else []
            key = "evaluate.robustness" if self.robustness is None else "evaluate.robustness.kinds"
        if argument not in known:
            what = f"{rule!r}: {argument!r} is not in {key}{did_you_mean(argument, known)}"
            raise refusal(["gate", place], what, f"Add it to {key}, or change the rule.")

    def _has(self, key: str, *, mixed: bool) -> bool:
        if key == "evaluate.robustness.repeats":
            return self.robustness is not None and self.robustness.repeats > 0
        if key == "evaluate.general":
            return self.general is not None or (mixed and self.base)
        return getattr(self, key.removeprefix("evaluate.")) is not None
