"""What a user sees of long work: a table redrawn in place on a terminal, single lines elsewhere."""

from __future__ import annotations

import io

import pytest

from cluster.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_is_drawn_over_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    terminal = Terminal()
    progress = Progress(terminal)
    progress.redraw(["first", "second"])
    progress.redraw(["a line that is too wide", "2", "3"])
    assert terminal.getvalue() == "first\nsecond\n\x1b[2F\x1b[Ja line th\n2\n3\n"


def test_a_line_said_in_between_leaves_the_table_above_it() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.redraw(["table"])
    progress.say("a line")
    progress.redraw(["table again"])
    assert terminal.getvalue() == "table\na line\ntable again\n"


def test_without_a_terminal_there_are_notes_and_no_tables() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.redraw(["table"])
    progress.note("a trial ended")
    assert stream.getvalue() == "a trial ended\n"
    terminal = Terminal()
    Progress(terminal).note("a trial ended")
    assert terminal.getvalue() == ""
