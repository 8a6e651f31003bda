"""Batches of live prompts and never used rows of the sketch → evidence that the two differ, valid at every look.

Testing by betting (Shekhar and Ramdas, arXiv 2112.09162; with classifiers Pandeva et al., arXiv 2210.13027): a
classifier that has only seen earlier rows scores the next pairs of one live and one reference row, and money is bet on
the live row scoring higher. While both come from one distribution no such game is favourable, so the fortune, which
begins at 1, ever reaches 1/α with probability at most α (Ville). However often it is looked at changes nothing: rows
are played in their order, in batches of a fixed size, whoever looks.

- A pair's stake is λ·(g(live) − g(reference)) with g in 0..1: the score's place among earlier reference scores, or
  whether it is among their highest fifth or twentieth (few foreign rows show only there). All λ and g share the money.
- Drift begins some day, so money is also held back for every later batch: the j-th gets 1/(j(j+1)) of it (a mixture
  over times of change as in Shin, Ramdas and Rinaldo, arXiv 2203.03532). A late change costs some batches, not weeks.
- A sketch has 5,000 rows and a reference row is played once. So there are **passes**: when the rows are used up, after
  a week of ten batches, or after a week without new users, everything is forgotten and the sketch is shuffled anew.
  Pass k spends α/(k(k+1)).
  Within a pass a later row's luck would depend on an earlier one's; across passes only the union bound is used.
- **A user plays once a pass** (with their first row): rows of one user resemble each other, and 17–42 % false alarms
  come of counting them as independent. The same for prompts with the same terms: a prompt that many send counts once,
  on both sides.

Left out: how strong a drift is (``serving.two_sample`` shows that); a drift of repeated prompts' frequencies alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cluster.records import Record
from serving.drift_judge import MANY_ROWS, PAYOFFS, Judge, Rows, scores_of

ALPHA = 0.05
BATCH = 50
LEAST_REFERENCE = 4 * BATCH
"""Different prompts of a sketch, below which nothing is tested."""
STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)
RANKING_FRAC, FITTING_FRAC = 0.1, 0.1
"""Shares of the sketch that only rank scores, and that are fitted from the start; the others are played."""
WINDOW = MANY_ROWS
"""Live rows that are remembered for classifiers to be fitted to, the newest."""
REFIT_PART, MOST_STALE = 5, 2
"""A classifier is fitted again when it has missed a fifth of what it has seen, or two batches."""
PASS_S = 7 * 86400.0
PASS_BATCHES, LEAST_BATCHES = 10, 2
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Live:
    """Live rows in the order of time: which request each was, a mark of its user, and what is known of its prompt."""

    requests: Sequence[str]
    units: Sequence[int]
    times_s: Sequence[float]
    rows: Rows


@dataclass(frozen=True)
class Reference:
    """The sketch's rows, and its id, by which they are shuffled."""

    id: str
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows.marks)


class Pass(Record):
    """One pass through the sketch: what was played, and what became of the money.

    ``fortunes`` are those begun so far, by score, payoff and stake. Marks are 32 bits of a hash.
    """

    number: int = 1
    began_s: float
    after_s: float = Field(description="when the last row of this or an earlier pass was asked")
    after: str = Field(default="", description="that row's request")
    batches: int = 0
    used: int = Field(default=0, description="rows of the shuffled sketch that were played or passed over")
    fitted: int = Field(default=0, description="batches that the classifiers in use have seen")
    fitted_used: int = Field(default=0, description="``used`` at that time")
    fortunes: list[float]
    evidence: float = Field(default=1.0, description="the fortune after the last batch")
    live: list[str] = Field(default_factory=list[str], description="requests that classifiers are fitted to, in order")
    units: list[int] = Field(default_factory=list[int], description="marks of the users who have played")
    prompts: list[int] = Field(default_factory=list[int], description="marks of the prompts that were played")
    references: list[int] = Field(default_factory=list[int], description="the same of the sketch's rows")

    @property
    def threshold(self) -> float:
        """The evidence at which this pass finds drift: all passes' error budgets sum to ``ALPHA``."""
        return self.number * (self.number + 1) / ALPHA

    @classmethod
    def begun(cls, num_blocks: int, number: int, after_s: float, after: str = "") -> Self:
        """Return a pass in which nothing was played."""
        fortunes = [0.0] * (len(scores_of(num_blocks)) * PAYOFFS * len(STAKES))
        return cls(number=number, began_s=after_s, after_s=after_s, after=after, fortunes=fortunes)


@dataclass(frozen=True)
class Course:
    """A pass after all complete batches, the row at which drift was found, and how many rows wait for a batch."""

    state: Pass
    found_s: float | None
    waiting: int


def play(state: Pass, reference: Reference, live: Live, earlier: Rows) -> Course:
    """Play every complete batch of the live rows after ``state.after``; ``earlier`` are those of ``state.live``.

    Stops where drift is found. The reference must be ``is_enough``.
    """
    assert is_enough(reference), "a sketch of a few rows gives no pairs to play"
    game = Game(reference, live, earlier)
    start = _after(state, live)
    while True:
        batch, start_next = _next_batch(state, live, start)
        now_s = live.times_s[start_next - 1] if start_next else state.after_s
        if _is_over(state, len(reference), now_s):
            state = Pass.begun(len(earlier.blocks), state.number + 1, state.after_s, state.after)
            game.known = game.known.picked([])
            continue
        if len(batch) < BATCH:
            return Course(state, None, len(batch))
        state = _after_batch(state, game, batch)
        start = start_next
        if state.evidence >= state.threshold:
            return Course(state, now_s, 0)


def is_enough(reference: Reference) -> bool:
    """Return whether a sketch has enough different prompts for a pass of some batches."""
    return len(set(reference.rows.marks)) >= LEAST_REFERENCE


def _after(state: Pass, live: Live) -> int:
    """Return the place of the first row that is not behind us."""
    for place, (time_s, request) in enumerate(zip(live.times_s, live.requests, strict=True)):
        if (time_s, request) > (state.after_s, state.after):
            return place
    return len(live.requests)


def _next_batch(state: Pass, live: Live, start: int) -> tuple[list[int], int]:
    """Return the places of the next batch, of users and prompts that have not played yet, and where to go on."""
    units, prompts, batch = set(state.units), set(state.prompts), list[int]()
    for place in range(start, len(live.requests)):
        unit, prompt = live.units[place], live.rows.marks[place]
        if unit in units or prompt in prompts:
            continue
        units.add(unit)
        prompts.add(prompt)
        batch.append(place)
        if len(batch) == BATCH:
            return batch, place + 1
    return batch, len(live.requests)


def _is_over(state: Pass, sketch_rows: int, now_s: float) -> bool:
    """Return whether a new pass begins: the sketch is used up, or a week is, or no new users have come for one."""
    is_old = now_s - state.began_s > PASS_S and state.batches >= PASS_BATCHES
    is_known = now_s - state.after_s > PASS_S and state.batches >= LEAST_BATCHES
    return is_old or is_known or sketch_rows - _first_played(sketch_rows) - state.used < BATCH


def _after_batch(state: Pass, game: Game, batch: Sequence[int]) -> Pass:
    """Return the pass after a batch of the live rows at these places."""
    live, reference = game.live, game.reference
    order = np.random.default_rng([int(reference.id, 16), state.number]).permutation(len(reference)).tolist()
    first = _first_played(len(order))
    fresh, used = _next_reference(state, reference, order[first + state.used :])
    chosen = live.rows.picked(batch)
    if state.batches >= _refit_at(state.fitted):
        state = state.model_copy(update={"fitted": state.batches, "fitted_used": state.used})
    gains = None
    if state.fitted and len(fresh) == BATCH:
        gains = game.judge(state, order).gains(reference.rows.picked(fresh), chosen)
    fortunes, evidence = _bet(state, gains)
    requests = [live.requests[place] for place in batch]
    last = batch[-1]
    game.known = game.known.followed_by(chosen, WINDOW)
    changes = {
        "after_s": live.times_s[last], "after": live.requests[last], "batches": state.batches + 1,
        "used": state.used + used, "fortunes": fortunes, "evidence": evidence,
        "live": [*state.live, *requests][-WINDOW:],
        "units": [*state.units, *(live.units[place] for place in batch)],
        "prompts": [*state.prompts, *chosen.marks],
        "references": [*state.references, *(reference.rows.marks[place] for place in fresh)],
    }  # fmt: skip
    return state.model_copy(update=changes)


@dataclass
class Game:
    """What one call of ``play`` has before it: both sides, the live rows it may fit to, and the last judge."""

    reference: Reference
    live: Live
    known: Rows
    _judge: tuple[tuple[int, int], Judge] | None = None

    def judge(self, state: Pass, order: Sequence[int]) -> Judge:
        """Return the judge that is fitted to the pass's first ``state.fitted`` batches."""
        key = (state.number, state.fitted)
        if self._judge is None or self._judge[0] != key:
            too_new = (state.batches - state.fitted) * BATCH
            known = self.known.picked(range(max(0, len(self.known.marks) - too_new)))
            num_ranking = int(len(order) * RANKING_FRAC)
            ranking = self.reference.rows.picked(order[:num_ranking])
            fitted = self.reference.rows.picked(order[num_ranking : _first_played(len(order)) + state.fitted_used])
            self._judge = (key, Judge.of(fitted, known, ranking))
        return self._judge[1]


def _refit_at(fitted: int) -> int:
    """Return after how many batches a classifier is fitted again that has seen ``fitted``: the more the later."""
    return fitted + max(1, min(fitted // REFIT_PART, MOST_STALE))


def _first_played(sketch_rows: int) -> int:
    """Return where in the shuffled sketch the rows begin that are played."""
    return int(sketch_rows * RANKING_FRAC) + int(sketch_rows * FITTING_FRAC)


def _next_reference(state: Pass, reference: Reference, left: Sequence[int]) -> tuple[list[int], int]:
    """Return the next batch of the sketch's rows, prompts that were played passed over, and how many that uses up."""
    seen, fresh = set(state.references), list[int]()
    for used, place in enumerate(left, start=1):
        if reference.rows.marks[place] not in seen:
            seen.add(reference.rows.marks[place])
            fresh.append(place)
            if len(fresh) == BATCH:
                return fresh, used
    return fresh, len(left)


def _bet(state: Pass, gains: Sequence[Floats] | None) -> tuple[list[float], float]:
    """Return the fortunes after a batch with these gains, and all money together; None: nothing was bet.

    Every payoff and stake is given its share of the batch's money, and all it has is multiplied by 1 + λ·gain for each
    pair. What later batches will be given counts as it is.
    """
    batch = state.batches + 1
    fortunes = np.array(state.fortunes) + 1 / (batch * (batch + 1) * len(state.fortunes))
    if gains is not None:
        growth = np.array([float(np.log1p(stake * gain).sum()) for gain in gains for stake in STAKES])
        fortunes = np.minimum(fortunes * np.exp(np.minimum(growth, 300.0)), 1e100)
    return fortunes.tolist(), float(fortunes.sum()) + 1 / (batch + 1)
