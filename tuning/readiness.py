"""A sweep before it starts: its job and every variant that needs data or a plan of its own → ready, or a refusal.

The same data stage as a training's, once for every base, length and method in the space. What a trial would only find
out when its turn comes is refused here, before Ray starts and the run exists.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from cluster.errors import JobFileError
from cluster.fitting import counted
from cluster.jobfile import derived_job
from cluster.sweep_spec import Choice
from trainers.prepared import VALIDATION
from tuning.space import sweep_of, wanted

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

    Raises what ``trainers.prepare.ready`` raises, for the first variant that cannot work.
    """
    from trainers.prepare import ready as ready_one

    if said := fewer_points(job):
        progress.say(said)
    found = ready_one(job, settings, progress)
    held = found.report.splits.get(VALIDATION)
    if held is None or not held.rows:
        remedy = "set data.split.validation above 0, or name a file: data.validation"
        raise JobFileError("trials are compared on validation rows, and there are none", remedy, "data")
    for variant in variants(job):
        ready_one(variant, settings, progress)
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


def fewer_points(job: JobSpec) -> str:
    """Return what a user shall know of a space with fewer points than trials were asked for; nothing of any other."""
    trials, num_points = sweep_of(job).trials, wanted(job)
    if num_points == trials:
        return ""
    points, fewer = counted(num_points, "distinct point"), counted(num_points, "trial")
    return f"search: sweep.space has {points}, so it is {fewer} and not {trials}"
