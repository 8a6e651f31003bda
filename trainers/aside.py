"""Weights just written → generated validation metrics, by a Ray task beside the training workers.

The plan says whether the cluster has room for one more process of a worker's size. The task asks for its own share of
the cluster, outside the workers' placement group, and Ray starts it again where its machine is lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.errors import HoneError, RunFailed
from trainers.validation_scores import score_weights

if TYPE_CHECKING:
    from cluster.records import Metrics, Plan
    from cluster.spec import JobSpec

MAX_RETRIES = 3


class AsideTask:
    """The job's generated metric, made by a Ray task; see ``trainers.validation.Aside``."""

    def __init__(self, job: JobSpec, plan: Plan, prepared: str) -> None:
        self._job = job
        self._plan = plan
        self._prepared = prepared
        self._begun: Any = None

    def begin(self, weights: str) -> None:
        """Start the task."""
        import ray

        task: Any = ray.remote(
            num_cpus=self._plan.cpus_per_worker,
            num_gpus=self._plan.gpus_per_worker,
            max_retries=MAX_RETRIES,
            scheduling_strategy="DEFAULT",
        )(score_weights)
        self._begun = task.remote(self._job, self._plan, self._prepared, weights)

    def result(self) -> Metrics:
        """Wait for the task. Raises its own HoneError where there is one, RunFailed otherwise."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            return ray.get(self._begun)
        except RayTaskError as error:
            if isinstance(error.cause, HoneError):
                raise error.cause from error
            what, cause = "scoring the validation rows failed", str(error.cause)
            raise RunFailed(f"{what}: {cause}", "set train.best_by to loss, or see --debug") from error
        except RayError as error:
            what = f"scoring the validation rows failed {1 + MAX_RETRIES} times: {type(error).__name__}"
            raise RunFailed(what, "set train.best_by to loss, or see --debug") from error
