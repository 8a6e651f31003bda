"""Every row of a job → what is wrong with the data, how often, where, and what to do about it.

The audit runs before anything is trained, needs no torch and is deterministic. What single rows, languages, sets of
rows, classes and amounts show is found in a module each (``audit_text``, ``audit_languages``, ``audit_sets``,
``audit_labels``, ``audit_size``); this one adds what reading the files already noticed, puts the findings in order of
weight, and lets ``data.audit`` decide what passes. Checks whose cost grows faster than the rows look at a sample and
say so in the finding.

Left out: changing the rows, which ``audit_fixes`` does where the user asks for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainers.audit_evidence import AuditData, Evidence, counted
from trainers.audit_labels import balance_evidence, suspect_evidence
from trainers.audit_sets import conflict_evidence, duplicate_evidence, leakage_evidence
from trainers.audit_size import (
    diversity_evidence,
    length_evidence,
    small_evidence,
    synthetic_evidence,
    truncation_evidence,
)
from trainers.first_look import texts_evidence

if TYPE_CHECKING:
    from cluster.records import Finding
    from cluster.spec import AuditSpec

__all__ = ["audit", "audit_evidence", "weighed"]

WEIGHTS = ("error", "warning", "note")
REMEDIES = {
    "target_missing": "Fill in the answers, or drop the rows: audit: {fix: [target_missing]}; they teach nothing.",
    "turn_empty": "Fill in the turns, or drop the rows: audit: {fix: [turn_empty]}.",
    "roles_broken": "Write turns as system, user, assistant, user, … as the template reads them, or drop the rows: "
    "audit: {fix: [roles_broken]}.",
    "format_mixed": "Write every row of a file in one format; rows that cannot be read are left out.",
}


def audit(data: AuditData, spec: AuditSpec) -> list[Finding]:
    """Return all findings, errors first; ``spec.allow`` turns the errors it names into warnings ("*": all)."""
    return [finding for finding, _ in weighed(data, spec)]


def weighed(data: AuditData, spec: AuditSpec, further: Sequence[Evidence] = ()) -> list[tuple[Finding, Evidence]]:
    """Return all findings as ``audit`` does, each with the evidence behind it; ``further`` was found elsewhere."""
    every = [*audit_evidence(data, spec), *further]
    found = [(evidence.finding(data.rows, spec.allow), evidence) for evidence in every]
    return sorted(found, key=lambda pair: WEIGHTS.index(pair[0].severity))


def audit_evidence(data: AuditData, spec: AuditSpec) -> list[Evidence]:
    """Return every finding with all its rows; of equal severity, the first here is printed first."""
    return [
        *_problem_evidence(data, spec),
        *(texts_evidence(data.rows, spec.language_frac) if data.texts is None else data.texts),
        *duplicate_evidence(data, spec.near_similarity),
        *leakage_evidence(data),
        *conflict_evidence(data),
        *balance_evidence(data, spec.imbalance_ratio, spec.rare_rows),
        *suspect_evidence(data, spec.suspect_neighbours, spec.sample_rows),
        *length_evidence(data, spec.outlier_factor),
        *truncation_evidence(data),
        *diversity_evidence(data, spec.min_diversity, spec.sample_rows),
        *synthetic_evidence(data, spec.synthetic_frac),
        *small_evidence(data, spec.small_rows),
    ]


def _problem_evidence(data: AuditData, spec: AuditSpec) -> list[Evidence]:
    """Return what reading noticed; a place that is among no rows was unreadable, or dropped by a fix."""
    if not data.problems:
        return []
    places = {problem.where for problem in data.problems}
    rows_at: defaultdict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(data.rows):
        if row.where in places:
            rows_at[row.where].append(index)
    evidence: list[Evidence] = []
    for code, remedy in REMEDIES.items():
        problems = [problem for problem in data.problems if problem.code == code]
        rows = np.unique([index for problem in problems for index in rows_at.get(problem.where, [])]).astype(np.int64)
        unreadable = code in ("roles_broken", "format_mixed") and code not in spec.fix
        unread = sorted({problem.where for problem in problems if problem.where not in rows_at}) if unreadable else []
        if not len(rows) and not unread:
            continue
        seen = Counter(problem.detail for problem in problems)
        ranked = sorted(seen.items(), key=lambda item: (-item[1], item[0]))
        detail = "; ".join(f"{what} ×{times:,}" for what, times in ranked[:3])
        if unread:
            detail += f"; {counted(len(unread), 'row')} could not be read"
        if code == "target_missing":
            detail += "; they are left out of training and of every split that judges"
        every_row = code == "target_missing" and np.isin(data.train, rows).all()
        severity = "error" if code == "roles_broken" or every_row else "warning"
        evidence.append(Evidence(code, severity, rows, detail, remedy, unread))
    return evidence
