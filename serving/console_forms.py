"""The console's forms: weights, promotion, a prompt for every arm, and scores for the answers.

Each works without script. The names of their fields are here; what is done with them is ``serving.console``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from cluster.pages import element, joined
from serving.endpoint import Endpoint
from serving.openai_requests import MOST_TOKENS

EPOCH, WEIGHT, SCORED = "epoch", "weight:", "score:"
"""Names of a form's fields, the last two what they begin with."""


@dataclass(frozen=True)
class Answer:
    """One arm's answer to the prompt that was tried; ``request`` is empty where there is none to score."""

    arm: str
    text: str
    request: str = ""
    seconds: float = 0.0
    tokens: int = 0


@dataclass(frozen=True)
class Tried:
    """A prompt as it was typed in, and how long and how freely it is to be answered; empty: as each arm is set."""

    prompt: str = ""
    max_tokens: str = ""
    temperature: str = ""


NOTHING = Tried()


def traffic_forms(root: str, endpoint: Endpoint) -> Markup:
    """Return the forms that change weights, promote an arm, or take the last change back."""
    weight = Markup('<label>{0} <input type="number" name="{1}{0}" min="0" step="any" value="{2!r}" required></label>')
    fields = joined(weight.format(name, WEIGHT, arm.weight) for name, arm in endpoint.arms.items())
    seen = Markup('<input type="hidden" name="{}" value="{}">').format(EPOCH, endpoint.epoch)
    promotion = Markup('<button name="arm" value="{0}">Promote {0}</button>')
    promotions = joined(promotion.format(name) for name in endpoint.arms)
    return joined(
        [
            form(f"{root}/split", seen + fields + Markup("<button>Set weights</button>")),
            form(f"{root}/promote", seen + promotions),
            form(f"{root}/rollback", seen + Markup("<button>Roll the last change back</button>")),
        ]
    )


def try_form(root: str, tried: Tried, answers: Sequence[Answer]) -> Markup:
    """Return the form for a prompt as it was tried, and below it the arms' answers, each to be scored."""
    fields = Markup(
        '<label class="whole">Prompt <textarea name="prompt" rows="4" required maxlength="100000">{}</textarea></label>'
        '<label>Tokens at most <input type="number" name="max_tokens" min="1" max="{}" value="{}" placeholder="as set">'
        '</label><label>Temperature <input type="number" name="temperature" min="0" max="2" step="any" value="{}" '
        'placeholder="as set"></label><button>Ask every arm</button>'
    ).format(tried.prompt, MOST_TOKENS, tried.max_tokens, tried.temperature)
    asked = form(f"{root}/try", fields)
    return asked + _answers(root, answers) if answers else asked


def _answers(root: str, answers: Sequence[Answer]) -> Markup:
    parts = [_answer(answer) for answer in answers]
    body = Markup('<div class="answers">{}</div>').format(joined(parts))
    if any(answer.request for answer in answers):
        body += Markup("<button>Keep these scores</button>")
    return form(f"{root}/score", body)


def _answer(answer: Answer) -> Markup:
    head = element("p", element("b", answer.arm))
    text = element("div", answer.text, "text")
    if not answer.request:
        return element("div", head + text)
    choice = Markup(
        '<label><input type="radio" name="{0}{1}" value="1"> good</label>'
        '<label><input type="radio" name="{0}{1}" value="0"> bad</label>'
    ).format(SCORED, answer.request)
    cost = element("p", f"{answer.tokens} tokens in {answer.seconds:.2f} s", "soft")
    return element("div", head + text + cost + choice)


def form(action: str, body: Markup) -> Markup:
    """Return a form that posts its fields to ``action``."""
    return Markup('<form method="post" action="{}">{}</form>').format(action, body)
