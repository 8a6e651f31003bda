"""Generated texts and their references → ROUGE, BLEU, chrF and exact match, by the libraries everybody compares with.

The scores are those of `rouge_score` and `sacrebleu`; this module only turns their per-example parts into functions of
row weights (trainers/bootstrap.py). ROUGE is a mean over examples, of the best F-measure over an example's references.
BLEU and chrF are corpus scores: n-gram counts are added up before anything is divided, with all references of an
example (BLEU: most matches over them, closest length; chrF: the reference with the highest score).

One difference to `rouge_score`: its tokenizer drops every character outside a-z and 0-9, which scores Russian or Arabic
as 0 and cuts "größe" in two. Ours keeps letters and digits of any alphabet and gives the same tokens for ASCII text.
Left out: stemming, and word segmentation for languages written without spaces (use chrF there).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trainers.bootstrap import Floats, Weighted, from_mean, from_sums

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as CorpusMetric

References = Sequence[Sequence[str]]
"""One or more references for each example."""
RougeKind = Literal["rouge1", "rouge2", "rougeL"]

WORD = re.compile(r"[^\W_]+")


class WordTokenizer:
    """Lower-cased runs of letters and digits of any alphabet, as `rouge_score` wants its tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return WORD.findall(text.lower())


def rouge(texts: Sequence[str], references: References, kind: RougeKind) -> Weighted:
    """Return the mean over examples of the F-measure against the best reference."""
    return from_mean(rouge_of_each(texts, references, kind))


def rouge_of_each(texts: Sequence[str], references: References, kind: RougeKind) -> Floats:
    """Return each example's F-measure against its best reference, shape (N,)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer: Any = RougeScorer([kind], tokenizer=WordTokenizer())
    pairs = zip(texts, references, strict=True)
    return np.array([scorer.score_multi(list(known), text)[kind].fmeasure for text, known in pairs], dtype=np.float64)


def bleu(texts: Sequence[str], references: References) -> Weighted:
    """Return corpus BLEU / 100: sacrebleu's defaults (13a tokens, up to 4-grams, exponential smoothing)."""
    from sacrebleu.metrics.bleu import BLEU

    # force: no warning about texts that look tokenized; the score is the same.
    return corpus_score(BLEU(force=True), texts, references)


def chrf(texts: Sequence[str], references: References) -> Weighted:
    """Return corpus chrF2 / 100: sacrebleu's defaults (character n-grams up to 6, no words, beta 2)."""
    from sacrebleu.metrics.chrf import CHRF

    return corpus_score(CHRF(), texts, references)


def exact_match(texts: Sequence[str], references: References) -> Weighted:
    """Return the share of texts that equal one of their references but for surrounding white space."""
    matches = [
        text.strip() in {reference.strip() for reference in known}
        for text, known in zip(texts, references, strict=True)
    ]
    return from_mean(np.array(matches, dtype=np.float64))


def corpus_score(metric: CorpusMetric, texts: Sequence[str], references: References) -> Weighted:
    """Return a sacrebleu metric / 100 as a function of row weights.

    sacrebleu has no public access to its per-example counts; these two methods are what its own significance tests
    (sacrebleu/significance.py) call, and tests compare with `corpus_score`.
    """
    transposed = [list(column) for column in zip_longest(*references)]  # None where an example has fewer references
    counts_NK = np.array(
        metric._extract_corpus_statistics(list(texts), transposed),  # pyright: ignore[reportPrivateUsage]
        dtype=np.float64,
    )

    def value(sums_RK: Floats) -> Floats:
        scores = [metric._compute_score_from_stats(row).score for row in sums_RK.tolist()]  # pyright: ignore[reportPrivateUsage]
        return np.array(scores, dtype=np.float64) / 100.0

    return from_sums(counts_NK, value)
