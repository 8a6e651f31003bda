"""Studies of a small job, opened as a sweep's driver does, and searchers whose trials end as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import optuna
from optuna.trial import TrialState

from cluster.session import Settings
from cluster.spec import JobSpec
from tuning.study import Ending, StudySearch, open_study
from tuning.trials import Assigned
from tuning.warm_start import Points

RUN = "a-20260101-000000-abcd"
TRADED = {"tradeoff": {"against": "cost", "give_up": 0.1}}
Opened = Callable[..., optuna.Study]
"""Called with a job, perhaps ``run`` and ``mode``."""


def job(**sweep: Any) -> JobSpec:
    space = {"train.learning_rate": "loguniform(1e-5, 1e-2)", "train.batch_size": "choice(8, 16, 32)"}
    train = {"method": "full", "learning_rate": 1e-3, "batch_size": 16}
    block = {"space": space, "trials": 6, **sweep}
    return JobSpec.model_validate({"name": "a", "base": "b", "data": "c", "train": train, "sweep": block})


@contextmanager
def opening(settings: Settings) -> Iterator[Opened]:
    """Opens a run's study, as often as there are sessions; all are closed at the end."""
    with ExitStack() as held:
        yield lambda of, run=RUN, mode="min": held.enter_context(open_study(of, run, settings, mode))


def search(
    study: optuna.Study, of: JobSpec, endings: dict[str, Ending | None] | None = None, starts: Points | None = None
) -> StudySearch:
    """A searcher whose trials complete with loss 1, unless ``endings`` says otherwise by their directory."""

    def ending(assigned: Assigned, result: Any) -> Ending | None:
        return (endings or {}).get(assigned.name, Ending(TrialState.COMPLETE, 1.0))

    mode = "max" if study.directions[0].name == "MAXIMIZE" else "min"
    return StudySearch(study, of, mode, ending, lambda: False, starts or {})
