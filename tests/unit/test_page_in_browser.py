"""The pages of check and training in a real browser: they show, in light and in dark, and nothing in the data runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import DARK, Browse, refuse_missing_colours
from tests.checked_sets import checked_set
from tests.finished_runs import finished_run, history, written_page
from tests.finished_sweeps import finished_sweep
from tuning.report import sweep_page

HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": f"{HOSTILE} question {place}", "label": ("yes", "no")[place % 2]} for place in range(120)]
    rows[7] = rows[5]
    directory = tmp_path_factory.mktemp("page")
    path = directory / "check.html"
    path.write_text(checked_set(directory / "set", {"train": rows}).page(), encoding="utf-8")
    return path


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_shows_its_targets_bars_and_findings_in_either_theme(browse: Browse, page: Path, tmp_path: Path, theme: str):
    picture = tmp_path / f"{theme}.png"
    browse(page, "--window-size=1200,9000", f"--screenshot={picture}", *([DARK] if theme == "dark" else []))
    refuse_missing_colours(picture, theme, ("panel", "bar", "target", "target-edge", "special", "warning-back"))


def test_nothing_in_the_data_runs(browse: Browse, page: Path):
    shown = browse(page, "--dump-dom")
    assert "<title>checked: Data check</title>" in shown
    assert "&lt;script&gt;document.title" in shown, "the copied row is an example of a finding"


def test_a_training_report_draws_its_curves_and_intervals_and_runs_nothing(browse: Browse, tmp_path: Path):
    rows = [{"text": f"{HOSTILE} question {place}", "label": ("yes", "no")[place % 2]} for place in range(120)]
    files = {"train": rows[:80], "test": rows[80:]}
    ctx = finished_run(tmp_path / "run", files, lambda role, _: "yes" if role == "tuned" else HOSTILE, points=history())
    page, picture = tmp_path / "report.html", tmp_path / "report.png"
    page.write_text(written_page(ctx), encoding="utf-8")
    browse(page, "--window-size=1200,6000", f"--screenshot={picture}", DARK)
    refuse_missing_colours(picture, "dark", ("panel", "bar", "bar-edge", "second", "good-back"))
    assert "<title>checked: Training report</title>" in browse(page, "--dump-dom")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_sweep_report_draws_its_trials_and_runs_nothing(browse: Browse, tmp_path: Path, theme: str):
    page, picture = tmp_path / "sweep.html", tmp_path / "sweep.png"
    page.write_text(sweep_page(finished_sweep()), encoding="utf-8")
    browse(page, "--window-size=1200,4000", f"--screenshot={picture}", *([DARK] if theme == "dark" else []))
    refuse_missing_colours(picture, theme, ("panel", "bar", "bar-edge", "second", "error", "note-back"))
    assert "<title>router: Sweep report</title>" in browse(page, "--dump-dom")
