"""Generated labels, gold labels and label probabilities → accuracy, F1 and AUC-ROC as functions of row weights.

A label is predicted by generating its text, so a prediction may be no label at all. Such a text is its own wrong class:
it misses the gold label (a false negative) and is nobody's false positive. Texts and labels are compared after
stripping, case folding and collapsing white space; labels that differ in nothing else must be written exactly.

The numbers are scikit-learn's (tests compare): F1 is `f1_score(…, labels=…, zero_division=0)`, over the labels that
occur in gold for the macro average and over all labels for the micro average; AUC-ROC is one-vs-rest, averaged over
the labels that have both positives and negatives. They are computed here from weighted counts and ranks, since a
thousand calls for a thousand resamples would take minutes.

Left out: several labels per row, and calibration.

Legend: N rows, R resamples, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trainers.bootstrap import Floats, Weighted, from_mean, from_sums

NO_LABEL = -1
Classes = NDArray[np.int64]
"""One class index per row, NO_LABEL for a text that is no label."""


def normalised(text: str) -> str:
    """Return the form in which texts are matched with labels: stripped, case-folded, single spaces."""
    return " ".join(text.split()).casefold()


def classes_of(texts: Sequence[str], labels: Sequence[str]) -> Classes:
    """Return the index in ``labels`` of the label each text spells, or NO_LABEL: shape (N,)."""
    exact = {label.strip(): index for index, label in enumerate(labels)}
    spellings = Counter(normalised(label) for label in labels)
    loose = {normalised(label): index for index, label in enumerate(labels) if spellings[normalised(label)] == 1}
    found = [exact.get(text.strip(), loose.get(normalised(text), NO_LABEL)) for text in texts]
    return np.array(found, dtype=np.int64)


def accuracy(predicted_N: Classes, gold_N: Classes) -> Weighted:
    """Return the share of rows whose label is right."""
    return from_mean((predicted_N == gold_N).astype(np.float64))


def micro_f1(predicted_N: Classes, gold_N: Classes) -> Weighted:
    """Return F1 over all labels' counts together: accuracy itself when every text is a label, above it otherwise."""
    right = predicted_N == gold_N
    counts_NK = np.column_stack([right, ~right & (predicted_N != NO_LABEL), ~right]).astype(np.float64)
    return from_sums(counts_NK, lambda sums: 2 * sums[:, 0] / (2 * sums[:, 0] + sums[:, 1] + sums[:, 2]))


def macro_f1(predicted_N: Classes, gold_N: Classes) -> Weighted:
    """Return the mean F1 of the labels that occur in gold (in a resample: in its gold)."""
    num_classes = int(max(predicted_N.max(), gold_N.max())) + 1
    hits_N = np.where(predicted_N == gold_N, gold_N, NO_LABEL)

    def weighted(weights_RN: Floats) -> Floats:
        gold_RC = class_weights(weights_RN, gold_N, num_classes)
        predicted_RC = class_weights(weights_RN, predicted_N, num_classes)
        hits_RC = class_weights(weights_RN, hits_N, num_classes)
        present_RC = gold_RC > 0
        f1_RC = np.divide(2 * hits_RC, gold_RC + predicted_RC, out=np.zeros_like(hits_RC), where=present_RC)
        return f1_RC.sum(axis=1) / present_RC.sum(axis=1)

    return weighted


def class_weights(weights_RN: Floats, classes_N: Classes, num_classes: int) -> Floats:
    """Return the weight of each class's rows, NO_LABEL rows left out: shape (R, C)."""
    rows = np.flatnonzero(classes_N != NO_LABEL)
    rows = rows[np.argsort(classes_N[rows], kind="stable")]
    totals_RC = np.zeros((len(weights_RN), num_classes))
    if len(rows):
        present, starts = np.unique(classes_N[rows], return_index=True)
        totals_RC[:, present] = np.add.reduceat(weights_RN[:, rows], starts, axis=1)
    return totals_RC


def auc_roc(probabilities_NC: Floats, gold_N: Classes) -> Weighted:
    """Return the mean one-vs-rest AUC of the labels with both positives and negatives; NaN without any such label.

    ``probabilities_NC`` rows sum to one over the labels: without that, likelihoods of different rows could not be
    ranked against each other. A gold label without a column counts as a negative of every label.
    """
    assert np.allclose(probabilities_NC.sum(axis=1), 1.0, atol=1e-3), (
        "label scores must be probabilities over the labels"
    )
    num_classes = probabilities_NC.shape[1]

    def weighted(weights_RN: Floats) -> Floats:
        total_R = np.zeros(len(weights_RN))
        defined_R = np.zeros(len(weights_RN))
        for index in range(num_classes):
            auc_R = one_vs_rest_auc(weights_RN, probabilities_NC[:, index], gold_N == index)
            total_R += np.nan_to_num(auc_R)
            defined_R += np.isfinite(auc_R)
        return np.divide(total_R, defined_R, out=np.full_like(total_R, np.nan), where=defined_R > 0)

    return weighted


def one_vs_rest_auc(weights_RN: Floats, scores_N: Floats, positive_N: NDArray[np.bool_]) -> Floats:
    """Return the weighted share of (positive, negative) pairs in the right order, ties counting half: shape (R,).

    The Mann-Whitney form of AUC (Hanley and McNeil 1982). A positive's mid-rank counts everything below it; pairs of
    positives make up exactly half of their squared weight and are taken off.
    """
    order = np.argsort(scores_N, kind="stable")
    ranked = scores_N[order]
    places = np.flatnonzero(positive_N[order])
    below = np.searchsorted(ranked, ranked[places], side="left")
    upto = np.searchsorted(ranked, ranked[places], side="right")
    weights_RN = weights_RN[:, order]
    cumulative = np.cumsum(weights_RN, axis=1)
    cumulative = np.concatenate([np.zeros((len(cumulative), 1)), cumulative], axis=1)
    positives_RP = weights_RN[:, places]
    positive_R = positives_RP.sum(axis=1)
    negative_R = cumulative[:, -1] - positive_R
    midranks_RP = (cumulative[:, below] + cumulative[:, upto]) / 2
    pairs_R = (positives_RP * midranks_RP).sum(axis=1) - positive_R**2 / 2
    auc_R = np.full(len(weights_RN), np.nan)
    return np.divide(pairs_R, positive_R * negative_R, out=auc_R, where=(positive_R > 0) & (negative_R > 0))
