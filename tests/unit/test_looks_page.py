"""The report's sections of robustness, general ability and memorisation: every number, and no verdict within noise."""

from __future__ import annotations

from cluster.acceptance_records import Acceptance, General, Memorisation, Perturbed, Robustness
from cluster.records import Interval
from tests.page_outline import Outline
from trainers.looks_page import general_section, memorisation_section, robustness_section


def drop(value: float, reach: float = 0.05) -> dict[str, Interval]:
    return {"accuracy": Interval(value=value, low=value - reach, high=value + reach)}


def kind(value: float) -> Perturbed:
    return Perturbed(changed=98, clean={"accuracy": 0.8}, metrics={"accuracy": 0.8 - value}, drop=drop(value))


def test_a_drop_is_called_worse_only_where_its_interval_leaves_zero():
    kinds = {"typos": kind(0.125), "case": kind(0.01)}
    span = Interval(value=0.91, low=0.88, high=0.94)
    shown = Robustness(examples=100, kinds=kinds, repeats=3, temperature=0.7, consistency=span)
    section = robustness_section(Acceptance(robustness={"test": shown}))
    assert section is not None
    text = Outline(section.body).text
    for said in ("98 of 100 inputs changed", "0.675", "+0.125", "worse", "not clear", "agree to 0.910"):
        assert said in text
    assert text.count("worse") == 1


def test_general_rows_show_what_was_left_out_and_the_ratio():
    ratio = Interval(value=1.22, low=1.18, high=1.26)
    found = General(
        source="evaluate.general",
        examples=200,
        left_out=3,
        tuned={"accuracy": 0.4},
        base={"accuracy": 0.6},
        drop=drop(0.2),
        perplexity_ratio=ratio,
    )
    section = general_section(Acceptance(general=found))
    assert section is not None
    text = Outline(section.body).text
    for said in ("200 rows of evaluate.general", "3 rows that were also trained on", "1.220 times", "worse"):
        assert said in text


def test_memorisation_without_a_number_says_why():
    few = Memorisation(prefix_tokens=8, match_tokens=16, trained=3, held_out=0, why="3 answers are long enough")
    section = memorisation_section(Acceptance(memorisation=few))
    assert section is not None
    assert "Undecided: 3 answers are long enough." in Outline(section.body).text


def test_what_was_not_asked_for_has_no_section():
    nothing = Acceptance()
    assert nothing.is_empty
    assert (robustness_section(nothing), general_section(nothing), memorisation_section(nothing)) == (None, None, None)
