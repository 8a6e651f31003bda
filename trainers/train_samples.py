"""Tests with two models' answers → the report's section of samples before and after tuning.

The same examples for both models, side by side, with the right answers; how they are chosen is `trainers.answered`'s.
Personal data is masked before anything is cut, as in the report on the data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from markupsafe import Markup

from cluster.pages import Cell, Section, badge, element, folded, joined, visible
from trainers.answered import MAX_LOOKED_AT, Answered, Group, Measured, grouped, measured
from trainers.audit_evidence import counted
from trainers.excerpts import shown_text, shown_turns
from trainers.metrics import Predictions
from trainers.turn_view import turn_line, turn_text, turns_block

OPEN_EXAMPLES = 2
SHOWN_REFERENCES = 3
LEADS = {
    "classification": "An answer is right where it spells the expected label.",
    "generation": "An answer is better or worse where its ROUGE-L against the best reference moved by more than 0.05.",
    "text": "A text is better or worse where its loss per token moved by more than 0.05 nats.",
}


def samples_section(tests: Sequence[Answered]) -> Section | None:
    """Return examples of every test with what both models answered; None where nothing was tested."""
    tests = [answered for answered in tests if answered.examples]
    if not tests:
        return None
    tasks = dict.fromkeys(answered.task for answered in tests)
    lead = " ".join(["Chosen evenly over each group, not by hand.", *(LEADS[task] for task in tasks)])
    blocks = [joined(_test(answered)) for answered in tests[:1]]
    for answered in tests[1:]:
        blocks.append(element("h3", f"Test {answered.test}"))
        blocks.append(folded(f"What it did to {counted(len(answered.examples), 'example')}", joined(_test(answered))))
    return Section("Before and after", joined(blocks), f"{lead} Texts are shortened, personal data is masked.")


def _test(answered: Answered) -> Iterator[Markup]:
    scores = measured(answered)
    groups = grouped(scores, answered.task)
    looked_at = f" of {MAX_LOOKED_AT:,} looked at" if len(scores.places) < len(answered.examples) else ""
    told = joined(
        element(
            "li", badge(group.tone if group.count else "note", group.name) + visible(f" {group.count:,}{looked_at}")
        )
        for group in groups
    )
    yield Markup('<ul class="tally">{}</ul>').format(told)
    for group in groups:
        if group.places:
            yield from _group(group, answered, scores)


def _group(group: Group, answered: Answered, scores: Measured) -> Iterator[Markup]:
    yield element("h3", group.name.capitalize() + f": {len(group.places):,} of {group.count:,}")
    cards = [example_card(place, answered, scores) for place in group.places]
    yield from cards[:OPEN_EXAMPLES]
    if rest := cards[OPEN_EXAMPLES:]:
        yield folded(counted(len(rest), "further example"), joined(rest))


def example_card(place: int, answered: Answered, scores: Measured) -> Markup:
    """Return one example with its input, the right answers, and what each model answered with its score."""
    example = answered.examples[place]
    at = int((scores.places == place).nonzero()[0][0])
    before = None if scores.before is None else float(scores.before[at])
    sides = [] if before is None else [_side("base", answered.base, place, before, answered.task)]
    sides.append(_side("tuned", answered.tuned, place, float(scores.after[at]), answered.task))
    blocks = [element("p", example.where, "place")]
    if example.prompt:
        blocks += [turns_block(*shown_turns(example.prompt)), _expected(answered, place)]
    else:
        blocks += [turn_line("text", turn_text(shown_text("", text))) for text in example.references[:1]]
    return element("div", joined([*blocks, element("div", joined(sides), "answers")]), "example")


def _expected(answered: Answered, place: int) -> Markup:
    example = answered.examples[place]
    if answered.task == "classification":
        return turn_line("expected", turn_text(shown_text("", str(example.label))))
    texts = [element("div", turn_text(shown_text("", text))) for text in example.references[:SHOWN_REFERENCES]]
    more = len(example.references) - SHOWN_REFERENCES
    if more > 0:
        texts.append(element("div", f"and {counted(more, 'more right answer')}", "left-out"))
    return turn_line("expected", joined(texts))


def _side(name: str, predictions: Predictions | None, place: int, score: float, task: str) -> Markup:
    assert predictions is not None, "only a model that was asked has a score"
    said: Cell
    if task == "classification":
        said = badge("good", "right") if score else badge("error", "wrong")
    else:
        said = f"ROUGE-L {score:.2f}" if task == "generation" else f"loss per token {-score:.3f}"
    head = element("p", element("b", name) + Markup(" ") + element("span", said))
    text = predictions.texts[place] if predictions.texts else None
    answer = Markup("") if text is None else element("div", turn_text(shown_text("", text)), "text")
    return element("div", head + answer)
