"""The pages of check and training in a real browser: they show, in light and in dark, and nothing in the data runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from cluster.page_style import STYLE
from tests.checked_sets import checked_set
from tests.finished_runs import finished_run, history, written_page
from tests.finished_sweeps import finished_sweep
from tuning.report import sweep_page

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)
DARK = "--blink-settings=preferredColorScheme=0"
LIMIT_S = 60
HOSTILE = "<script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"

Browse = Callable[..., str]


@pytest.fixture
def browse(tmp_path: Path) -> Browse:
    """Run the browser on a page with some arguments and return what it prints."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed (on Debian: apt-get install chromium)")
    profiles = iter(range(100))

    def run(page: Path, *arguments: str) -> str:
        profile = f"--user-data-dir={tmp_path}/profile-{next(profiles)}"
        command = [browser, *FLAGS, profile, *arguments, page.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout

    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": f"{HOSTILE} question {place}", "label": ("yes", "no")[place % 2]} for place in range(120)]
    rows[7] = rows[5]
    directory = tmp_path_factory.mktemp("page")
    path = directory / "check.html"
    path.write_text(checked_set(directory / "set", {"train": rows}).page(), encoding="utf-8")
    return path


def colours(theme: str) -> dict[str, tuple[int, ...]]:
    """Return the style's colours by name, as red, green and blue."""
    light, dark = STYLE.split("prefers-color-scheme: dark")
    found = re.findall(r"--([a-z-]+): #([0-9a-f]{6});", light if theme == "light" else dark)
    return {name: tuple(bytes.fromhex(digits)) for name, digits in found}


def refuse_missing_colours(picture: Path, theme: str, names: Sequence[str]) -> None:
    """Fail where the paper is not what most of the page shows, or hardly a pixel has one of these colours."""
    with Image.open(picture) as image:
        seen = {colour[:3]: num for num, colour in image.getcolors(2**24) or []}
    expected = colours(theme)
    assert max(seen, key=lambda colour: seen[colour]) == expected["paper"]
    for name in names:
        assert seen.get(expected[name], 0) > 20, f"nothing is drawn in {name}"


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
