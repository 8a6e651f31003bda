"""placeholder."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.pipeline import RunContext


def run(ctx: RunContext) -> None:
    """X."""
    ctx.store.put_text("x", "runs", ctx.run, "sweep.html")
