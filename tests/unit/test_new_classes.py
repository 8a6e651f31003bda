"""New classes: users' answers that are no class, and prompts unlike all of training, each with its bound."""

from __future__ import annotations

from cluster.sketch import Sketch, sketch_of
from serving.ledger_rows import Outcome
from serving.live_prompts import LivePrompt, Measure
from serving.new_classes import answers_given, new_classes
from tests.experiment_rows import exposure
from tests.sketched import tickets

CLASSES = ("access", "billing", "bugs")


def sketch(num: int = 600) -> Sketch:
    return sketch_of(tickets(num), "m@1", 0.0, classes=CLASSES)


def live(texts: list[str]) -> list[LivePrompt]:
    return [Measure().measured(text, f"r{place}", f"u{place}", float(place)) for place, text in enumerate(texts)]


def test_prompts_of_the_same_kind_show_no_new_class():
    found = new_classes(sketch(), live(tickets(300, seed=1)), {})
    assert found.decision == "none"
    assert found.far is not None
    assert found.far.value < 0.15


def test_prompts_unlike_all_of_training_are_seen():
    strange = [f"parcel number {place} stuck at customs in harbour {place % 7}" for place in range(60)]
    found = new_classes(sketch(), live([*tickets(140, seed=1), *strange]), {})
    assert found.decision == "seen"
    assert found.far is not None
    assert found.far.low > 0.05


def test_an_answer_that_is_no_class_counts_from_three_users_on():
    few = {"shipping": {"u1", "u2"}, "Billing ": {"u3", "u4", "u5"}}
    assert new_classes(sketch(), live(tickets(300, seed=1)), few).decision == "none"
    enough = few | {"shipping": {"u1", "u2", "u9"}}
    found = new_classes(sketch(), live(tickets(300, seed=1)), enough)
    assert (found.decision, found.labels, found.corrections) == ("seen", {"shipping": 3}, 6)


def test_one_user_who_says_it_often_is_one():
    rows = [exposure(f"r{place}", "u1", "main", {"main": 1.0}, 1.0) for place in range(20)]
    said = [Outcome(request=f"r{place}", time_s=2.0, name="fix", correction="shipping") for place in range(20)]
    assert answers_given(rows, said) == {"shipping": {"u1"}}


def test_answers_of_unknown_requests_and_forced_ones_do_not_count():
    rows = [exposure("r1", "u1", "main", {"main": 1.0}, 1.0, forced=True)]
    said = [Outcome(request=name, time_s=2.0, name="fix", label="x") for name in ("r1", "r2")]
    assert answers_given(rows, said) == {}


def test_personal_data_in_an_answer_is_masked():
    answers = {"send it to ann@example.com": {"u1", "u2", "u3"}}
    assert list(new_classes(sketch(), [], answers).labels) == ["send it to [EMAIL]"]


def test_few_prompts_are_undecided():
    found = new_classes(sketch(), live(tickets(20)), {})
    assert (found.decision, found.far) == ("undecided", None)
