"""A run's status → what its user sees on stderr: a bar on a terminal, a line now and then elsewhere.

Standard output is left to results. Stages say what they begin with ``say``; long work reports through ``update``.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from cluster.records import RunStatus

LINE_EVERY_S = 10.0
FALLBACK = 80, 24


class Progress:
    """Prints stage lines and the state of the training loop to one stream."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._bar: Any = None
        self._drawn_lines = 0
        self._last_line_s = -LINE_EVERY_S
        self._last_step = -1
        self._listener: Callable[[str], None] | None = None

    @contextmanager
    def heard_by(self, listener: Callable[[str], None]) -> Generator[None]:
        """Also hand every line under the block to ``listener``, terminal or not."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def say(self, line: str) -> None:
        """Print one line, below a bar that is finished first."""
        self.close()
        self._tell(line)
        print(line, file=self._stream, flush=True)

    def update(self, status: RunStatus) -> None:
        """Show a running loop's step, loss, rates and time left; calls with the same step are ignored."""
        if status.steps == 0 or status.step == self._last_step:
            return
        self._last_step = status.step
        line = f"  step {status.step}/{status.steps}  {numbers(status)}"
        due = status.step == status.steps or self._clock() - self._last_line_s >= LINE_EVERY_S
        if due:
            self._last_line_s = self._clock()
            self._tell(line)
        if self._stream.isatty():
            self._draw(status)
        elif due:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Finish the bar or table, if one is drawn."""
        self._drawn_lines = 0
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def redraw(self, lines: Sequence[str]) -> None:
        """Draw a table in place of the one drawn before it; nothing where the stream is no terminal.

        Old lines are overwritten, not erased first, which would flicker; lines above the terminal's top could not be
        overwritten, so the last ones that fit are shown.
        """
        if not self._stream.isatty():
            return
        width, height = self._size()
        back = f"\x1b[{self._drawn_lines}F" if self._drawn_lines else ""
        shown = [cut(line, width - 1) for line in lines[-max(1, height - 1) :]]
        print(back + "\n".join(f"{line}\x1b[K" for line in shown) + "\n\x1b[J", end="", file=self._stream, flush=True)
        self._drawn_lines = len(shown)

    def _size(self) -> tuple[int, int]:
        """Return the columns and lines of the terminal that the stream is, which need not be standard output's."""
        try:
            return os.get_terminal_size(self._stream.fileno())
        except OSError:
            return FALLBACK

    def note(self, line: str) -> None:
        """Print one line where no table can be redrawn."""
        self._tell(line)
        if not self._stream.isatty():
            print(line, file=self._stream, flush=True)

    def _tell(self, line: str) -> None:
        if self._listener is not None:
            self._listener(line)

    def _draw(self, status: RunStatus) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(
                total=status.steps,
                file=self._stream,
                unit="step",
                bar_format="  {percentage:3.0f} %|{bar:24}| {n_fmt}/{total_fmt}  {desc}",
            )
        self._bar.n = status.step
        self._bar.set_description_str(numbers(status))


def cut(line: str, most: int) -> str:
    """Return a line of at most so many characters, the last of them a mark where there were more."""
    return line if len(line) <= most else line[: most - 1] + "…"


def numbers(status: RunStatus) -> str:
    """Return loss, rates and time left of a running loop, as far as they are known."""
    shown = [
        f"{label} {status.metrics[name]:{form}}{unit}"
        for name, label, form, unit in (
            ("loss", "loss", ".4f", ""),
            ("validation_loss", "validation", ".4f", ""),
            ("examples_per_s", "", ".0f", " examples/s"),
            ("target_tokens_per_s", "", ".0f", " target tokens/s"),
        )
        if name in status.metrics
    ]
    if status.eta_s is not None:
        minutes, seconds = divmod(round(status.eta_s), 60)
        shown.append(f"{minutes}:{seconds:02d} left")
    return "  ".join(part.strip() for part in shown)
