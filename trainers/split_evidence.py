"""Splits and draws that did not come out as the job asks → findings that say why.

A wanted split without rows is no split: nothing picks the checkpoint, or nothing scores the release. Where the user
gave its file that is an error which nobody can allow, and where it was to be split off a warning with the cause. A
source of a mixture that gives fewer rows than its weight asks for is said, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainers.audit_evidence import TRAIN, VALIDATION, AuditData, Evidence, Indices, counted
from trainers.splits import inseparable_groups

if TYPE_CHECKING:
    from cluster.spec import DataSpec
    from trainers.rows import Row

TEST = "test"
NONE = np.empty(0, np.int64)


def emptied_evidence(data: AuditData) -> Iterator[Evidence]:
    """Yield an error for the training rows and for every given split of which no row can be used."""
    for name in (TRAIN, *data.given):
        rows = data.rows_of(name)
        if not len(rows) or data.kept[rows].any():
            continue
        missing = int(np.sum(~data.answered[rows]))
        cut = len(rows) - missing
        if name == TRAIN and (missing == len(rows) or _is_all_cut(data)):
            continue  # the audit says it already
        causes = [f"{counted(missing, 'row')} without an answer or label"] * (missing > 0)
        if data.tokens is not None:
            causes += [f"{counted(cut, 'row')} without a target token in max_length {data.tokens.max_length:,}"] * (
                cut > 0
            )
        code = "target_truncated" if cut else "target_missing"
        detail = f"nothing is left of {name}: {' and '.join(causes)}"
        remedy = "Raise train.max_length, or shorten the prompts." if cut else "Fill in the answers, or leave it out."
        yield Evidence(code, "error", rows, detail, remedy, allowable=False)


def _is_all_cut(data: AuditData) -> bool:
    return data.tokens is not None and bool((data.tokens.kept_targets < data.tokens.targets).all())


def unmet_evidence(spec: DataSpec, data: AuditData, main: Indices) -> Iterator[Evidence]:
    """Yield a warning for each split that was to be split off the training file's rows ``main`` and has none."""
    shares = {
        VALIDATION: 0.0 if spec.validation else spec.split.validation,
        TEST: 0.0 if spec.test else spec.split.test,
    }
    for name, share in shares.items():
        rows = data.rows_of(name)
        if not share or data.kept[rows].any():
            continue
        cause = _cause(data, rows, main, share)
        detail = f"{name} is empty, although data.split.{name} asks for {share:g}: {cause}"
        lost = "nothing scores the release" if name == TEST else "nothing picks the best checkpoint"
        remedy = f"Without it {lost}: add rows, or give it a file of its own (data.{name})."
        yield Evidence("small", "warning", NONE, detail, remedy, shown=main[:1].tolist())


def _cause(data: AuditData, rows: Indices, main: Indices, share: float) -> str:
    if len(rows):
        return f"of its {counted(len(rows), 'row')} none has an answer with a target token within max_length"
    if share * len(main) < 0.5:
        return f"{share:g} of {counted(len(main), 'row')} is less than half a row"
    sizes = np.unique(inseparable_groups(data.rows, data.hashes, data.near)[main], return_counts=True)[1]
    tied = (
        f"the {counted(len(main), 'row')} form {counted(len(sizes), 'group')} that must not be parted "
        f"(the same input, near-duplicates, or one columns.group)"
    )
    return f"{tied}, the smallest of {counted(int(sizes.min()), 'row')}; there is room for {share * len(main):.0f}"


def draw_evidence(spec: DataSpec, num_train: int, mixed: Mapping[str, Sequence[Row]]) -> Iterator[Evidence]:
    """Yield what is to be known of each source of the mixture whose weight cannot be met."""
    for source in spec.mix or []:
        asked, has = num_wanted(source.weight, num_train), len(mixed[source.name])
        weighed = f"{source.name}: weight {source.weight:g} of {counted(num_train, 'training row')}"
        if not asked:
            remedy = "Raise its weight, or leave the source out."
            yield Evidence("small", "warning", NONE, f"{weighed} rounds to 0 rows; none is drawn", remedy)
        elif asked > has:
            detail = f"{weighed} asks for {counted(asked, 'row')}, and it has {has:,}; all are used, each once"
            remedy = f"Add rows to it, or lower its weight to {has / num_train:.3g}, which is what it comes to."
            yield Evidence("small", "note", NONE, detail, remedy)


def num_wanted(weight: float, num_train: int) -> int:
    """Return how many rows a source is to give."""
    return round(weight * num_train)
