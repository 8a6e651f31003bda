"""The command line's tables → the reference page of its commands; each sentence is the program's own."""

from __future__ import annotations

import argparse

from cluster.cli import COMMANDS

INTRODUCTION = """\
# The commands

Generated from the command line's own tables; change the words there, not this page.

`hone COMMAND --help` says the same. Every command takes `--debug`, which shows a traceback where something fails.
Results go to standard output, everything else to standard error; with `--json` the last line is one JSON object. Exit
codes: 0 done, 1 the run failed, 2 the file or the arguments are wrong, 3 the gate said hold or reject, 4 it cannot fit,
130 interrupted.
"""


def commands_page() -> str:
    """Return the page."""
    parts = [INTRODUCTION]
    for command in COMMANDS:
        parser = argparse.ArgumentParser(prog=f"hone {command.name}")
        command.arguments(parser)
        parts.append(f"## hone {command.name}\n\n{command.about[0].upper()}{command.about[1:]}.\n")
        rows = [_row(action) for action in parser._actions if action.dest != "help"]
        if rows:
            parts.append("| argument | |\n| --- | --- |\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _row(action: argparse.Action) -> str:
    value = action.metavar or (f"{{{','.join(map(str, action.choices))}}}" if action.choices else action.dest.upper())
    if isinstance(value, tuple):
        value = " ".join(value)
    shown = str(value) if action.choices is None or action.metavar else ", ".join(map(str, action.choices))
    takes_value = action.nargs != 0
    if action.option_strings:
        name = ", ".join(action.option_strings) + (f" {value}" if takes_value else "")
    else:
        name = f"{shown} …" if action.nargs in ("+", "*") else shown
    needed = " (required)" if action.required and action.option_strings else ""
    return f"| `{_cell(name)}` | {_cell(action.help or '')}{needed} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("%%", "%")
