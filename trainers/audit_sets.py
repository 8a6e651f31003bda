"""The audit across rows: copies within a split, copies between splits, and inputs with several answers.

A leak is counted on the side that has to go: training rows that are in a validation or test split, and validation rows
that are in a test split, so that a test stays what the user made it. A row leaks exactly if the whole row is there, or
its input is (an instruction that one row in twenty carries is no input of its own), and nearly if a near-duplicate is.
Rows that share an input are references of one example in generation and a contradiction in classification.

What is the same and what is nearly the same is decided in ``trainers.duplicates``; here it is only counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from numpy.typing import NDArray

from trainers.audit_evidence import TRAIN, VALIDATION, AuditData, Evidence, Indices, counted, shortened
from trainers.duplicates import connected_groups, general_inputs, same_key_pairs
from trainers.folded_text import collapsed, folded, text_hashes
from trainers.minhash import SHINGLE_CHARS

VALIDATION_BIT, TEST_BIT, GIVEN_TEST_BIT = 1, 2, 4


def duplicate_evidence(data: AuditData, similarity: float) -> list[Evidence]:
    """Return the rows that repeat an earlier row of their split, exactly or at a Jaccard ``similarity`` or above."""
    exact = _repeats(data, data.hashes.exact)
    near = _near_repeats(data, exact, similarity)
    evidence: list[Evidence] = []
    if len(exact):
        detail = f"equal to an earlier row in input and answer: {_by_split(data, exact)}"
        remedy = "Drop them: audit: {fix: [duplicate_exact]}; a row seen twice weighs twice."
        evidence.append(Evidence("duplicate_exact", "warning", exact, detail, remedy))
    if len(near):
        detail = f"at least {similarity:g} alike (Jaccard of 5-grams) to an earlier row: {_by_split(data, near)}"
        remedy = "Drop them (audit: {fix: [duplicate_near]}), or keep them: they never straddle splits made here."
        evidence.append(Evidence("duplicate_near", "warning", near, detail, remedy))
    return evidence


def _by_split(data: AuditData, rows: Indices) -> str:
    counts = Counter(data.split_of[rows].tolist())
    return ", ".join(f"{num:,} in {data.split_names[split]}" for split, num in sorted(counts.items()))


def _within_splits(data: AuditData, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return keys (N,) that are equal only within a split."""
    return keys ^ (data.split_of.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))


def _repeats(data: AuditData, keys: NDArray[np.uint64]) -> Indices:
    """Return the rows whose key occurred before in their split, ascending."""
    return np.sort(same_key_pairs(_within_splits(data, keys))[1])


def _texts_and_edges(data: AuditData) -> tuple[Indices, Indices, Indices]:
    """Return each row's first row with the same text (N,), and the two ends of the near pairs between such firsts."""
    same = data.near.jaccard >= 1.0
    text_of = connected_groups(len(data.rows), (data.near.i[same], data.near.j[same]))
    i, j = text_of[data.near.i[~same]], text_of[data.near.j[~same]]
    return text_of, i[i != j], j[i != j]


def _near_repeats(data: AuditData, exact: Indices, similarity: float) -> Indices:
    """Return the rows that are near an earlier row which stays, in one pass over the rows in order."""
    text_of, i, j = _texts_and_edges(data)
    neighbours: defaultdict[int, list[int]] = defaultdict(list)
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        neighbours[a].append(b)
        neighbours[b].append(a)
    skip = np.zeros(len(data.rows), np.bool_)
    skip[exact] = True
    shared = np.bincount(text_of, minlength=len(data.rows))[text_of] > 1
    linked = shared | np.isin(text_of, np.array(list(neighbours), np.int64))
    kept: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    gone: list[int] = []
    for row in np.flatnonzero(linked & ~skip).tolist():
        text, split = int(text_of[row]), int(data.split_of[row])
        earlier = (other for near in (text, *neighbours[text]) for other in kept[near, split])
        if any(_are_near(data, other, row, similarity) for other in earlier):
            gone.append(row)
        else:
            kept[text, split].append(row)
    return np.array(gone, np.int64)


def _are_near(data: AuditData, a: int, b: int, similarity: float) -> bool:
    """Tell whether two rows with near texts are near-duplicates, not two labels or two references of one input."""
    one_row, other_row = data.rows[a], data.rows[b]
    if (one_row.is_labelled or other_row.is_labelled) and one_row.completion != other_row.completion:
        return False
    if data.hashes.input[a] != data.hashes.input[b] or not one_row.prompt:
        return True
    one, other = _shingles(one_row.completion), _shingles(other_row.completion)
    if min(len(one), len(other)) < similarity * max(len(one), len(other)):
        return False
    return len(one & other) >= similarity * len(one | other)


def _shingles(text: str) -> set[str]:
    text = folded(text).ljust(SHINGLE_CHARS)
    return {text[at : at + SHINGLE_CHARS] for at in range(len(text) - SHINGLE_CHARS + 1)}


def leakage_evidence(data: AuditData) -> list[Evidence]:
    """Return the rows that are also in a split which is to judge them; an error where the user gave that test."""
    bits = _split_bits(data)
    seen = _met(bits, data.hashes.exact) | np.where(general_inputs(data.hashes.input), 0, _met(bits, data.hashes.input))
    text_of, i, j = _texts_and_edges(data)
    mask = np.zeros(len(data.rows), np.int64)
    np.bitwise_or.at(mask, text_of, bits)
    reach = mask.copy()
    np.bitwise_or.at(reach, i, mask[j])
    np.bitwise_or.at(reach, j, mask[i])
    found: list[Evidence] = []
    exact = _leaking(bits, seen)
    for code, how, met in (
        ("leakage_exact", "the same row or input", seen),
        ("leakage_near", "a near-duplicate", reach[text_of]),
    ):
        rows = _leaking(bits, met)
        rows = rows if code == "leakage_exact" else np.setdiff1d(rows, exact)
        if len(rows):
            found.append(_leak(data, code, rows, how, met[rows], bits[rows]))
    return found


def _leak(data: AuditData, code: str, rows: Indices, how: str, met: Indices, own: Indices) -> Evidence:
    into_test = (met & (TEST_BIT | GIVEN_TEST_BIT)) > 0
    into_given = bool(np.any(met & GIVEN_TEST_BIT))
    tests = [name for name in data.split_names if name not in (TRAIN, VALIDATION)]
    parts = [
        (int(np.sum(into_test & (own == 0))), f"in train with {how} in {' or '.join(tests)}"),
        (int(np.sum(~into_test)), f"in train with {how} in validation"),
        (int(np.sum(own == VALIDATION_BIT)), f"in validation with {how} in {' or '.join(tests)}"),
    ]
    detail = "; ".join(f"{counted(num, 'row')} {what}" for num, what in parts if num)
    detail += f"; first {shortened(data.rows[int(rows[0])].completion)}"
    remedy = f"Drop them from the data: audit: {{fix: [{code}]}}; a score on rows that were trained on says nothing."
    return Evidence(code, "error" if into_given else "warning", rows, detail, remedy)


def _split_bits(data: AuditData) -> Indices:
    """Return for each row 0 in training, or the bit of its held-out split: shape (N,)."""
    bit_of = [
        0
        if name == TRAIN
        else VALIDATION_BIT
        if name == VALIDATION
        else GIVEN_TEST_BIT
        if name in data.given
        else TEST_BIT
        for name in data.split_names
    ]
    return np.array(bit_of, np.int64)[data.split_of]


def _met(bits: Indices, keys: NDArray[np.uint64]) -> Indices:
    """Return for each row the bits of all splits that hold its key: shape (N,)."""
    _, inverse = np.unique(keys, return_inverse=True)
    union = np.zeros(len(keys), np.int64)
    np.bitwise_or.at(union, inverse, bits)
    return union[inverse]


def _leaking(bits: Indices, met: Indices) -> Indices:
    """Return the training rows met in any held-out split and the validation rows met in a test."""
    tests = TEST_BIT | GIVEN_TEST_BIT
    return np.flatnonzero(((bits == 0) & (met > 0)) | ((bits == VALIDATION_BIT) & ((met & tests) > 0)))


def conflict_evidence(data: AuditData) -> list[Evidence]:
    """Return the rows whose input has another answer elsewhere in their split.

    In classification all but the most frequent answer would have to go (the first of equally frequent ones stays). In
    generation they are references of one example: a note, and no row has to go.
    """
    of_text = collapsed if data.is_classification else folded  # a label in another case is another class
    answers = text_hashes(of_text(row.completion) for row in data.rows)
    _, inputs = np.unique(_within_splits(data, data.hashes.input), return_inverse=True)
    pairs = np.stack([inputs.astype(np.uint64), answers], axis=1)
    distinct, first, pair_of, times = np.unique(
        pairs, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    of_input = distinct[:, 0].astype(np.int64)
    several = np.bincount(of_input) > 1
    if not several.any():
        return []
    rows = np.flatnonzero(several[inputs])
    if not data.is_classification:
        detail = (
            f"{counted(int(several.sum()), 'input')} of {counted(len(several), 'input')} have several answers, "
            f"{counted(int(several[of_input].sum()), 'answer')} in all"
        )
        remedy = "Nothing to do: they are references of one example in evaluation and stay in one split."
        return [Evidence("conflicting_answers", "note", np.empty(0, np.int64), detail, remedy, shown=rows.tolist()[:5])]
    ranked = np.lexsort((first, -times, of_input))
    winners = ranked[np.concatenate([[True], of_input[ranked][1:] != of_input[ranked][:-1]])]
    rows = rows[~np.isin(pair_of.reshape(-1)[rows], winners)]
    sample = int(rows[0])
    rivals = sorted({data.rows[int(r)].completion for r in np.flatnonzero(inputs == inputs[sample])})
    detail = (
        f"{counted(int(several.sum()), 'input')} with several labels, as {' and '.join(map(shortened, rivals[:3]))}"
    )
    remedy = "Correct the labels, or drop all but the most frequent one: audit: {fix: [conflicting_answers]}."
    return [Evidence("conflicting_answers", "warning", rows, detail, remedy)]
