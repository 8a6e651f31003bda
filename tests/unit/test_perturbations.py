"""Changes to inputs: the same for the same seed, of the kind they are called, and never of what they leave alone."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.evaluate_spec import PERTURBATIONS, Perturbation
from trainers.perturbations import FRAMES, WORD, perturbed

TEXT = "Where is my parcel, please? It was sent on Monday, from Berlin."


@pytest.mark.parametrize("kind", PERTURBATIONS)
@given(text=st.text(max_size=80), seed=st.text(max_size=5))
def test_a_change_is_a_function_of_kind_text_and_seed(kind: Perturbation, text: str, seed: str):
    assert perturbed(kind, text, seed) == perturbed(kind, text, seed)


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_every_kind_changes_an_ordinary_text_and_seeds_differ(kind: Perturbation):
    found = {perturbed(kind, TEXT, str(seed)) for seed in range(40)}
    assert TEXT not in found
    assert len(found) > 1


@given(text=st.text(st.characters(codec="utf-8", categories=("L", "Zs", "Po")), max_size=80), seed=st.integers())
def test_case_and_whitespace_change_nothing_else(text: str, seed: int):
    folded = perturbed("case", text, str(seed)).upper().casefold()
    assert folded == text.upper().casefold() or folded == text.lower().upper().casefold()
    assert perturbed("whitespace", text, str(seed)).split() == text.split()


@given(seed=st.integers())
def test_words_survive_changed_punctuation_and_the_whole_text_survives_what_is_put_around_it(seed: int):
    words = re.findall(r"\w+", TEXT)
    assert re.findall(r"\w+", perturbed("punctuation", TEXT, str(seed))) == words
    assert TEXT in perturbed("paraphrase", TEXT, str(seed))
    assert perturbed("distractor", TEXT, str(seed)).endswith(TEXT)


@given(seed=st.integers())
def test_typos_leave_most_words_and_every_first_letter(seed: int):
    before, after = TEXT.split(), perturbed("typos", TEXT, str(seed)).split()
    assert len(before) == len(after)
    assert 1 <= sum(a != b for a, b in zip(before, after, strict=True)) <= len(WORD.findall(TEXT))
    assert [a[0] for a in before] == [b[0] for b in after]
    assert all(abs(len(a) - len(b)) <= 1 for a, b in zip(before, after, strict=True))


def test_a_text_without_a_word_to_mistype_stays():
    assert perturbed("typos", "a b 12 !", "0") == "a b 12 !"


def test_braces_in_a_text_are_text():
    assert "{0} {}" in perturbed("paraphrase", "{0} {}", "1")
    assert all(frame.count("{}") == 1 for frame in FRAMES)
