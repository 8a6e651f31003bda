"""A job's answers to its tests → the looks at a release that go beyond scores, each only where the job asks for it.

The evaluation stage asks every model for every test once; what can be seen in those answers (slices) costs nothing
more. Looks that need answers of their own say which, and get them back with the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster.acceptance_records import Acceptance, General, Robustness, SliceTable
from trainers.faithfulness import Faithfulness, faithfulness_of
from trainers.general import GeneralRows, general, likelihoods, names_general, read_general
from trainers.inference import Inference
from trainers.memorisation import Recital, beginnings, memorisation
from trainers.metrics import ALWAYS
from trainers.prepared import TRAIN, VALIDATION
from trainers.robustness import changed_examples, kinds, repeated, robustness, sample
from trainers.sampled import Sampled
from trainers.slices import members, slice_table

if TYPE_CHECKING:
    from pathlib import Path

    from cluster.spec import JobSpec
    from trainers.metrics import Predictions
    from trainers.prepared import Prepared
    from trainers.splits import EvaluationExample

SLICE_SEED = 0
CHANGED, REPEATED, GENERAL, RECITED = "changed", "repeated", "general", "recited"
Answers = Mapping[tuple[str, str], "Predictions"]
"""What each model said: by role and test."""
Further = tuple[str, str]
"""What is asked beside that: of which look, and which test or model."""


@dataclass(frozen=True)
class Looks:
    """The looks that a job asks for, at the examples of its tests and the metrics of each; ``models`` by role."""

    job: JobSpec
    prepared: Prepared
    tests: Mapping[str, list[EvaluationExample]]
    names: Mapping[str, list[str]]
    models: Mapping[str, str]

    def with_values(self, answers: Answers) -> dict[tuple[str, str], Predictions]:
        """Return the answers with the values that they lack and add counted, where the job asks for that."""
        counting = self._faithfulness
        if counting is None:
            return dict(answers)
        tests = self.prepared.record.tests
        return {
            (role, test): counting.counted(self.tests[test], said) if test in tests else said
            for (role, test), said in answers.items()
        }

    def asked(self) -> dict[Further, Inference | Recital]:
        """Return what has to be asked beside the tests' own examples."""
        found: dict[Further, Inference | Recital] = {}
        for test in self._disturbed:
            found |= self._disturbances(test)
        if (rows := self._general_rows) is not None:
            found |= {(GENERAL, role): self._inference(role, rows.examples, rows.labels) for role in ("tuned", "base")}
        if (spec := self.job.evaluate.memorisation) is not None:
            trained, held_out = (beginnings(paths, spec, self.job.data.split.seed) for paths in self._recited_files)
            found[RECITED, "tuned"] = Recital(
                self.models["tuned"], trained, held_out, batch_rows=self.job.evaluate.batch_size
            )
        return found

    def found(self, answers: Answers, further: Mapping[Further, Any]) -> Acceptance:
        """Return what all looks found, from the answers to the tests and to what was asked beside."""
        recited = further.get((RECITED, "tuned"))
        spec = self.job.evaluate.memorisation
        return Acceptance(
            slices=self._slices(answers),
            robustness={test: self._robustness(test, answers["tuned", test], further) for test in self._disturbed},
            general=self._general(answers, further),
            memorisation=None if spec is None or recited is None else memorisation(recited[0], recited[1], spec),
        )

    @property
    def _disturbed(self) -> list[str]:
        """The tests whose inputs can be changed: not those of plain text."""
        if self.job.evaluate.robustness is None:
            return []
        return [test for test in self.prepared.record.tests if any(one.prompt for one in self.tests[test])]

    def _sample(self, test: str) -> tuple[NDArray[np.int64], list[EvaluationExample]]:
        assert self.job.evaluate.robustness is not None, "only tests that are disturbed have a sample"
        places = sample(self.tests[test], self.job.evaluate.robustness)
        return places, [self.tests[test][place] for place in places.tolist()]

    def _disturbances(self, test: str) -> dict[Further, Inference | Recital]:
        spec = self.job.evaluate.robustness
        assert spec is not None, "only tests that are disturbed are asked about"
        _, examples = self._sample(test)
        labels = self.prepared.record.labels
        changed = [one for kind in kinds(spec) for one in changed_examples(examples, kind, spec.seed)]
        found: dict[Further, Inference | Recital] = {(CHANGED, test): self._inference("tuned", changed, labels)}
        if spec.repeats:
            sampled = Sampled(spec.temperature, spec.seed)
            asked = self._inference("tuned", repeated(examples, spec.repeats), labels)
            found[REPEATED, test] = replace(asked, sampled=sampled, score_references=False)
        return found

    def _robustness(self, test: str, tuned: Predictions, further: Mapping[Further, Any]) -> Robustness:
        spec = self.job.evaluate.robustness
        assert spec is not None, "only tests that are disturbed are looked at"
        places, examples = self._sample(test)
        said: Predictions = further[CHANGED, test]
        size = len(examples)
        changed = {
            kind: (
                changed_examples(examples, kind, spec.seed),
                self._counted(examples, said.at(np.arange(at * size, (at + 1) * size))),
            )
            for at, kind in enumerate(kinds(spec))
        }
        return robustness(tuned.at(places), examples, changed, further.get((REPEATED, test)), self.names[test], spec)

    def _inference(self, role: str, examples: list[EvaluationExample], labels: list[str]) -> Inference:
        job = self.job
        return Inference(
            model=self.models[role],
            examples=examples,
            template=None if role == "tuned" else job.data.template,
            label_names=labels,
            max_new_tokens=job.evaluate.max_new_tokens,
            batch_rows=job.evaluate.batch_size,
            max_length=self.prepared.record.max_length,
        )

    def _counted(self, examples: list[EvaluationExample], said: Predictions) -> Predictions:
        """Return answers to changed inputs with their values counted against the inputs as they were."""
        return said if self._faithfulness is None else self._faithfulness.counted(examples, said)

    @cached_property
    def _faithfulness(self) -> Faithfulness | None:
        spec = self.job.evaluate.faithfulness
        return None if spec is None else faithfulness_of(spec, self.prepared, self.tests)

    @cached_property
    def _general_rows(self) -> GeneralRows | None:
        spec = self.job.evaluate.general
        return None if spec is None else read_general(spec, self.prepared.rows(TRAIN), self.job.data.split.seed)

    def _general(self, answers: Answers, further: Mapping[Further, Any]) -> General | None:
        rows = self._general_rows
        if rows is not None:
            tuned, base = further[GENERAL, "tuned"], further[GENERAL, "base"]
            return general("evaluate.general", tuned, base, rows.names, rows.left_out)
        mixed = list(self.prepared.record.slices)
        if not mixed or not names_general(self.job.gate):
            return None
        tuned, base = (likelihoods([answers[role, name] for name in mixed]) for role in ("tuned", "base"))
        return general(f"data.mix: {', '.join(mixed)}", tuned, base, ALWAYS)

    @property
    def _recited_files(self) -> tuple[list[Path], list[Path]]:
        """Token files of the rows that were trained on, and of those held out: tests, or validation without any."""
        held_out = self.prepared.record.tests or [VALIDATION]
        trained, others = ([self.prepared.tokens_path(name) for name in names] for names in ([TRAIN], held_out))
        return [path for path in trained if path], [path for path in others if path]

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
