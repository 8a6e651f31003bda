"""A run's curves → TensorBoard and Weights & Biases, point by point while it trains (``tracking:`` in the job file).

MLflow, which is the registry as well, gets them thinned when the run is registered (``cluster.registry``); these two
are looked at while a run goes on. Both write into the run's directory (at a remote home through a mirror) and talk to
nobody: ``tensorboard --logdir`` and ``wandb sync`` do. A library is imported only where it was asked for, and a missing
one is refused before data are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import JobFileError
from cluster.places import is_remote
from trainers.mirror import Mirror

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""What an entry of ``tracking`` needs installed beyond hone; the extra of the same name brings it."""


class CurveTracker(Protocol):
    """Somewhere a run's points go; called on rank 0 alone."""

    def begin(self, step: int) -> None:
        """The run begins, or goes on, after ``step`` steps: points of an earlier attempt beyond it are void."""
        ...

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Keep the values of one step or evaluation."""
        ...

    def flush(self) -> None:
        """Bring to the disk what was noted."""
        ...

    def close(self) -> None:
        """The run has ended."""
        ...


class TensorBoardCurves:
    """Scalars in an event file; ``validation_`` and what was computed in training come in groups of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def begin(self, step: int) -> None:
        """Open a file that voids what earlier ones hold after ``step``."""
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(self._directory), purge_step=step + 1 if step else None)

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar a value."""
        for name, value in values.items():
            plain = name.removeprefix("validation_")
            self._writer.add_scalar(f"{'train' if plain == name else 'validation'}/{plain}", value, step)

    def flush(self) -> None:
        """Write the file out."""
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WandbCurves:
    """An offline run of Weights & Biases under hone's run id; `wandb sync` uploads it.

    A resumed run is a further offline run of the same id; its first points may repeat those that the lost attempt had,
    which are the same values.
    """

    def __init__(self, directory: Path, run: str, project: str) -> None:
        self._directory = directory
        self._name = run
        self._project = project
        self._wandb: Any = None
        self._run: Any = None

    def begin(self, step: int) -> None:
        """Start an offline run, or one that goes on."""
        self._wandb = wandb = import_module("wandb")
        self._directory.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            mode="offline",
            dir=str(self._directory),
            project=self._project,
            id=self._name,
            name=self._name,
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Log one step; what an evaluation adds to it is merged."""
        self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """Nothing: its service writes as it goes."""

    def close(self) -> None:
        """End the run, and wait for its service, which only then has written everything (wandb 0.31)."""
        self._run.finish()
        self._wandb.teardown()


class PushedCurves:
    """What the trackers before it wrote, brought to a remote store whenever they have flushed."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror

    def begin(self, step: int) -> None:
        """Nothing."""

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Bring what has changed to the store."""
        self._mirror.push()

    def close(self) -> None:
        """Bring the rest to the store."""
        self._mirror.push()


def curve_trackers(tracking: Sequence[str], root: str | Path, run: str, job: str) -> list[CurveTracker]:
    """Return a run's live trackers, which write below ``root``, a path or URL; for W&B the job is its project."""
    trackers: list[CurveTracker] = []
    mirror = Mirror(root)
    if "tensorboard" in tracking:
        trackers.append(TensorBoardCurves(mirror.path / "tensorboard"))
    if "wandb" in tracking:
        trackers.append(WandbCurves(mirror.path, run, job))
    return [*trackers, PushedCurves(mirror)] if trackers and is_remote(root) else trackers


def refuse_untracked(tracking: Sequence[str]) -> None:
    """Raise JobFileError where a package that ``tracking`` needs is not installed."""
    for place, name in enumerate(tracking):
        package = PACKAGES.get(name)
        if package is not None and find_spec(package) is None:
            raise JobFileError(
                f"tracking by {name} needs the package {package}, which is not installed",
                f"pip install 'hone[{name}]', or remove {name} from tracking",
                f"tracking.{place}",
            )
