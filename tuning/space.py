"""A sweep block → what the search engine may suggest, and the job that a suggestion stands for; pure.

Values are suggested define-by-run, so that keys of an adapter are asked for only where the method has one. The engine's
storage takes plain values only, so an option that is a list travels as JSON. Where a search begins is
``tuning.warm_start``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, Protocol

from pydantic import JsonValue

from cluster.jobfile import derived_job
from cluster.sweep_spec import Choice, Dimension, Integers
from cluster.train_spec import LEARNING_RATES, Method

if TYPE_CHECKING:
    from cluster.spec import JobSpec, SweepSpec

METHOD, RATE = "train.method", "train.learning_rate"
PACKED = "json:"
MAX_RATE = 1.0
VAST = 10_000
PLANNED_BY = frozenset(
    (
        "base",
        "train.method",
        "train.max_length",
        "train.batch_size",
        "train.epochs",
        "train.subset",
        "train.dropout",
        "train.precision",
        "train.offload",
        "train.zero_stage",
        "train.gradient_checkpointing",
        "train.lora.rank",
        "train.lora.targets",
        "train.lora.dora",
    )
)
"""Keys that decide whether a training can be planned, and fits."""
MOST_CORNERS = 64
Values = dict[str, JsonValue]
Plain = None | bool | int | float | str


class Suggester(Protocol):
    """What of an Optuna trial suggests values."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """Return a number between two bounds."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Return a whole number between two bounds."""
        ...

    def suggest_categorical(self, name: str, choices: list[Plain]) -> Plain:
        """Return one of the choices."""
        ...


def suggestions(job: JobSpec) -> Callable[[Suggester], None]:
    """Return the job's space as a define-by-run function: it asks a trial for every key that applies to it."""
    dimensions, own_method = _space(job), job.train.method
    keys = sorted(dimensions, key=lambda key: key != METHOD)  # what the others depend on comes first

    def suggest(trial: Suggester) -> None:
        method: object = own_method
        for key in keys:
            if not _applies(key, str(method)):
                continue
            value = _asked(trial, key, dimensions[key])
            if key == METHOD:
                method = value

    return suggest


def _asked(trial: Suggester, key: str, found: Dimension) -> object:
    if isinstance(found, Choice):
        return trial.suggest_categorical(key, [packed(option) for option in found.options])
    if isinstance(found, Integers):
        return trial.suggest_int(key, found.low, found.high)
    return trial.suggest_float(key, found.low, found.high, log=found.log)


def _applies(key: str, method: str) -> bool:
    return not key.startswith("train.lora.") or method != "full"


def _space(job: JobSpec) -> dict[str, Dimension]:
    return sweep_of(job).dimensions()


def packed(option: JsonValue) -> Plain:
    """Return an option as the search engine's storage takes it."""
    return PACKED + json.dumps(option) if isinstance(option, (list, dict)) else option


def unpacked(value: Plain) -> JsonValue:
    """Return what ``packed`` was given."""
    return json.loads(value.removeprefix(PACKED)) if isinstance(value, str) and value.startswith(PACKED) else value


def grid(job: JobSpec) -> dict[str, list[Plain]]:
    """Return the options of every key of a space of choices."""
    return {key: list(_countable(found)) for key, found in _space(job).items() if isinstance(found, Choice)}


def points(job: JobSpec) -> list[dict[str, Plain]]:
    """Return every distinct point of a space of choices and whole numbers; none where it has ranges or is vast."""
    options = {key: _countable(found) for key, found in _space(job).items()}
    return distinct(job, options) if 0 < prod(map(len, options.values())) <= VAST else []


def _countable(found: Dimension) -> Sequence[Plain]:
    """Return the options of a dimension; none of a range, which has no end of them."""
    match found:
        case Choice():
            return [packed(option) for option in found.options]
        case Integers():
            return range(found.low, found.high + 1)
        case _:
            return ()


def distinct(job: JobSpec, options: Mapping[str, Sequence[Plain]]) -> list[dict[str, Plain]]:
    """Return every combination of some options by key, without keys that do not apply, each once."""
    found: list[dict[str, Plain]] = []
    for values in product(*options.values()):
        point = dict(zip(options, values, strict=True))
        method = str(point.get(METHOD, job.train.method))
        found.append({key: value for key, value in point.items() if _applies(key, method)})
    return list({json.dumps(point): point for point in found}.values())


def corners(job: JobSpec) -> list[dict[str, Plain]]:
    """Return the points at which a plan may fail if it fails at any: the ends of all that a plan depends on, combined.

    None where nothing of that is swept; of too many combinations a sample, so that this stays a matter of seconds.
    """
    ends = {key: _ends(found) for key, found in _space(job).items() if key in PLANNED_BY}
    if not ends or prod(map(len, ends.values())) > VAST:
        return []
    found = distinct(job, ends)
    return found if len(found) <= MOST_CORNERS else random.Random(0).sample(found, MOST_CORNERS)


def _ends(found: Dimension) -> list[Plain]:
    """Return the least and the greatest of numbers, and every option of others."""
    options = found.options if isinstance(found, Choice) else (found.low, found.high)
    numbers = [option for option in options if isinstance(option, (int, float)) and not isinstance(option, bool)]
    if len(numbers) == len(options):
        return list(dict.fromkeys((min(numbers), max(numbers))))
    return [packed(option) for option in options]


def wanted(job: JobSpec) -> int:
    """Return how many trials the search shall have: as asked, or one a point where the space has fewer."""
    trials = sweep_of(job).trials
    return min(trials, len(points(job)) or trials)


def sweep_of(job: JobSpec) -> SweepSpec:
    """Return the job's sweep block, which it has."""
    assert job.sweep is not None, "a job with a sweep block"
    return job.sweep


def trial_job(job: JobSpec, values: Mapping[str, Plain], seed: int | None = None) -> JobSpec:
    """Return the training that suggested values stand for, with another seed where one is given.

    Where the method differs from the job's and no learning rate was suggested, the job's own moves with the method by
    the ratio of the defaults. Raises JobFileError for values that a job may not have.
    """
    changed: Values = {key: unpacked(value) for key, value in values.items()}
    if METHOD in changed and RATE not in changed:
        changed[RATE] = moved_rate(job.train.learning_rate, job.train.method, method_named(str(changed[METHOD])))
    if seed is not None:
        changed["train.seed"] = seed
    return derived_job(job, changed)


def moved_rate(rate: float, before: Method, after: Method) -> float:
    """Return a learning rate that suits one method as a rate of another method does: ten to one for LoRA."""
    return min(MAX_RATE, rate * LEARNING_RATES[after] / LEARNING_RATES[before])


def own_values(job: JobSpec) -> Values:
    """Return what the job itself sets for every swept key that applies to its method."""
    settings = job.model_dump(mode="json")
    settings["train"].setdefault("max_length", job.train.max_length)
    return {key: _at(settings, key) for key in _space(job) if _applies(key, job.train.method)}


def _at(settings: Mapping[str, object], key: str) -> JsonValue:
    found: object = settings
    for part in key.split("."):
        assert isinstance(found, dict), key
        found = found[part]
    return found  # pyright: ignore[reportReturnType] (a dumped job is JSON)


def inside(found: Dimension, value: JsonValue) -> bool:
    """Return whether a dimension holds a value."""
    if isinstance(found, Choice):
        return any(type(option) is type(value) and option == value for option in found.options)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return found.low <= value <= found.high


def method_named(name: str) -> Method:
    """Return the method of a name, which is one."""
    return next(method for method in LEARNING_RATES if method == name)
