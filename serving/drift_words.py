"""Live prompts and a sketch → the words that tell them apart, and how lengths, languages and tokens compare.

Where prompts were kept as text, a term's weight is the z-score of its log-odds between the two sides, smoothed by
their common frequency (Monroe, Colaresi and Quinn 2008, "Fightin' Words", equations 15 to 22): rare words do not win by
chance. Only terms of at least five live users or of the sketch's dictionary are shown. Where only numbers were kept,
live counts are not known: a word of the dictionary is judged by how many live prompts have its bucket, which other
words share. So only words that are common in training can be named, and new ones show as numbers only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import log, sqrt
from statistics import NormalDist

import numpy as np

from cluster.prompt_features import buckets_of, read_part, terms_of, words_of
from cluster.sketch import LEAST_ROWS_A_TERM, Sketch
from serving.drift_report import Direction, Rate, Term
from serving.live_prompts import LivePrompt

MOST_TERMS = 12
CHANCE = 0.05
"""Of showing any term where both sides are alike: the bound on a weight rises with the number of terms."""
LEAST_SHARE = 0.02
"""Of training prompts with a word whose bucket is read: a rare word's would show what other words did to it."""
PRIOR_ROWS = 20.0
"""How many prompts the common frequency counts as on either side."""


def terms_between(sketch: Sketch, prompts: Sequence[LivePrompt]) -> list[Term]:
    """Return the terms that tell both sides apart most, the strongest first; none where none does clearly."""
    texts = [one.text for one in prompts if one.text]
    if len(texts) == len(prompts):
        return _ranked(_from_texts(sketch, texts))
    return _ranked(_from_buckets(sketch, prompts))


def _ranked(found: Sequence[Term]) -> list[Term]:
    """Return the strongest terms; a pair of words goes where one of its words says the same."""
    least = NormalDist().inv_cdf(1 - CHANCE / 2 / max(1, len(found)))
    kept: list[Term] = []
    for term in sorted(found, key=lambda one: (-abs(one.weight), one.term)):
        words = {one.term for one in kept if one.direction == term.direction}
        if abs(term.weight) >= least and any(map(str.isalnum, term.term)) and not words & set(term.term.split()):
            kept.append(term)
        if len(kept) == MOST_TERMS:
            break
    return kept


def _from_texts(sketch: Sketch, texts: Sequence[str]) -> list[Term]:
    counts = Counter(term for text in texts for term in terms_of(read_part(text)))
    live = {term: num for term, num in counts.items() if num >= LEAST_ROWS_A_TERM or term in sketch.terms}
    return _terms(sketch.terms, live, len(sketch.prompts), len(texts), is_exact=True)


def _from_buckets(sketch: Sketch, prompts: Sequence[LivePrompt]) -> list[Term]:
    """Return every term of the dictionary, both sides counted by its bucket."""
    sides = [Counter(np.concatenate([row.buckets for row in rows]).tolist()) for rows in (
        sketch.prompts, [one.features for one in prompts]
    )]  # fmt: skip
    common = [term for term, num in sketch.terms.items() if num >= LEAST_SHARE * len(sketch.prompts)]
    bucket_of = {term: int(buckets_of([term])[0]) for term in common if len(words_of(term)) == 1}
    most: dict[int, str] = {}
    for term, bucket in bucket_of.items():  # the dictionary begins with the most common
        most.setdefault(bucket, term)
    reference, live = ({term: side[bucket] for bucket, term in most.items()} for side in sides)
    found = _terms(reference, live, len(sketch.prompts), len(prompts), is_exact=False)
    return [term.model_copy(update={"reference": sketch.terms[term.term] / len(sketch.prompts)}) for term in found]


def _terms(
    reference: Mapping[str, int], live: Mapping[str, int], num_reference: int, num_live: int, *, is_exact: bool
) -> list[Term]:
    found: list[Term] = []
    for term in {**reference, **live}:
        ours, theirs = live.get(term, 0), reference.get(term, 0)
        weight = _log_odds_z(ours, num_live, theirs, num_reference)
        side: Direction = "live" if weight > 0 else "reference"
        share = ours / num_live if is_exact else None
        found.append(Term(term=term, direction=side, live=share, reference=theirs / num_reference, weight=weight))
    return found


def _log_odds_z(hits: int, num: int, other_hits: int, other_num: int) -> float:
    """Return the z-score of the log-odds of a term on one side against the other."""
    prior = PRIOR_ROWS * (hits + other_hits + 0.01) / (num + other_num + 0.02)
    rest = PRIOR_ROWS - prior
    ours = log((hits + prior) / (num - hits + rest))
    theirs = log((other_hits + prior) / (other_num - other_hits + rest))
    variance = 1 / (hits + prior) + 1 / (other_hits + prior)
    return (ours - theirs) / sqrt(variance)


def rates_of(sketch: Sketch, prompts: Sequence[LivePrompt]) -> list[Rate]:
    """Return lengths, unknown tokens and languages of both sides; what is not known of one is None."""
    live_tokens = [one.tokens for one in prompts if one.tokens is not None]
    rates = [
        Rate(
            name="characters (median)",
            reference=_median([row.characters for row in sketch.prompts]),
            live=_median([one.features.characters for one in prompts]),
        )
    ]
    if sketch.tokens is not None:
        rates += [
            Rate(
                name="tokens (median)",
                reference=_median([row.tokens for row in sketch.tokens]),
                live=_median([row.tokens for row in live_tokens]),
            ),
            Rate(
                name="tokens that no (other) training prompt has",
                reference=_ratio(sum(r.unknown for r in sketch.tokens), sum(r.tokens for r in sketch.tokens)),
                live=_ratio(sum(r.unknown for r in live_tokens), sum(r.tokens for r in live_tokens)),
            ),
        ]
    return rates + _languages(sketch, prompts)


def _languages(sketch: Sketch, prompts: Sequence[LivePrompt]) -> list[Rate]:
    """Return the share of prompts in each language that either side has at least 1 % of."""
    sides = [
        Counter(row.language or "unclear" for row in sketch.prompts),
        Counter(one.features.language or "unclear" for one in prompts),
    ]
    sizes = [max(1, side.total()) for side in sides]
    names = sorted(sides[0] | sides[1], key=lambda name: (-sides[0][name], name))
    shares = {name: [side[name] / size for side, size in zip(sides, sizes, strict=True)] for name in names}
    return [
        Rate(name=f"language {name}", reference=reference, live=live)
        for name, (reference, live) in shares.items()
        if max(reference, live) >= 0.01
    ]


def _median(values: Sequence[int]) -> float | None:
    return float(np.median(values)) if values else None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
