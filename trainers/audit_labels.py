"""The audit of classes: too uneven, too rare, missing from a split, and labels that their neighbours contradict.

A label is suspect if nearly all of a row's nearest rows (TF-IDF of words, votes weighted by the squared cosine) carry
one other label, clearly more often than it occurs anyway; the idea is that of nearest-neighbour editing (Wilson 1972,
"Asymptotic properties of nearest neighbor rules using edited data"). It finds wrong labels among texts that resemble
each other, not among singular ones. Left out: multi-label data.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from trainers.audit_evidence import TRAIN, AuditData, Evidence, Indices, counted, sampled, shortened

BLOCK_ROWS = 500
MIN_SIMILARITY = 0.1
MIN_AGREEMENT = 0.8
MIN_LIFT = 0.3
EXPECTED_FRAC = 0.005


def balance_evidence(data: AuditData, imbalance_ratio: float, rare_rows: int) -> list[Evidence]:
    """Return classes that are too large beside the others, too rare, or absent from a split.

    Rare classes are left out of the ratio: they are a finding of their own.
    """
    train = data.train
    counts = Counter(label for index in train.tolist() if (label := data.labels[index]) is not None)
    if not counts or not data.is_classification:
        return []
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        *_imbalance(data, [(label, num) for label, num in ranked if num >= rare_rows], imbalance_ratio),
        *_rare(data, [(label, num) for label, num in ranked if num < rare_rows], rare_rows),
        *_absent(data, counts),
    ]


def _imbalance(data: AuditData, ranked: list[tuple[str, int]], ratio: float) -> list[Evidence]:
    if len(ranked) < 2 or ranked[0][1] <= ratio * ranked[-1][1]:
        return []
    (largest, most), (smallest, fewest) = ranked[0], ranked[-1]
    bound = int(ratio * fewest)
    seen: Counter[str] = Counter()
    surplus: list[int] = []
    for index in data.train.tolist():
        label = data.labels[index]
        if label is not None:
            seen[label] += 1
            if seen[label] > bound:
                surplus.append(index)
    detail = (
        f"{shortened(largest)} has {counted(most, 'row')}, {shortened(smallest)} {fewest:,}: {most / fewest:.0f} to 1"
    )
    remedy = f"Collect rows of the small classes, and judge by macro_f1; {ratio:g} to 1 is the bound."
    return [Evidence("class_imbalance", "warning", np.array(surplus, np.int64), detail, remedy)]


def _rare(data: AuditData, rare: list[tuple[str, int]], rare_rows: int) -> list[Evidence]:
    if not rare:
        return []
    names = {label for label, _ in rare}
    rows = data.train[[data.labels[index] in names for index in data.train.tolist()]]
    listed = ", ".join(f"{shortened(label)} ×{num}" for label, num in rare[:5])
    detail = f"{counted(len(rare), 'class', 'classes')} with fewer than {rare_rows} training rows: {listed}"
    remedy = "Collect rows of these classes, merge them, or drop them: audit: {fix: [class_rare]}."
    return [Evidence("class_rare", "warning", rows, detail, remedy)]


def _absent(data: AuditData, counts: Counter[str]) -> list[Evidence]:
    """Return held-out rows of classes never trained on, and a warning about classes that no test row checks."""
    evidence: list[Evidence] = []
    for split in data.split_names:
        rows = data.rows_of(split)
        if split == TRAIN or not len(rows):
            continue
        unseen = rows[[data.labels[index] is not None and data.labels[index] not in counts for index in rows.tolist()]]
        if len(unseen):
            name = shortened(data.labels[int(unseen[0])] or "")
            detail = f"{split} has {counted(len(unseen), 'row')} of classes that no training row has, as {name}"
            remedy = "Add training rows of these classes, or drop the rows: audit: {fix: [class_rare]}."
            evidence.append(Evidence("class_rare", "warning", unseen, detail, remedy))
        present = {data.labels[index] for index in rows.tolist()}
        absent = sorted(label for label in counts if label not in present)
        if absent:
            detail = f"no row of {split} has {', '.join(map(shortened, absent[:5]))}{', …' if len(absent) > 5 else ''}"
            remedy = (
                f"Give {split} a row of every class, or enlarge it (data.split); its scores say nothing about these."
            )
            shown = [index for index in data.train.tolist() if data.labels[index] == absent[0]]
            evidence.append(Evidence("class_rare", "warning", np.empty(0, np.int64), detail, remedy, shown=shown[:5]))
    return evidence


def suspect_evidence(data: AuditData, num_neighbours: int, sample_rows: int) -> list[Evidence]:
    """Return the training rows whose label is not their neighbours'; at most ``sample_rows`` rows are compared.

    Overlapping classes always have a few: up to one row in two hundred is only noted.
    """
    if not data.is_classification:
        return []
    labelled = data.train[[data.labels[index] is not None for index in data.train.tolist()]]
    # Every input once: rows that share it are copies or conflicts, which are findings of their own.
    labelled = labelled[np.unique(data.hashes.input[labelled], return_index=True)[1]]
    chosen, phrase = sampled(np.sort(labelled), sample_rows)
    names, codes = np.unique([data.labels[index] or "" for index in chosen.tolist()], return_inverse=True)
    if len(names) < 2 or len(chosen) <= num_neighbours:
        return []
    suspects, rivals = _contradicted(_texts(data, chosen), codes, num_neighbours)
    if not len(suspects):
        return []
    first = data.rows[int(chosen[suspects[0]])]
    detail = (
        f"their nearest rows agree on another label{phrase}, as {shortened(_texts(data, chosen[suspects[:1]])[0])} "
        f"with {shortened(first.label or '')} among {shortened(str(names[rivals[0]]))}"
    )
    remedy = "Look at these labels and correct them, or drop the rows: audit: {fix: [label_suspect]}."
    severity = "warning" if len(suspects) > EXPECTED_FRAC * len(chosen) else "note"
    return [Evidence("label_suspect", severity, chosen[suspects], detail, remedy)]


def _texts(data: AuditData, rows: Indices) -> list[str]:
    return ["\n".join(m["content"] for m in data.rows[int(row)].prompt if m["role"] != "system") for row in rows]


def _contradicted(texts: list[str], codes: NDArray[np.int64], num_neighbours: int) -> tuple[Indices, Indices]:
    """Return the places of suspect rows and, for each, the label code that its neighbours agree on."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectorizer = TfidfVectorizer(sublinear_tf=True, min_df=2, max_df=0.5, token_pattern=r"(?u)\w+")
        vectors = vectorizer.fit_transform(texts).astype(np.float32).tocsr()
    except ValueError:  # no word is in two rows: nobody has neighbours
        return np.empty(0, np.int64), np.empty(0, np.int64)
    suspects: list[Indices] = []
    rivals: list[Indices] = []
    for start in range(0, len(texts), BLOCK_ROWS):
        block = np.arange(start, min(start + BLOCK_ROWS, len(texts)))
        alike = (vectors[block] @ vectors.T).toarray()
        alike[np.arange(len(block)), block] = -1.0
        rival = _agreed_label(alike, codes, num_neighbours)
        wrong = (rival >= 0) & (rival != codes[block])
        suspects.append(block[wrong])
        rivals.append(rival[wrong])
    return np.concatenate(suspects), np.concatenate(rivals)


def _agreed_label(alike: NDArray[np.float32], codes: NDArray[np.int64], num_neighbours: int) -> Indices:
    """Return the label that the nearest of ``alike`` (rows, all) agree on for each row, or -1: shape (rows,)."""
    nearest = np.argpartition(-alike, num_neighbours - 1, axis=1)[:, :num_neighbours]
    weight = np.take_along_axis(alike, nearest, axis=1)
    weight[weight < MIN_SIMILARITY] = 0.0
    share = np.bincount(codes) / len(codes)
    votes = np.zeros((len(alike), len(share)), np.float32)
    np.add.at(votes, (np.arange(len(alike))[:, None], codes[nearest]), weight**2)
    label = votes.argmax(axis=1)
    agreement = votes.max(axis=1) / np.maximum(votes.sum(axis=1), 1e-9)
    enough = (weight > 0).sum(axis=1) >= max(3, num_neighbours // 3)
    return np.where(enough & (agreement >= MIN_AGREEMENT) & (agreement - share[label] >= MIN_LIFT), label, -1)
