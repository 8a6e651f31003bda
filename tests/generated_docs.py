"""Write the reference pages that are made from the code, or (--check) say which ones are stale."""

from __future__ import annotations

import sys
from pathlib import Path

from cluster.schema import reference_page
from tests.commands_page import commands_page
from trainers.metrics_page import metrics_page

DOCS = Path(__file__).parent.parent / "docs"
PAGES = {"commands.md": commands_page, "job-file.md": reference_page, "metrics.md": metrics_page}


def main() -> int:
    """Write or compare every page; exit code 1 where one is stale."""
    stale: list[str] = []
    for name, page in PAGES.items():
        path, text = DOCS / name, page().rstrip("\n") + "\n"
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(name)
    if stale:
        print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
