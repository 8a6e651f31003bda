"""A job's answers to its tests → the looks at a release that go beyond scores, each only where the job asks for it.

The evaluation stage asks every model for every test once; what can be seen in those answers (slices) costs nothing
more. Looks that need answers of their own say which, and get them back with the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.acceptance_records import Acceptance, SliceTable
from trainers.slices import members, slice_table

if TYPE_CHECKING:
    from cluster.spec import JobSpec
    from trainers.metrics import Predictions
    from trainers.prepared import Prepared
    from trainers.splits import EvaluationExample

SLICE_SEED = 0
Answers = Mapping[tuple[str, str], "Predictions"]
"""What each model said: by role and test."""


@dataclass(frozen=True)
class Looks:
    """The looks that a job asks for, at the examples of its tests and the metrics of each."""

    job: JobSpec
    prepared: Prepared
    tests: Mapping[str, list[EvaluationExample]]
    names: Mapping[str, list[str]]

    def found(self, answers: Answers) -> Acceptance:
        """Return what all looks found."""
        return Acceptance(slices=self._slices(answers))

    def _slices(self, answers: Answers) -> dict[str, dict[str, dict[str, SliceTable]]]:
        columns = list(dict.fromkeys(self.job.evaluate.slices))
        if not columns:
            return {}
        least = self.job.evaluate.min_slice_examples
        record = self.prepared.record
        tables: dict[str, dict[str, dict[str, SliceTable]]] = {}
        for test in record.tests:
            rows = self.prepared.rows(test)
            divided = {column: members(self.tests[test], rows, column, record.files) for column in columns}
            for role in [role for role, of in answers if of == test]:
                tables.setdefault(role, {})[test] = {
                    column: slice_table(answers[role, test], found, self.names[test], least, SLICE_SEED)
                    for column, found in divided.items()
                    if found is not None
                }
        return tables
