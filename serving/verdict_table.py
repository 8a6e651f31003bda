"""A verdict → the lines that `hone verdict` shows."""

from __future__ import annotations

from cluster.tables import columns
from serving.verdict import Verdict


def verdict_lines(verdict: Verdict) -> list[str]:
    """Return arms with their means, the effect with its interval, the checks, and the decision with its reason."""
    rows = [["arm", "units", "mean", "95 % at every look"]]
    for arm, summary in verdict.arms.items():
        mean = "" if summary.mean is None else f"{summary.mean:.4f}"
        span = summary.interval
        rows.append([arm, str(summary.units), mean, f"[{span.low:.4f}, {span.high:.4f}]" if span else ""])
    effect = verdict.effect
    difference = "no interval yet"
    if effect.estimate is not None and effect.low is not None and effect.high is not None:
        difference = f"{effect.estimate:+.4f} [{effect.low:+.4f}, {effect.high:+.4f}]"
    guardrails = [
        f"  {name} of {arm}: {'holds' if bound.ok else 'broken'}"
        + ("" if bound.rate is None else f" ({bound.rate:.3%} of {bound.requests}, at most {bound.bound:.3%})")
        for arm, bounds in verdict.guardrails.items()
        for name, bound in bounds.items()
    ]
    full = ", ".join(f"{arm} {count}" for arm, count in verdict.overloaded.items() if count)
    return [
        *columns(rows),
        "",
        f"  effect of {verdict.arm}: {difference}",
        f"  sample ratio: {'as recorded' if verdict.srm.ok else 'NOT as recorded'} "
        f"(evidence {verdict.srm.evidence:.3g})",
        *guardrails,
        *([f"  turned away for want of room: {full}"] if full else []),
        f"  waiting: {verdict.waiting} units",
        "",
        f"  {verdict.decision}: {verdict.reason}",
    ]
