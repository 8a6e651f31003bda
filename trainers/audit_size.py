"""The audit of amounts: too few rows, too little variety, rows far too long, and what ``max_length`` cuts.

Lengths are judged on a logarithmic scale, since texts' lengths are skewed: an outlier lies ``outlier_factor``
interquartile ranges above the upper quartile of log lengths and is at least twice that quartile, which clean
log-normal lengths practically never reach. Variety is the distinct share of the answers' word trigrams (of the inputs'
in classification, where answers are labels), after exact copies are left out, which are a finding of their own.
"""

from __future__ import annotations

import math
import re

import numpy as np

from trainers.audit_evidence import TRAIN, AuditData, Evidence, Indices, TokenCounts, counted, sampled

WORD = re.compile(r"\w+")
MIN_TRIGRAMS = 2000
MIN_OUTLIER_ROWS = 20
NUM_TEST_ROWS = 100
NONE = np.empty(0, np.int64)


def length_evidence(data: AuditData, outlier_factor: float) -> list[Evidence]:
    """Return the rows that are far longer than the others, in tokens where they are known."""
    if len(data.rows) < MIN_OUTLIER_ROWS:
        return []
    unit = "character" if data.tokens is None else "token"
    lengths = _num_chars(data) if data.tokens is None else np.maximum(data.tokens.lengths, 1).astype(np.float64)
    low, high = np.quantile(np.log(lengths), [0.25, 0.75])
    bound = max(math.exp(high + outlier_factor * (high - low)), 2 * math.exp(high))
    rows = np.flatnonzero(lengths > bound)
    if not len(rows):
        return []
    detail = (
        f"the longest has {counted(int(lengths.max()), unit)}; the median is {np.median(lengths):,.0f}, "
        f"the bound {bound:,.0f}"
    )
    remedy = "Look at them: shorten or split them, or drop them: audit: {fix: [length_outlier]}."
    return [Evidence("length_outlier", "warning", rows, detail, remedy)]


def _num_chars(data: AuditData) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    totals = (max(1, sum(len(message["content"]) for message in row.messages)) for row in data.rows)
    return np.fromiter(totals, np.float64, len(data.rows))


def truncation_evidence(data: AuditData) -> list[Evidence]:
    """Return the rows that ``max_length`` cuts, and those that lose target tokens; an error where every row does."""
    counts = data.tokens
    if counts is None:
        return []
    cut = np.flatnonzero(counts.lengths > counts.max_length)
    losing = np.flatnonzero(counts.kept_targets < counts.targets)
    evidence: list[Evidence] = []
    longest = int(counts.lengths.max(initial=0))
    if len(cut):
        detail = f"longer than max_length {counts.max_length:,}; the longest has {longest:,} tokens"
        remedy = f"{_raised(counts, longest)}horten them, or drop them: audit: {{fix: [truncated]}}."
        evidence.append(Evidence("truncated", "warning", cut, detail, remedy))
    if len(losing):
        lost = int((counts.targets - counts.kept_targets)[losing].sum())
        empty = int(np.sum(counts.kept_targets[losing] == 0))
        total = int(counts.targets.sum())
        detail = f"{lost:,} of {counted(total, 'target token')} are cut; {counted(empty, 'row')} keep none"
        detail += " and are left out, of validation and test too" * (empty > 0)
        remedy = f"{_raised(counts, longest)}horten them, or drop them (audit: {{fix: [target_truncated]}}): "
        remedy += "their answers never end."
        severity = "error" if len(losing) == len(data.rows) else "warning"
        evidence.append(Evidence("target_truncated", severity, losing, detail, remedy))
    return evidence


def _raised(counts: TokenCounts, longest: int) -> str:
    """Return how far ``max_length`` may usefully be raised, and the beginning of what else to do."""
    bound = longest if counts.readable is None else min(longest, counts.readable)
    if bound <= counts.max_length:
        return f"The base reads no more than {counts.max_length:,} tokens: s"
    short = f", which is all that the base reads: {longest:,} would be needed" if bound < longest else ""
    return f"Raise train.max_length (up to {bound:,}{short}), s"


def diversity_evidence(data: AuditData, min_diversity: float, sample_rows: int) -> list[Evidence]:
    """Return the training rows whose trigrams were all seen before, if too few of all trigrams are distinct."""
    rows = np.sort(data.train[np.unique(data.hashes.exact[data.train], return_index=True)[1]])
    chosen, phrase = sampled(rows, sample_rows)
    seen: set[str] = set()
    total = 0
    redundant: list[int] = []
    for index in chosen.tolist():
        words = WORD.findall(_varied_text(data, index).lower())
        trigrams = [" ".join(words[at : at + 3]) for at in range(len(words) - 2)]
        total += len(trigrams)
        before = len(seen)
        seen.update(trigrams)
        if trigrams and len(seen) == before:
            redundant.append(index)
    if total < MIN_TRIGRAMS or len(seen) >= min_diversity * total:
        return []
    side = "inputs" if data.is_classification else "answers"
    detail = (
        f"{len(seen) / total:.1%} of the {side}' word trigrams are distinct{phrase}; {min_diversity:.0%} is the bound"
    )
    remedy = "Add rows that say other things, or thin out the template they share; more of the same teaches little."
    return [Evidence("low_diversity", "warning", np.array(redundant, np.int64), detail, remedy)]


def _varied_text(data: AuditData, index: int) -> str:
    row = data.rows[index]
    if not data.is_classification:
        return row.completion
    return "\n".join(message["content"] for message in row.prompt if message["role"] != "system")


def synthetic_evidence(data: AuditData, synthetic_frac: float) -> list[Evidence]:
    """Return synthetic rows where they dominate training, and where they sit in a split that judges."""
    synthetic = data.synthetic
    evidence: list[Evidence] = []
    made = data.train[synthetic[data.train]]
    if len(made) > synthetic_frac * len(data.train):
        detail = (
            f"{len(made) / len(data.train):.0%} of the training rows are synthetic; {synthetic_frac:.0%} is the bound"
        )
        allowed = int(synthetic_frac / (1 - synthetic_frac) * (len(data.train) - len(made)))
        remedy = "Add rows that people wrote, or use fewer synthetic ones (audit.synthetic_frac is the bound)."
        evidence.append(Evidence("low_diversity", "warning", made[allowed:], detail, remedy))
    held_out = np.flatnonzero(synthetic & (data.split_of != list(data.split_names).index(TRAIN)))
    if len(held_out):
        names = [data.split_names[int(split)] for split in np.unique(data.split_of[held_out])]
        detail = f"{counted(len(held_out), 'synthetic row')} in {', '.join(names)}"
        remedy = "Judge by rows that people wrote: keep synthetic rows in training files only."
        evidence.append(Evidence("low_diversity", "warning", held_out, detail, remedy))
    return evidence


def small_evidence(data: AuditData, small_rows: int) -> list[Evidence]:
    """Return a warning if there is little to train on, and a note if a test is too small to tell models apart.

    Only rows that are used count.
    """
    evidence: list[Evidence] = []
    train = data.train[data.kept[data.train]]
    num_classes = len({data.labels[index] for index in train.tolist()}) if data.is_classification else 0
    if len(train) < small_rows:
        per_class = f", {len(train) / num_classes:.0f} for each of {num_classes} classes" if num_classes else ""
        detail = f"{counted(len(train), 'training row')}{per_class}; below {small_rows} it learns rows, not the task"
        remedy = (
            "Add rows, or compare with the base given examples in its prompt (evaluate.few_shot) before trusting it."
        )
        evidence.append(Evidence("small", "warning", NONE, detail, remedy, shown=_first(train)))
    for split in data.split_names:
        rows = data.rows_of(split)
        rows = rows[data.kept[rows]]
        if split == TRAIN or not 0 < len(rows) < NUM_TEST_ROWS:
            continue
        half_width = 1.96 * math.sqrt(0.25 / len(rows))
        detail = f"{split} has {counted(len(rows), 'row')}: a score near one half is known to ±{half_width:.2f} (95 %)"
        remedy = f"Give {split} at least {NUM_TEST_ROWS} rows (±0.10), or read its scores with their intervals."
        evidence.append(Evidence("small", "note", NONE, detail, remedy, shown=_first(rows)))
    return evidence


def _first(rows: Indices) -> list[int]:
    return rows[:1].tolist()
