"""A prompt's numbers: the same everywhere, through the ledger and back, and without its words."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cluster.prompt_features import BUCKETS, MOST_CHARACTERS, NEGATIVE, PromptFeatures, buckets_of, matrix_of, terms_of

PROMPT = "My invoice of May is wrong, please refund it"


def test_a_prompts_numbers_are_the_same_on_every_machine():
    # CRC-32's published check value: crc32("123456789") = 0xCBF43926, whose highest bit is the sign
    assert buckets_of(["123456789"]).tolist() == [0xCBF43926 % BUCKETS | NEGATIVE]


def test_features_survive_the_ledger():
    features = PromptFeatures.of(PROMPT)
    read = PromptFeatures.from_kept(json.loads(json.dumps(features.kept())))
    assert read.buckets.tolist() == features.buckets.tolist()
    assert (read.characters, read.language, read.key) == (len(PROMPT), "English", features.key)


def test_what_is_kept_holds_none_of_the_words():
    said = json.dumps(PromptFeatures.of("Ärger with Kowalczyk about invoice 4711").kept())
    assert not [word for word in ("rger", "Kowalczyk", "kowal", "invoice", "4711") if word in said]


def test_personal_data_is_masked_before_it_is_hashed():
    first, second = PromptFeatures.of("write to ann@example.com"), PromptFeatures.of("write to bob.b@example.org")
    assert first.buckets.tolist() == second.buckets.tolist()
    assert terms_of("write to [EMAIL] now") == [
        "write",
        "to",
        "[EMAIL]",
        "now",
        "write to",
        "to [EMAIL]",
        "[EMAIL] now",
    ]


def test_rows_have_length_one_and_their_signs():
    rows = [PromptFeatures.of(PROMPT).buckets, PromptFeatures.of("").buckets, PromptFeatures.of("refund").buckets]
    matrix = matrix_of(rows)
    assert matrix.shape == (3, BUCKETS)
    assert np.allclose(matrix.multiply(matrix).sum(axis=1).A1, [1, 0, 1])
    signs = {int(bucket % NEGATIVE): -1 if bucket >= NEGATIVE else 1 for bucket in rows[2]}
    assert {place: int(np.sign(matrix[2, place])) for place in signs} == signs


def test_equal_words_are_near_and_others_far():
    near = matrix_of([PromptFeatures.of(text).buckets for text in (PROMPT, PROMPT + " today", "the app crashed again")])
    cosines = (near @ near.T).toarray()
    assert cosines[0, 1] > 0.85
    assert cosines[0, 2] < 0.3


def test_only_the_beginning_of_a_prompt_is_read():
    beginning = "word " * (MOST_CHARACTERS // 5)
    long = PromptFeatures.of(beginning + "unheard of things")
    assert long.buckets.tolist() == PromptFeatures.of(beginning).buckets.tolist()
    assert long.characters > MOST_CHARACTERS


def test_halves_of_surrogate_pairs_fail_nothing():
    assert len(PromptFeatures.of("broken \ud800 text").buckets)


@pytest.mark.parametrize("kept", [{}, {"n_grams": "€", "characters": 1, "language": None}, None, {"n_grams": 3}])
def test_what_is_no_features_is_refused(kept: object):
    with pytest.raises((KeyError, TypeError, ValueError)):
        PromptFeatures.from_kept(kept)
