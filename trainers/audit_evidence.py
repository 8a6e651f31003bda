"""What the audit looks at, and what a check hands back: every row behind a finding, not only the first five.

A finding that is printed shows five places; a fix needs all of them. So checks return ``Evidence`` with the rows that
would have to go, as indices into the audited rows, and the printed ``Finding`` is made from it at the very end, where
``data.audit.allow`` has its say. Nothing here judges the data.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cluster.personal_data import mask_personal_data
from cluster.records import Finding, Severity
from trainers.duplicates import RowHashes
from trainers.minhash import NearPairs
from trainers.rows import Row, SourceProblem
from trainers.tasks import is_answered

Indices = NDArray[np.int64]
NUM_SHOWN = 5
MASKED_CHARS = 20_000
"""Text that is masked before it is cut for show: longer than any key, so that no cut leaves half of one."""
TRAIN = "train"
VALIDATION = "validation"


@dataclass(frozen=True)
class TokenCounts:
    """Tokens of every row before and after ``max_length`` cuts it, each array of shape (N,).

    ``lengths`` and ``targets`` count the whole row; ``kept_targets`` are the target tokens among the first
    ``max_length``. ``readable`` is the most tokens that the base can read, where it has a bound.
    """

    lengths: NDArray[np.integer]
    targets: NDArray[np.integer]
    kept_targets: NDArray[np.integer]
    max_length: int
    readable: int | None = None


class _Traits(NamedTuple):
    """What the checks ask of every row, each of shape (N,)."""

    labels: list[str | None]
    answered: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    synthetic: NDArray[np.bool_]


@dataclass(frozen=True)
class AuditData:
    """Every row of every split, and what is known about them.

    ``split_of`` (N,) holds each row's place in ``split_names``; ``given`` names the splits that are files of the
    user's own; ``problems`` are what reading found, including rows that could not be read and are not in ``rows``;
    ``texts`` is what the rows' texts showed, where they were looked at before.
    """

    rows: Sequence[Row]
    split_of: NDArray[np.integer]
    split_names: Sequence[str]
    hashes: RowHashes
    near: NearPairs
    given: Collection[str] = ()
    problems: Sequence[SourceProblem] = ()
    tokens: TokenCounts | None = None
    texts: Sequence[Evidence] | None = None

    def rows_of(self, split: str) -> Indices:
        """Return the indices of one split's rows, none for a split that does not exist."""
        if split not in self.split_names:
            return np.empty(0, np.int64)
        return np.flatnonzero(self.split_of == list(self.split_names).index(split))

    @cached_property
    def train(self) -> Indices:
        """Indices of the training rows."""
        return self.rows_of(TRAIN)

    @property
    def answered(self) -> NDArray[np.bool_]:
        """Whether each row has an answer, shape (N,)."""
        return self._traits.answered

    @cached_property
    def kept(self) -> NDArray[np.bool_]:
        """Whether each row is used, shape (N,): it has an answer, of which ``max_length`` leaves a target token."""
        return self.answered if self.tokens is None else self.answered & (self.tokens.kept_targets > 0)

    @property
    def labels(self) -> list[str | None]:
        """Each row's class, or None."""
        return self._traits.labels

    @property
    def synthetic(self) -> NDArray[np.bool_]:
        """Whether each row is marked synthetic, shape (N,)."""
        return self._traits.synthetic

    @cached_property
    def is_classification(self) -> bool:
        """True where the answer of nearly every row that has one is its label."""
        num_labelled = int(np.sum(self._traits.labelled))
        return num_labelled > 0.9 * int(np.sum(self.answered))

    @cached_property
    def _traits(self) -> _Traits:
        """Read every row once."""
        labels: list[str | None] = []
        flags = np.empty((len(self.rows), 3), np.bool_)
        for index, row in enumerate(self.rows):
            labels.append(row.label)
            answered = is_answered(row)
            flags[index] = answered, answered and row.is_labelled, row.synthetic
        return _Traits(labels, *flags.T)


@dataclass(frozen=True)
class Evidence:
    """All rows behind one finding.

    ``rows`` are those that would have to go, ascending; ``unread`` the places of further rows that reading already
    left out; ``shown`` the rows to show where none has to go.
    """

    code: str
    severity: Severity
    rows: Indices
    detail: str
    remedy: str
    unread: Sequence[str] = ()
    shown: Sequence[int] = field(default_factory=tuple[int, ...])
    allowable: bool = True
    """False where nobody can allow it: there is nothing to go on with."""

    @property
    def count(self) -> int:
        """Rows that would have to go."""
        return len(self.rows) + len(self.unread)

    @property
    def first(self) -> list[int]:
        """The first rows, to be shown."""
        return self.rows[:NUM_SHOWN].tolist() or list(self.shown[:NUM_SHOWN])

    def finding(self, rows: Sequence[Row], allow: Collection[str]) -> Finding:
        """Return the finding as it is printed; an error that ``allow`` names (or "*") is only a warning."""
        places = [rows[index].where for index in self.first] + list(self.unread)
        allowed = self.severity == "error" and self.allowable and ("*" in allow or self.code in allow)
        return Finding(
            code=self.code,
            severity="warning" if allowed else self.severity,
            count=self.count,
            rows=places[:NUM_SHOWN],
            remedy=self.remedy,
            detail=self.detail,
        )


def counted(num: int, one: str, many: str = "") -> str:
    """Return a count with its noun: ``1 row``, ``1,202 rows``."""
    return f"{num:,} {one if num == 1 else many or one + 's'}"


def shortened(text: str, num_chars: int = 60) -> str:
    """Return a text in one line and quotes, personal data masked, cut to ``num_chars``."""
    line = " ".join(mask_personal_data(text[:MASKED_CHARS]).split())
    return f"“{line if len(line) <= num_chars else line[: num_chars - 1] + '…'}”"


def sampled(indices: Indices, max_rows: int, seed: int = 0) -> tuple[Indices, str]:
    """Return at most ``max_rows`` of the indices, ascending and the same every time, and a phrase that says so."""
    if len(indices) <= max_rows:
        return indices, ""
    chosen = np.random.default_rng(seed).choice(indices, max_rows, replace=False)
    return np.sort(chosen), f" (a sample of {max_rows:,} of {len(indices):,} rows)"
