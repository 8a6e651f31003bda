"""Turns as a report keeps them → HTML: who speaks, the text, and how much of it was left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from cluster.pages import element, joined, visible
from trainers.audit_evidence import counted

if TYPE_CHECKING:
    from trainers.report_records import Turn


def turns_block(turns: Sequence[Turn], left_out: int) -> Markup:
    """Return turns one below another, with a remark in their middle where some are left out."""
    blocks = [turn_line(turn.role, turn_text(turn)) for turn in turns]
    if left_out:
        gap = element("p", f"{counted(left_out, 'turn')} between are not shown", "left-out")
        blocks.insert(len(blocks) // 2, gap)
    return joined(blocks)


def turn_text(turn: Turn) -> Markup:
    """Return a turn's text between what is said of its cuts."""
    before = element("span", f"({turn.before:,} characters before) … ", "left-out") if turn.before else Markup("")
    after = element("span", f" … ({turn.after:,} more characters)", "left-out") if turn.after else Markup("")
    text = visible(turn.text) if turn.text.strip() else element("span", "(empty)", "left-out")
    return before + text + after


def turn_line(name: str, text: Markup) -> Markup:
    """Return a text beside the name of what it is."""
    return Markup('<dl class="turn"><dt>{}</dt><dd class="text">{}</dd></dl>').format(visible(name), text)
