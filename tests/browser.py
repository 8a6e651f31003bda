"""A real browser without a window, and what colours a picture of a page shows."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from cluster.page_style import STYLE

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

Browse = Callable[..., str]


def browsing(profiles: Path) -> Browse:
    """Return what runs the browser on a page (a file or an address) with some arguments and returns what it prints.

    Skips the test where there is no browser.
    """
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed (on Debian: apt-get install chromium)")
    numbers = count()

    def run(page: Path | str, *arguments: str) -> str:
        profile = f"--user-data-dir={profiles}/profile-{next(numbers)}"
        command = [browser, *FLAGS, profile, *arguments, page if isinstance(page, str) else page.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout

    return run


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
