"""The guides' form: what `make docs-test` would run can be told, and what sentences name is there."""

from __future__ import annotations

import shlex

import pytest

from cluster.cli import COMMANDS
from tests.guides import DOCS, GUIDES, blocks, commands, files_of, foreign, guide, inline_commands, links

NAMES = {command.name for command in COMMANDS}
TARGETS = {"setup", "demo", "check", "test", "faults", "docs", "docs-test", "bench", "cluster-demo", "loop-demo"}


@pytest.mark.parametrize("name", [*GUIDES, "README"])
def test_what_a_guide_names_is_there(name: str):
    text = guide(name)
    assert all((DOCS / target).is_file() for target in links(text))
    for line in inline_commands(text):
        program, first = shlex.split(line)[:2]
        assert first in (NAMES if program == "hone" else TARGETS) or first in ("submit", "COMMAND"), line


@pytest.mark.parametrize("name", GUIDES)
def test_every_command_of_a_guide_is_run_or_looked_at(name: str):
    found = blocks(guide(name))
    run = [command for block in found if block.kind == "run" for command in commands(block.text)]
    assert run
    for command in run:
        assert shlex.split(command.text)[0] in ("hone", "make", "mkdir"), command
    for block in found:
        if block.kind == "shown":
            assert not block.text.startswith(("hone ", "make ")), block
        if block.kind == "validate":
            assert all(foreign(command.text) for command in commands(block.text))


def test_every_guide_is_in_the_index():
    assert {f"{name}.md" for name in GUIDES} <= set(links(guide("README")))
    pages = {path.name for path in DOCS.glob("*.md")} - {"README.md"}
    assert pages <= set(links(guide("README")))


def test_blocks_are_told_apart_by_their_marking():
    text = "```yaml file=a/b.yaml\nx: 1\n```\n\n```sh\nhone list\nhone check \\\n  x  # exits 2\n# a remark\n```\n"
    text += "```text\nno\n```\n"
    file, run, shown = blocks(text)
    assert (file.kind, file.file, file.text, file.line) == ("file", "a/b.yaml", "x: 1\n", 1)
    assert [(command.text.split(), command.exits) for command in commands(run.text)] == [
        (["hone", "list"], 0),
        (["hone", "check", "x"], 2),
    ]
    assert shown.kind == "shown"
    assert files_of(foreign("kubectl apply -f a.yaml --namespace x")) == ["a.yaml"]
    with pytest.raises(AssertionError):
        foreign("curl example.org")
