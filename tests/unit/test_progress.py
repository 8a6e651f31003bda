"""What a user sees of long work: a table redrawn in place on a terminal, single lines elsewhere."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import termios

from cluster.progress import Progress


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_table_is_written_over_the_one_before_it_line_by_line() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.redraw(["first", "second", "third"])
    assert terminal.getvalue() == "first\x1b[K\nsecond\x1b[K\nthird\x1b[K\n\x1b[J"
    progress.redraw(["1", "2"])
    assert terminal.getvalue().endswith("\x1b[J\x1b[3F1\x1b[K\n2\x1b[K\n\x1b[J"), "nothing is erased before it is drawn"


def test_a_table_fits_the_terminal_that_it_is_drawn_on() -> None:
    """Whatever standard output is: with `--json > file` it is no terminal."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 4, 10, 0, 0))
    with os.fdopen(writer, "w", encoding="utf-8") as terminal:
        Progress(terminal).redraw(["hidden", "a line that is too wide", "2", "3"])
        shown = os.read(reader, 1000).decode()
    os.close(reader)
    assert re.sub(r"\x1b\[.", "", shown).split() == ["a", "line", "t…", "2", "3"]


def test_a_line_said_in_between_leaves_the_table_above_it() -> None:
    terminal = Terminal()
    progress = Progress(terminal)
    progress.redraw(["table"])
    progress.say("a line")
    progress.redraw(["table again"])
    assert re.sub(r"\x1b\[.", "", terminal.getvalue()) == "table\na line\ntable again\n"
    assert "F" not in terminal.getvalue(), "nothing goes back up over the line"


def test_without_a_terminal_there_are_notes_and_no_tables() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.redraw(["table"])
    progress.note("a trial ended")
    assert stream.getvalue() == "a trial ended\n"
    terminal = Terminal()
    Progress(terminal).note("a trial ended")
    assert terminal.getvalue() == ""
