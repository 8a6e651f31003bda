"""Terms and rates: what is named is there and clear of chance, and what is not known is not a number."""

from __future__ import annotations

import numpy as np
import pytest

from cluster.sketch import sketch_of
from serving.drift_words import MOST_TERMS, rates_of, terms_between
from serving.live_prompts import FEATURES, LivePrompt, Measure
from tests.experiment_rows import exposure
from tests.sketched import parcels, tickets

SKETCH = sketch_of(tickets(900), "m@1", 0.0)


def live(texts: list[str]) -> list[LivePrompt]:
    return [Measure().measured(text, f"r{place}", f"u{place}", float(place)) for place, text in enumerate(texts)]


def as_numbers(texts: list[str]) -> list[LivePrompt]:
    rows = [
        exposure(
            f"r{place}", f"u{place}", "a", {"a": 1.0}, float(place), kept={FEATURES: Measure().kept_features(text)}
        )
        for place, text in enumerate(texts)
    ]
    return Measure().prompts_of(rows)


def test_new_words_are_named_first_with_their_shares():
    found = terms_between(SKETCH, live(parcels(tickets(200, seed=3))))
    assert {term.term for term in found[:3]} == {"parcel", "shipment", "lost"}
    assert [term.direction for term in found[:3]] == ["live"] * 3
    assert (found[0].live, found[0].reference) == (0.5, 0.0)


def test_words_that_went_missing_are_named_too():
    without = [text.replace("account", "").replace("  ", " ") for text in tickets(400, seed=3)]
    (found,) = [term for term in terms_between(SKETCH, live(without)) if term.term == "account"]
    assert (found.direction, found.live) == ("reference", 0.0)


@pytest.mark.parametrize("seed", range(3, 8))
def test_alike_prompts_have_no_telling_terms(seed: int):
    assert terms_between(SKETCH, live(tickets(300, seed=seed))) == []
    assert terms_between(SKETCH, as_numbers(tickets(300, seed=seed))) == []


def test_a_pair_of_words_does_not_repeat_its_words():
    found = [term.term for term in terms_between(SKETCH, live(parcels(tickets(200, seed=3))))]
    assert "parcel shipment" not in found
    assert len(found) <= MOST_TERMS


def test_a_word_of_few_users_is_not_shown():
    texts = tickets(200, seed=3)
    texts[:4] = [f"{text} mycousinlarry" for text in texts[:4]]
    assert "mycousinlarry" not in {term.term for term in terms_between(SKETCH, live(texts))}


def test_numbers_name_only_words_of_training_and_no_live_share():
    more = [f"{text} password" if place % 2 else text for place, text in enumerate(tickets(300, seed=3))]
    found = terms_between(SKETCH, as_numbers(parcels(more)))
    assert "password" in {term.term for term in found if term.direction == "live"}
    assert {term.live for term in found} == {None}
    assert {term.term for term in found} <= SKETCH.terms.keys()


def test_rates_compare_both_sides_and_what_is_not_known_is_none():
    german = ["ich kann mich nicht mit dem Passwort anmelden und es ist die falsche Seite"] * 50
    rates = {rate.name: rate for rate in rates_of(SKETCH, live([*german, *tickets(50, seed=1)]))}
    assert rates["language German"].live == 0.5
    assert rates["language German"].reference == 0.0
    assert rates["characters (median)"].reference == np.median([len(text) for text in tickets(900)])
    assert "tokens (median)" not in rates, "this sketch knows no tokens"
    assert rates_of(SKETCH, [])[0].live is None
