"""Prepared data sets made on the spot from a few records, and the page of their check."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import HoneError
from cluster.records import CheckReport, Plan
from cluster.spec import JobSpec
from tests.plans import a_plan
from tests.small_tokenizers import CHATML, merging
from trainers.check_page import check_page
from trainers.dataset import Form, Sources, build
from trainers.prepared import Prepared
from trainers.row_file import RowFile
from trainers.sources import SourceProblems, read_rows
from trainers.templates import Template

PLAN = a_plan(
    workers=2,
    zero_stage=2,
    steps=120,
    steps_per_epoch=40,
    micro_batch_tokens=2048,
    micro_batches=3,
    parameters=1_000_000,
    trainable_parameters=250_000,
    memory_bytes={"weights": 4_000_000, "optimizer": 8_000_000, "activations": 30_000_000, "buffers": 0},
    available_bytes=1_000_000_000,
    formula="arithmetic",
    hours=0.5,
    hours_source="measured by a-run",
    advice=["use one worker"],
)


@dataclass(frozen=True)
class CheckedSet:
    """A prepared set, the job that it was prepared for, and its tokenizer."""

    job: JobSpec
    prepared: Prepared
    tokenizer: Any

    def report(self, plan: Plan | None = PLAN) -> CheckReport:
        record = self.prepared.record
        ok = all(finding.severity != "error" for finding in record.findings)
        return CheckReport(ok=ok, findings=record.findings, splits=record.splits, plan=plan)

    def page(self, plan: Plan | None = PLAN, refused: HoneError | None = None) -> str:
        return check_page(self.job, self.prepared, self.report(plan), self.tokenizer, refused)


def checked_set(
    directory: Path, files: dict[str, Sequence[dict[str, Any]]], max_length: int = 512, **data: Any
) -> CheckedSet:
    """Prepare the records of ``files`` (train, validation, tests, sources of ``mix``) as a job with these would."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        (directory / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    mixed = [source["name"] for source in data.get("mix", [])]
    given = {"train": [f"{directory}/train.jsonl"]}
    given |= {"validation": [f"{directory}/validation.jsonl"]} if "validation" in files else {}
    tests = {n: [f"{directory}/{n}.jsonl"] for n in files if n not in ("train", "validation", *mixed)}
    job = JobSpec.model_validate({"name": "checked", "base": "./base", "data": given | {"test": tests} | data})
    problems = SourceProblems()
    parts = {
        name: RowFile.write(directory / f"{name}.rows", read_rows(paths, job.data, name, problems))
        for name, paths in (given | tests).items()
    }
    further = {
        source.name: RowFile.write(
            directory / f"{source.name}.rows", read_rows(source.train, source, source.name, problems)
        )
        for source in job.data.mix or []
    }
    tokenizer = merging(["Where is my parcel, please?", "It is on its way."])
    form = Form(Template(tokenizer, CHATML), job.data.loss_on, max_length)
    (directory / "set").mkdir()
    build(job, Sources(parts, further, problems, "0" * 64, directory), form, directory / "set")
    return CheckedSet(job, Prepared(directory / "set"), tokenizer)
