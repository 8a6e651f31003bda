"""The ``sweep:`` block of the job file: how many trials over which values of which keys.

An expression such as ``loguniform(1e-5, 1e-3)`` becomes a small frozen dimension, and both of its ends are tried
against the bounds of the key it varies, so a sweep never finds out in its twentieth trial that a value is not allowed.
The text is kept as it was written; ``SweepSpec.dimensions`` parses it. Distributions, priors and conditions of the
search engine belong to ``tuning.space``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self, cast

from pydantic import ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, model_validator

from cluster.blocks import Block, annotation_at, did_you_mean, dotted_keys, refusal
from cluster.tradeoff_spec import Prune, TradeoffSpec, refuse_impossible_tradeoff, usual_prune

CALL = re.compile(r"\s*([a-z]+)\s*\((.*)\)\s*", re.DOTALL)
NUMBER = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?")
FORMS = "loguniform(LOW, HIGH), uniform(LOW, HIGH), int(LOW, HIGH), choice(A, B, ..), fixed(VALUE) or a list"
SWEPT = ("base", "train.")
YARDSTICKS = ("train.best_by", "train.early_stopping")
LUCK = "train.seed"


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` to ``high``, both included; ``log`` spreads them evenly over orders of magnitude."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True, slots=True)
class Integers:
    """Whole numbers from ``low`` to ``high``, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the ``options``; a single option is a fixed value."""

    options: tuple[JsonValue, ...]


Dimension = Range | Integers | Choice
Expression = Annotated[str, Field(min_length=1)] | Annotated[list[JsonValue], Field(min_length=1)]


def dimension(expression: str | Sequence[JsonValue]) -> Dimension:
    """Return what an expression or a list of options stands for.

    Raises ValueError with a sentence for the user: unknown form, wrong number of values, bounds in the wrong order.
    """
    if not isinstance(expression, str):
        return _choice(list(expression))
    call = CALL.fullmatch(expression)
    if call is None:
        raise ValueError(f"{expression!r} is no dimension of a search")
    form, inside = call.group(1), call.group(2).strip()
    values = [_scalar(part) for part in inside.split(",")] if inside else []
    if form == "choice":
        return _choice(values)
    if form == "fixed":
        if len(values) != 1:
            raise ValueError(f"{expression!r} must hold one value")
        return Choice((values[0],))
    if form in ("uniform", "loguniform", "int"):
        return _range(form, values, expression)
    hint = did_you_mean(form, ("loguniform", "uniform", "int", "choice", "fixed"))
    raise ValueError(f"{expression!r} is no dimension of a search{hint}")


def _scalar(text: str) -> JsonValue:
    word = text.strip()
    if word in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[word]
    if re.fullmatch(r"[-+]?\d{1,18}", word):
        return int(word)
    if NUMBER.fullmatch(word):
        return float(word)
    if len(word) >= 2 and word[0] == word[-1] and word[0] in "'\"":
        return word[1:-1]
    return word


def _choice(options: list[JsonValue]) -> Choice:
    if not options or "" in options:
        raise ValueError("a choice needs at least one option, and no empty one")
    if any(options[place] in options[:place] for place in range(len(options))):
        raise ValueError(f"an option stands twice in {options}")
    return Choice(tuple(options))


def _range(form: str, values: list[JsonValue], expression: str) -> Range | Integers:
    numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
    if len(numbers) != 2 or len(values) != 2:
        raise ValueError(f"{expression!r} must hold two numbers: {form}(LOW, HIGH)")
    low, high = numbers
    if not low < high:
        raise ValueError(f"{expression!r} must have LOW below HIGH")
    if not (abs(low) <= 1e300 and abs(high) <= 1e300):
        raise ValueError(f"{expression!r} must have finite bounds")
    if form == "int":
        if isinstance(low, float) or isinstance(high, float):
            raise ValueError(f"{expression!r} must hold whole numbers")
        return Integers(low, high)
    if form == "loguniform" and low <= 0:
        raise ValueError(f"{expression!r} must have LOW above 0")
    return Range(float(low), float(high), log=form == "loguniform")


class SweepSpec(Block):
    """A search for better values: present in a job file, it makes the job a sweep."""

    trials: int = Field(
        default=24, ge=1, description="Trainings to start, at least 1; fewer in a space of fewer points."
    )
    space: dict[str, Expression] = Field(
        min_length=1,
        description=f"Dotted key (base or any of train) → {FORMS}; bounds are included.",
    )
    search: Literal["tpe", "gp", "random", "grid"] = Field(
        default="tpe",
        description="Who suggests values: TPE, a Gaussian process, chance, or every point of a space of choices.",
    )
    tradeoff: TradeoffSpec | None = Field(
        default=None, description="A second value to hold down beside the metric; null: the metric alone counts."
    )
    prune: Prune = Field(
        default_factory=usual_prune,
        description="Who ends trials early: successive halving, the median of the others, or nobody; asha when left "
        "out, none under a tradeoff.",
    )
    grace: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Share of a training before which no trial is ended, 0 to 1; null: the warm-up and 0.1 more.",
    )
    reduction: int | None = Field(
        default=None, ge=2, description="One of so many trials goes on after each rung, at least 2; null: 3."
    )
    at_once: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        default="auto", description="Trials that run at the same time, at least 1; auto: as many as there is room for."
    )
    workers: int | None = Field(
        default=None,
        ge=1,
        description="Workers a trial, at least 1: fewer than in the finals changes nothing but speed; null: all.",
    )
    proxy: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Share of the training split that trials use, above 0 to 1; below 1 the winner is trained again.",
    )
    finalists: int = Field(
        default=3, ge=1, description="Best trials trained again with other seeds before one wins, at least 1; 1: none."
    )
    seeds: int | None = Field(
        default=None, ge=1, description="Other seeds that each finalist is trained with, at least 1; null: 2."
    )
    max_hours: float | None = Field(
        default=None, gt=0, description="Hours after which the search ends with what it has, above 0; null: no bound."
    )
    max_cost: float | None = Field(
        default=None,
        gt=0,
        description="US dollars after which the search ends with what it has, above 0; null: no bound.",
    )
    until_converged: bool = Field(
        default=False, description="End the search when no better value is to be expected (Optuna's terminator)."
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of the search, 0 to 4294967295.")

    @model_validator(mode="after")
    def _expressions_parse(self) -> Self:
        for key, expression in self.space.items():
            try:
                dimension(expression)
            except ValueError as fault:
                raise refusal(["space", key], str(fault), f"Write it as {FORMS}.") from None
        return self

    @model_validator(mode="after")
    def _no_key_without_effect(self) -> Self:
        """Refuse a key that another one leaves without a meaning."""
        if self.seeds is not None and self.finalists == 1:
            raise refusal(
                ["seeds"], "one finalist is not trained again", "Set finalists to 2 or more, or remove seeds."
            )
        for key, owners in (("grace", ("asha", "median")), ("reduction", ("asha",))):
            if getattr(self, key) is not None and self.prune not in owners:
                raise refusal([key], f"{key} means nothing under prune {self.prune}", f"Remove {key}.")
        if self.proxy < 1 and "train.subset" in self.space:
            raise refusal(["proxy"], "trials cannot vary the share of the data that proxy sets", "Remove one of them.")
        if self.search == "grid":
            for key, found in self.dimensions().items():
                if not isinstance(found, Choice):
                    raise refusal(["space", key], "a grid has no ranges", "Write it as choice(A, B, ..).")
        if self.tradeoff is not None:
            refuse_impossible_tradeoff(self.tradeoff, self.prune, self.space, until_converged=self.until_converged)
        return self

    @property
    def trials_are_smaller(self) -> bool:
        """Whether trials run on other workers or on less data than the finals."""
        return self.workers is not None or self.proxy < 1

    def dimensions(self) -> dict[str, Dimension]:
        """Return the parsed space: dotted key → dimension."""
        return {key: dimension(expression) for key, expression in self.space.items()}


def swept_keys(job: type[Block]) -> list[str]:
    """Return the dotted keys that a sweep may vary: what changes the model, and not how trials are compared."""
    return [key for key in dotted_keys(job) if key.startswith(SWEPT) and key not in (*YARDSTICKS, LUCK)]


def refuse_impossible_space(sweep: SweepSpec, job: type[Block], method: str) -> None:
    """Raise a refusal where the space names a key the job does not have, may not vary, or a value it does not take."""
    keys = swept_keys(job)
    for key, found in sweep.dimensions().items():
        path = ["sweep", "space", key]
        if key not in keys:
            raise refusal(path, *_why_not(key, keys, job))
        if key.startswith("train.lora.") and method == "full" and "train.method" not in sweep.space:
            raise refusal(path, "there is no adapter under method full", "Set train.method to lora, or sweep it too.")
        for value in _ends(found):
            fault = _fault(job, key, value)
            if fault:
                raise refusal(path, f"{key} cannot be {value!r}: {fault}", f"Choose values that {key} may have.")


def _why_not(key: str, keys: list[str], job: type[Block]) -> tuple[str, str]:
    allowed = "A sweep may vary base and the keys of train."
    if annotation_at(job, key.split(".")) is None:
        return f"{key} is no key of a job file{did_you_mean(key, keys)}", allowed
    if not key.startswith(SWEPT):
        return f"{key} is what trials are compared on, or does not change the model", allowed
    if key.startswith(YARDSTICKS):
        return f"{key} is part of how trials are compared", "Leave it out of the space."
    if key == LUCK:
        again = "Leave it out; sweep.finalists and sweep.seeds train the best again with other seeds."
        return f"{key} is luck, and the winner would be the luckiest of several draws", again
    inside = [other for other in keys if other.startswith(f"{key}.")]
    return f"{key} is a block, not a value", f"Name one of its keys: {', '.join(inside)}."


def _ends(found: Dimension) -> tuple[JsonValue, ...]:
    return found.options if isinstance(found, Choice) else (found.low, found.high)


def _fault(job: type[Block], key: str, value: JsonValue) -> str:
    *parents, name = key.split(".")
    block = cast("type[Block]", annotation_at(job, parents))
    field = block.model_fields[name]
    # The field's type and bounds without its default, which may depend on other keys.
    bounded = cast("type[object]", Annotated[cast("type[object]", field.annotation), Field(), *field.metadata])
    tried: TypeAdapter[object] = TypeAdapter(bounded, config=ConfigDict(strict=True, allow_inf_nan=False))
    try:
        tried.validate_python(value)
    except ValidationError as error:
        return error.errors(include_url=False)[0]["msg"].removeprefix("Input should be ")
    return ""
