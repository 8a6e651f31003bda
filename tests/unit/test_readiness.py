"""What a sweep is refused for before it starts: trials that cannot be compared, and points that cannot be trained."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from cluster.capacity import Capacity, NodeCapacity
from cluster.errors import CapacityError, HoneError, JobFileError
from cluster.progress import Progress
from cluster.session import Settings
from cluster.spec import JobSpec
from tests.tiny import ticket_rows, write_base, write_jsonl
from tuning.readiness import ready

ROOM = Capacity((NodeCapacity("here", 4, 0, 2**34),))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tickets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "tickets.jsonl", ticket_rows(200))


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings of a home of its own, on a machine of four processors."""
    monkeypatch.setattr("trainers.machine.this_machine", lambda: ROOM)
    return Settings.from_env({"HONE_HOME": str(tmp_path / "home")}, tmp_path)


def job(base: Path, data: Path, space: dict[str, Any], workers: object = 1, **blocks: Any) -> JobSpec:
    train = {"method": "full", "batch_size": 16, "max_length": 100} | blocks.pop("train", {})
    evaluate = {"max_new_tokens": 8}
    settings = {"name": "t", "base": str(base), "data": str(data), "train": train, "evaluate": evaluate}
    sweep = {"space": space, "trials": 2} | blocks.pop("sweep", {})
    return JobSpec.model_validate(settings | {"cluster": {"workers": workers}, "sweep": sweep} | blocks)


def refused(of: JobSpec, settings: Settings) -> HoneError:
    with pytest.raises(HoneError) as caught:
        ready(of, settings, Progress(io.StringIO()))
    assert caught.value.remedy
    return caught.value


def with_other_tokens(path: Path) -> Path:
    """The tiny base with a tokenizer that joins fewer letters, so that the same text has more tokens."""
    tokenizer = write_base(path) / "tokenizer.json"
    content = json.loads(tokenizer.read_text())
    content["model"]["merges"] = content["model"]["merges"][:20]
    tokenizer.write_text(json.dumps(content))
    return path


def with_other_template(path: Path) -> Path:
    """The tiny base with a chat template of its own, so that an answer ends otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(write_base(path))
    tokenizer.chat_template = (
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\nis it?{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("by", ["loss", "perplexity"])
@pytest.mark.parametrize("other", [with_other_tokens, with_other_template])
def test_bases_of_other_tokens_are_not_compared_by_loss(
    tmp_path: Path, base: Path, tickets: Path, settings: Settings, by: str, other: Any
) -> None:
    space = {"base": [str(base), str(other(tmp_path / "other"))]}
    error = refused(job(base, tickets, space, train={"best_by": by}), settings)
    assert isinstance(error, JobFileError)
    assert error.where == "sweep.space.base"
    assert str(tmp_path / "other") in error.what
    assert "train.best_by to accuracy" in error.remedy
    ready(job(base, tickets, space, train={"best_by": "accuracy"}), settings, Progress(io.StringIO()))


def test_bases_of_the_same_tokens_are_compared_by_loss(
    tmp_path: Path, base: Path, tickets: Path, settings: Settings
) -> None:
    space = {"base": [str(base), str(write_base(tmp_path / "other", seed=1))]}
    ready(job(base, tickets, space), settings, Progress(io.StringIO()))


def test_lengths_are_compared_by_loss_unless_one_cuts_validation_rows(
    base: Path, tickets: Path, settings: Settings
) -> None:
    ready(job(base, tickets, {"train.max_length": "choice(48, 96)"}), settings, Progress(io.StringIO()))
    cuts = {"train.max_length": "choice(21, 96)", "train.method": "choice(full, lora)"}
    error = refused(job(base, tickets, cuts), settings)
    assert error.where == "sweep.space.train.max_length"
    assert "21" in error.what
    assert "96" in error.what
    ready(job(base, tickets, cuts, train={"best_by": "accuracy"}), settings, Progress(io.StringIO()))


def test_plain_text_has_no_answers_to_compare(tmp_path: Path, base: Path, settings: Settings) -> None:
    rows = [{"text": f"{row['text']} about {row['label']}"} for row in ticket_rows(200)]
    error = refused(
        job(base, write_jsonl(tmp_path / "text.jsonl", rows), {"train.max_length": "choice(20, 96)"}), settings
    )
    assert error.where == "sweep.space.train.max_length"
    assert "best_by" not in error.remedy


@pytest.mark.parametrize(
    ("space", "workers", "where", "said"),
    [
        (
            {"train.batch_size": "int(1, 16)"},
            2,
            "train.batch_size",
            "a trial of train.batch_size=1 cannot run: a step of 1 examples cannot be spread over 2 workers",
        ),
        ({"train.batch_size": "choice(2, 16)"}, {"min": 3, "max": 4}, "train.batch_size", "over 3 workers"),
        ({"train.offload": "choice(none, optimizer)"}, 1, "train.offload", "train.offload=optimizer cannot run"),
        ({"train.dropout": "uniform(0.0, 2.0e-1)"}, 1, "", ""),
        (
            {"train.zero_stage": "choice(1, 3)", "train.offload": "choice(none, all)"},
            1,
            "train.offload",
            "needs ZeRO stage 3",
        ),
        ({"train.lora.targets": [["q_proj"], ["nowhere"]]}, 1, "train.lora.targets", "nowhere"),
    ],
)
def test_a_point_that_cannot_be_planned_is_refused_with_its_values(
    base: Path, tickets: Path, settings: Settings, space: dict[str, Any], workers: object, where: str, said: str
) -> None:
    method = "lora" if any(key.startswith("train.lora") for key in space) else "full"
    of = job(base, tickets, space, workers, train={"method": method})
    if not said:
        ready(of, settings, Progress(io.StringIO()))
        return
    error = refused(of, settings)
    assert error.where == f"sweep.space.{where}"
    assert said in error.what
    assert "sweep.space" in error.remedy


def test_a_point_has_to_fit_the_finals_too(base: Path, tickets: Path, settings: Settings) -> None:
    space = {"train.batch_size": "choice(1, 16)"}
    error = refused(job(base, tickets, space, 2, sweep={"workers": 1}), settings)
    assert isinstance(error, CapacityError)
    assert "a final of train.batch_size=1 cannot run" in error.what
