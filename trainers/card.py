"""A release's record → its model card: data, method, scores with intervals, limits.

The sections follow Mitchell et al. 2019 ("Model Cards for Model Reporting", arXiv 1810.03993) as far as a training run
can know them; intended use is for the model's owner to add.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.records import CheckReport, GateReport, Interval, Metrics, Release
from trainers.look_numbers import Number


def model_card(
    release: Release, check: CheckReport, gate: GateReport, template: str, looks: Sequence[Number] = ()
) -> str:
    """Return the card as Markdown; ``looks`` are the numbers that further looks at the release came to."""
    return "\n".join(
        [
            *_head(release),
            *_data(release, check),
            *_method(release),
            *_scores(release, gate),
            *_looks(looks),
            *_limits(check),
            "## Template\n",
            "Prompts are rendered with this chat template, stored with the tokenizer:\n",
            "```jinja",
            template,
            "```\n",
        ]
    )


def _head(release: Release) -> list[str]:
    kind = "An adapter over" if release.method != "full" else "Fine-tuned from"
    return [f"# {release.name}\n", f"{kind} `{release.base}`, made by run `{release.run}`.\n"]


def _data(release: Release, check: CheckReport) -> list[str]:
    rows = [f"| {name} | {s.rows:,} | {s.tokens:,} | {s.target_tokens:,} |" for name, s in check.splits.items()]
    findings = [f"- {f.severity}: `{f.code}`, {f.count:,} rows. {f.detail}" for f in check.findings]
    return [
        "## Data\n",
        f"Data hash `{release.data_hash}`.\n",
        "| split | rows | tokens | target tokens |",
        "|---|---:|---:|---:|",
        *rows,
        "",
        *(["The audit found:\n", *findings, ""] if findings else ["The audit found nothing.\n"]),
    ]


def _method(release: Release) -> list[str]:
    train: Any = release.job["train"]
    named = ("learning_rate", "batch_size", "epochs", "schedule", "weight_decay", "dropout", "seed")
    lines = [f"- {name.replace('_', ' ')}: {train[name]}" for name in named]
    if release.method != "full":
        lora = train["lora"]
        lines.append(
            f"- adapter: rank {lora['rank']}, alpha {lora['alpha']}, dropout {lora['dropout']}, on {lora['targets']}"
        )
    libraries = ", ".join(f"{name} {number}" for name, number in release.versions.items())
    return ["## Method\n", f"- method: {release.method}", *lines, f"- libraries: {libraries}", ""]


def _scores(release: Release, gate: GateReport) -> list[str]:
    lines = ["## Scores\n", "On held-out rows, with 95 % bootstrap intervals.\n"]
    for role, scores in release.metrics.items():
        for test, metrics in _by_test(scores).items():
            spans = release.intervals.get(role, {})
            named: Any = spans.get(test, spans) if isinstance(spans, dict) else {}
            title = role if test == "test" else f"{role}, {test}"
            lines += [f"| {title} | value | interval |", "|---|---:|---|"]
            lines += [f"| {name} | {value:.4f} | {_span(named.get(name))} |" for name, value in metrics.items()]
            lines.append("")
    return [
        *lines,
        f"Gate: **{gate.decision}**" + (f" ({'; '.join(r.rule for r in gate.rules)})" if gate.rules else "") + "\n",
    ]


def _looks(numbers: Sequence[Number]) -> list[str]:
    """Return slices, robustness, forgetting and memorisation under the names that gate rules give them."""
    known = [number for number in numbers if number.value is not None]
    if not known:
        return []
    rows = [f"| {number.test} | `{number.name}` | {number.value:.4f} | {number.note} |" for number in known]
    return ["## Further looks\n", "| test | number | value | |", "|---|---|---:|---|", *rows, ""]


def _by_test(scores: Metrics | dict[str, Metrics]) -> dict[str, Any]:
    nested = any(isinstance(value, dict) for value in scores.values())
    return dict(scores) if nested else {"test": scores} if scores else {}


def _span(interval: object) -> str:
    return f"[{interval.low:.4f}, {interval.high:.4f}]" if isinstance(interval, Interval) else ""


def _limits(check: CheckReport) -> list[str]:
    test_rows = sum(s.rows for name, s in check.splits.items() if name not in ("train", "validation"))
    return [
        "## Limits\n",
        f"- Scored on {test_rows:,} held-out rows like the training data: other inputs may fare worse.",
        "- The base model's own limits and licence apply.",
        "- Nothing here measures safety, bias or behaviour outside the task.\n",
    ]
