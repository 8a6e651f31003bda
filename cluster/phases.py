"""How long each stage of a run took, attempt by attempt, written down as stages begin and end.

``runs/RUN/phases.json`` has an entry for every time that a stage was entered. One without a time is still going on, or
its process was killed: nothing can say when, so no number stands for it, and sums over it are lower bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from pydantic import TypeAdapter

from cluster.errors import StoreError
from cluster.records import Record
from cluster.runs import RUNS
from cluster.store import Store

PHASES = "phases.json"


class Phase(Record):
    """One attempt at a stage."""

    stage: str
    took_s: float | None = None
    done: bool = False


_PHASES = TypeAdapter(list[Phase])


@dataclass(frozen=True)
class StageTime:
    """What all attempts at a stage took; at least that where one of them was killed (``is_known`` is False)."""

    stage: str
    took_s: float
    attempts: int
    is_known: bool


def read_phases(store: Store, run: str) -> list[Phase]:
    """Return a run's attempts at stages in the order in which they began; none where nothing was written down."""
    if not store.exists(RUNS, run, PHASES):
        return []
    return _PHASES.validate_python(store.get_json(RUNS, run, PHASES))


def note_phase(store: Store, run: str, phase: Phase) -> None:
    """Add an attempt that is over."""
    _write(store, run, [*read_phases(store, run), phase])


@contextmanager
def timed(store: Store, run: str, stage: str, clock: Callable[[], float] = time.monotonic) -> Generator[None]:
    """Write down that a stage begins, and when the block ends what it took; an error of the block stays the error."""
    past = read_phases(store, run)
    began_s = clock()
    _write(store, run, [*past, Phase(stage=stage)])
    try:
        yield
    except BaseException:
        with suppress(StoreError):
            _write(store, run, [*past, Phase(stage=stage, took_s=clock() - began_s)])
        raise
    _write(store, run, [*past, Phase(stage=stage, took_s=clock() - began_s, done=True)])


def stage_times(phases: Sequence[Phase]) -> list[StageTime]:
    """Return what each stage took over all its attempts, in the order in which stages were first entered."""
    by_stage: dict[str, list[float | None]] = {}
    for phase in phases:
        by_stage.setdefault(phase.stage, []).append(phase.took_s)
    return [
        StageTime(stage, sum(took for took in times if took is not None), len(times), None not in times)
        for stage, times in by_stage.items()
    ]


def duration(seconds: float) -> str:
    """Return a time as a person says it: 40 ms, 5.2 s, 48 s, 12 min 05 s, 3 h 07 min."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min"


def _write(store: Store, run: str, phases: Sequence[Phase]) -> None:
    store.put_json([phase.model_dump(mode="json") for phase in phases], RUNS, run, PHASES)
