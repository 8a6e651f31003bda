"""Confusions: every example is counted once, as scikit-learn counts it, and no class is lost."""

from __future__ import annotations

import random
import re

import pytest
from sklearn.metrics import confusion_matrix

from tests.page_outline import Outline
from trainers.answered import Answered
from trainers.confusion import MAX_CLASSES, Confusion, confusion, confusion_section
from trainers.metrics import Predictions
from trainers.splits import EvaluationExample


def predictions(texts: list[str], gold: list[str], names: list[str]) -> Predictions:
    return Predictions(texts, [(label,) for label in gold], labels=gold, label_names=names)


def counted(texts: list[str], gold: list[str], names: list[str]) -> Confusion:
    found = confusion(predictions(texts, gold, names))
    assert found is not None
    return found


def shown(texts: list[str], gold: list[str], names: list[str]) -> str:
    examples = [EvaluationExample(({"role": "user", "content": "q"},), (label,), label, "w") for label in gold]
    section = confusion_section([Answered("test", examples, predictions(texts, gold, names))])
    assert section is not None
    return section.body


def test_counts_are_those_of_scikit_learn():
    rng = random.Random(0)
    names = ["a", "b", "c", "d"]
    gold = [rng.choice(names) for _ in range(200)]
    texts = [rng.choice(names) for _ in range(200)]
    found = counted(texts, gold, names)
    assert found.names == names
    assert (found.counts[:, :-1] == confusion_matrix(gold, texts, labels=names)).all()
    assert found.counts[:, -1].sum() == 0


def test_every_example_is_counted_once_also_without_a_label_or_with_one_unseen_in_training():
    gold = ["a", "a", "b", "new", "new"]
    texts = ["a", "nonsense", "A ", "a", "new"]
    found = counted(texts, gold, ["a", "b", "never"])
    assert found.names == ["a", "b", "new"], "classes that nobody expects or answers are left out"
    assert found.counts.sum() == len(gold)
    assert found.counts.tolist() == [[1, 0, 0, 1], [1, 0, 0, 0], [1, 0, 1, 0]]
    assert (found.expected.tolist(), found.answered.tolist(), found.right.tolist()) == ([2, 1, 2], [3, 0, 1], [1, 0, 1])


def test_the_drawn_matrix_adds_up_to_the_examples():
    body = shown(["a", "b", "?", "b"], ["a", "a", "a", "b"], ["a", "b"])
    matrix = body[body.index('<table class="confusion">') : body.index("</table>")]
    assert sum(int(count) for count in re.findall(r'class="(?:hit|miss) shade-\d">(\d+)<', matrix)) == 4
    assert sum(int(count) for count in re.findall(r'class="number">(\d+)<', matrix)) == 4
    assert "no label" in Outline(matrix).text
    assert "no label" not in shown(["a", "b"], ["a", "b"], ["a", "b"]), "a column that would be empty"


def test_more_classes_than_a_page_can_show_become_the_largest_confusions():
    names = [f"c{place:03}" for place in range(MAX_CLASSES + 1)]
    gold = names + ["c000"] * 5
    texts = names[:-1] + ["c001"] + ["c002"] * 5
    body = shown(texts, gold, names)
    text = Outline(body[: body.index("<details")]).text
    assert 'class="confusion"' not in body
    assert "The 2 largest of 2 confusions among 31 classes" in text
    assert text.index("c002") < text.index("c030"), "the most frequent one first"
    assert re.search(r"c000\s*c002\s*5\s*83%", text)


def test_counts_of_each_class_say_recall_and_precision():
    text = Outline(shown(["a", "b", "b", "?"], ["a", "a", "b", "b"], ["a", "b"])).text
    text = text[text.index("Counts of each of 2 classes") :]
    assert re.search(r"a\s*2\s*1\s*1\s*50%\s*100%", text)
    assert re.search(r"b\s*2\s*2\s*1\s*50%\s*50%", text)


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", "anna.schmidt@firma.de", "x" * 500, ""])
def test_labels_are_escaped_masked_and_cut(label: str):
    body = shown([label, "b"], [label, "b"], [label, "b"])
    assert "<script>" not in body
    assert "anna" not in body
    assert "x" * 100 not in body


def test_there_is_no_section_without_labels():
    text = Predictions(["x"], [("y",)])
    example = EvaluationExample(({"role": "user", "content": "q"},), ("y",), None, "w")
    assert confusion(text) is None
    assert confusion_section([Answered("test", [example], text)]) is None
