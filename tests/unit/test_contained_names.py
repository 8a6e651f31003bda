"""Names that a user gives lead nowhere but where they say, whichever command takes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.cli import main

OUT = ["../outside", "/etc/passwd", "..", "a/../../outside", "x\x00y", "-", "*"]
COMMANDS = [
    ["status", "{}"],
    ["stop", "{}"],
    ["resume", "{}"],
    ["split", "{}", "a=1"],
    ["rollback", "{}"],
    ["promote", "{}"],
    ["verdict", "{}"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_a_name_that_leads_out_is_refused_and_touches_nothing(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    home = tmp_path / "home"
    home.mkdir()
    outside = tmp_path / "outside"
    outside.write_text("kept")
    (tmp_path / "outside.json").write_text("kept")
    monkeypatch.setenv("HONE_HOME", str(home))
    for name in OUT:
        try:
            code = main([part.format(name) for part in command])
        except SystemExit as ended:  # argparse, for what looks like an option
            code = ended.code
        assert code in (1, 2), (name, code)
        assert "Traceback" not in capsys.readouterr().err
    assert outside.read_text() == (tmp_path / "outside.json").read_text() == "kept"
    assert not [path for path in home.rglob("*") if path.is_file() and path.suffix == ".json"]
