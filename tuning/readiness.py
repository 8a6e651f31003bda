"""A sweep before it starts: its job and every variant that needs data or a plan of its own → ready, or a refusal.

The same data stage as a training's, once for every base, length and method in the space. What a trial would only find
out when its turn comes is refused here, before Ray starts and the run exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING

from cluster.complaints import shown_value
from cluster.errors import HoneError, JobFileError
from cluster.fitting import counted
from cluster.jobfile import derived_job
from cluster.resources import trials_at_once
from cluster.store import Store
from cluster.sweep_spec import Choice
from cluster.train_spec import is_lower_better
from trainers.planning import capacity, plan_within
from trainers.prepared import VALIDATION, Prepared
from tuning.objective import shape_key
from tuning.space import Plain, corners, sweep_of, trial_job, unpacked, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from cluster.progress import Progress
    from cluster.session import Settings
    from cluster.spec import JobSpec
    from trainers.prepare import Ready

SHAPING = ("base", "train.max_length")
"""Keys of which every value needs a prepared data set of its own."""
PLANNED = (*SHAPING, "train.method")


def ready(job: JobSpec, settings: Settings, progress: Progress) -> Ready:
    """Prepare and plan the job, and every variant of it that its space holds; nothing of the run exists yet.

    Raises what ``trainers.prepare.ready`` raises, for the first variant or corner of the space that cannot work, and
    JobFileError where trials could not be compared.
    """
    from trainers.prepare import ready as ready_one

    if said := fewer_points(job):
        progress.say(said)
    found = ready_one(job, settings, progress)
    held = found.report.splits.get(VALIDATION)
    if held is None or not held.rows:
        remedy = "set data.split.validation above 0, or name a file: data.validation"
        raise JobFileError("trials are compared on validation rows, and there are none", remedy, "data")
    sets = {shape_key(job): found.prepared}
    for variant in variants(job):
        sets[shape_key(variant)] = ready_one(variant, settings, progress).prepared
    opened = {shape: Prepared(Store(settings.home).reading("data", key, verify=False)) for shape, key in sets.items()}
    refuse_other_tokens(job, opened)
    refuse_impossible_corners(job, opened, settings)
    if sweep_of(job).trials_are_smaller:
        for variant in [job, *variants(job)]:
            ready_one(variant.model_copy(update={"sweep": None}), settings, progress)
    return found


def variants(job: JobSpec) -> Iterator[JobSpec]:
    """Yield the job under every combination of base, length and method in its space; none where it varies none."""
    sweep = sweep_of(job)
    options: dict[str, tuple[JsonValue, ...]] = {}
    for key, dimension in sweep.dimensions().items():
        if key in PLANNED:
            if not isinstance(dimension, Choice):
                what = f"{key} is a range, and every value of it needs a data set of its own"
                raise JobFileError(what, "write it as choice(A, B, ..)", f"sweep.space.{key}")
            options[key] = dimension.options
    for values in product(*options.values()) if options else ():
        yield derived_job(job, dict(zip(options, values, strict=True))).model_copy(update={"sweep": sweep})


def refuse_other_tokens(job: JobSpec, sets: Mapping[str, Prepared]) -> None:
    """Raise JobFileError where trials would be compared by a loss per token that is taken over different tokens.

    ``sets`` has the prepared data sets by ``shape_key``. Another tokenizer or template makes other tokens of the same
    rows, and a shorter length cuts the hardest, and so the winner would be whoever was asked the easiest.
    """
    if not is_lower_better(job.train.best_by):
        return
    first: tuple[JobSpec, bytes] | None = None
    for variant in variants(job):
        digest = _validation_digest(sets[shape_key(variant)])
        first = first or (variant, digest)
        if digest != first[1]:
            raise _incomparable(first[0], variant, sets)


def _validation_digest(held: Prepared) -> bytes:
    """Return the hash of the validation rows' tokens and targets."""
    path = held.tokens_path(VALIDATION)
    assert path is not None, "a sweep has validation rows"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _incomparable(one: JobSpec, other: JobSpec, sets: Mapping[str, Prepared]) -> JobFileError:
    key = "base" if one.base != other.base else "train.max_length"
    values = [of.base if key == "base" else of.train.max_length for of in (one, other)]
    records = [sets[shape_key(of)].record for of in (one, other)]
    asked = [f"{record.splits[VALIDATION].target_tokens:,} target tokens" for record in records]
    what = (
        f"a {one.train.best_by} of {key} {values[0]} is no measure of one of {values[1]}: the same validation rows "
        f"are {asked[0]} to the first and {asked[1]} to the second"
    )
    same = "bases of one tokenizer and template" if key == "base" else "lengths that cut no validation row"
    metric = {"classification": "accuracy", "generation": "rouge_l", "text": None}[records[0].task]
    answers = f"set train.best_by to {metric}, which compares answers, or " if metric else ""
    return JobFileError(what, f"{answers}sweep {same}", f"sweep.space.{key}")


def refuse_impossible_corners(job: JobSpec, sets: Mapping[str, Prepared], settings: Settings) -> None:
    """Raise what planning raises where a corner of the space cannot be trained, as a trial or in the finals."""
    points = corners(job)
    if not points:
        return
    store, found, sweep = Store(settings.home), capacity(settings), sweep_of(job)
    trials = job.of_trials()
    kinds = [("trial", trials, trials_at_once(trials.cluster, sweep, found))]
    if sweep.trials_are_smaller:
        kinds.append(("final", job, 1))
    for kind, begun, at_once in kinds:
        for values in points:
            try:
                training = trial_job(begun, values)
                plan_within(training, sets[shape_key(training)], store, found, at_once)
            except HoneError as error:
                raise _at_point(error, kind, values) from error


def _at_point(error: HoneError, kind: str, values: Mapping[str, Plain]) -> HoneError:
    """Return an error of planning as one of the space, with the values that it is about."""
    point = ", ".join(f"{key}={_plainly(value)}" for key, value in values.items())
    key = error.where.partition("=")[0]
    where = f"sweep.space.{key}" if key in values else "sweep.space"
    remedy = f"{error.remedy.rstrip('.')}; or leave such values out of sweep.space"
    return type(error)(f"a {kind} of {point} cannot run: {error.what}", remedy, where)


def _plainly(value: Plain) -> str:
    return value if isinstance(value, str) and unpacked(value) == value else shown_value(unpacked(value))


def fewer_points(job: JobSpec) -> str:
    """Return what a user shall know of a space with fewer points than trials were asked for; nothing of any other."""
    trials, num_points = sweep_of(job).trials, wanted(job)
    if num_points == trials:
        return ""
    points, fewer = counted(num_points, "distinct point"), counted(num_points, "trial")
    return f"search: sweep.space has {points}, so it is {fewer} and not {trials}"
