"""A job's looks at its release and the prepared data → nothing, or why the data can never answer them.

Said before training: a column that no test row has, a gate rule about slices of a test that has none of them. What
can be seen in the job file alone is refused with it (cluster/evaluate_spec.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cluster.errors import JobFileError
from trainers.faithfulness import faithfulness_of
from trainers.gate_rules import WHERE, parse_rule
from trainers.general import read_general
from trainers.metrics import ALWAYS
from trainers.prepared import TRAIN
from trainers.slices import has_column, refuse_unknown_slices
from trainers.splits import evaluation_examples

if TYPE_CHECKING:
    from cluster.spec import JobSpec
    from trainers.gate_rules import Operand
    from trainers.prepared import Prepared
    from trainers.rows import Row


def refuse_blind_looks(job: JobSpec, prepared: Prepared) -> None:
    """Raise JobFileError for a look that this data has nothing to show for."""
    if job.evaluate.slices:
        rows = {test: prepared.rows(test) for test in prepared.record.tests}
        refuse_unknown_slices(job.evaluate.slices, rows, prepared.record.files)
        _refuse_tests_without_slices(job.gate, rows, prepared)
    if (spec := job.evaluate.faithfulness) is not None:
        tests = {test: evaluation_examples(prepared.rows(test)) for test in prepared.record.tests}
        faithfulness_of(spec, prepared, tests)
    _refuse_text_without_inputs(job.gate, prepared)
    _refuse_general_without_scores(job, prepared)


def _refuse_tests_without_slices(rules: Sequence[str], tests: Mapping[str, Sequence[Row]], prepared: Prepared) -> None:
    """Refuse a rule about slices of a test where no row has the column; without a test's name it speaks of all."""
    for text in rules:
        for side in parse_rule(text).sides:
            if side.term is None or side.term.takes != "a column":
                continue
            for test in _tests_of(side, prepared):
                if test not in tests:
                    what = f"gate rule {text!r}: {test} is a further source, and slices are those of tests"
                    raise JobFileError(what, "name a test, or none", WHERE)
                if not has_column(side.argument, tests[test], prepared.record.files):
                    what = f"gate rule {text!r}: no row of {test} has a value of {side.argument!r}"
                    others = [name for name in tests if has_column(side.argument, tests[name], prepared.record.files)]
                    remedy = f"name a test that has it: {', '.join(f'{name}.{side.key}' for name in others)}"
                    raise JobFileError(what, remedy, WHERE)


def _refuse_text_without_inputs(rules: Sequence[str], prepared: Prepared) -> None:
    """Refuse a rule about changed inputs or repeated answers where tests are plain text, which has neither."""
    for text in rules:
        for side in parse_rule(text).sides:
            asks = side.term is not None and side.term.name in ("robustness_drop", "consistency")
            if asks and (prepared.record.task == "text" or side.test in prepared.record.slices):
                what = f"gate rule {text!r}: only a test with prompts and answers has changed inputs"
                raise JobFileError(what, "remove the rule, or name such a test", WHERE)


def _refuse_general_without_scores(job: JobSpec, prepared: Prepared) -> None:
    """Refuse general rows that cannot be read, and rules about scores that they have nothing for."""
    names: Sequence[str] = ALWAYS
    if (spec := job.evaluate.general) is not None:
        names = read_general(spec, prepared.rows(TRAIN), job.data.split.seed).names
    for text in job.gate:
        for side in parse_rule(text).sides:
            if side.term is None or not side.term.name.startswith("general_"):
                continue
            if spec is None and not prepared.record.slices:
                what = f"gate rule {text!r}: data.mix holds no rows out"
                raise JobFileError(what, "name general rows: evaluate.general", WHERE)
            if side.argument and side.argument not in names:
                what = f"gate rule {text!r}: general rows have no {side.argument!r}"
                raise JobFileError(what, f"use one of: {', '.join(names)}", WHERE)


def _tests_of(side: Operand, prepared: Prepared) -> list[str]:
    return [side.test] if side.test else prepared.record.tests
