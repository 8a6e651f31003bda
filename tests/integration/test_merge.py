"""`hone merge` on releases made as `hone train` makes them: the full model answers as base and adapter did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from cluster.cli import main
from cluster.records import Release
from cluster.spec import TrainSpec
from tests.tiny import write_base
from trainers.export import save_whole
from trainers.inference import load
from trainers.model import prepare_model
from trainers.templates import load_tokenizer, template_of

CARD = "# tickets\n\nAn adapter over `base`, made by run `a-run`.\n\n## Data\n\nData hash.\n"


def adapter_release(path: Path, base: Path, *, moved: float = 0.3, **lora: Any) -> Path:
    """An adapter whose B matrices are as far from zero as ``moved``, with tokenizer, card and record."""
    train = TrainSpec.model_validate({"method": "lora", "lora": {"rank": 4, "dropout": 0.0, **lora}})
    torch.manual_seed(0)
    model: Any = prepare_model(str(base), train, torch.float32)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, moved)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(path)
    tokenizer = load_tokenizer(str(base))
    tokenizer.chat_template = template_of(tokenizer, None).source
    tokenizer.save_pretrained(path)
    (path / "README.md").write_text(CARD)
    record = Release(
        name="tickets", run="a-run", method="lora", base=str(base), base_hash="b", data_hash="d", job={}, versions={}
    )
    (path / "release.json").write_text(record.model_dump_json())
    return path


def merged(release: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["merge", str(release), str(out), "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_HOME", str(tmp_path / "home"))


@pytest.mark.parametrize("lora", [{}, {"rslora": True}, {"dora": True}], ids=["lora", "rslora", "dora"])
def test_the_full_model_gives_the_logits_of_base_and_adapter(
    tmp_path: Path, lora: dict[str, bool], capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is PEFT's own forward over the base; fp32 sums in another order, 1e-4 of logits of about 1."""
    release = adapter_release(tmp_path / "release", write_base(tmp_path / "base"), **lora)
    found = merged(release, tmp_path / "out", capsys)
    assert found["adapter_effect"] > 0.05 > 0.001 >= found["max_abs_logit_difference"]
    tokens = torch.randint(0, 300, (3, 20), generator=torch.Generator().manual_seed(5))
    both = load(str(release), None, torch.device("cpu"))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert type(whole).__name__ == "LlamaForCausalLM"
    with torch.no_grad():
        assert torch.allclose(whole(tokens).logits, both.model(tokens).logits, atol=1e-4)


def test_what_is_written_is_a_release_that_says_what_it_was_merged_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = write_base(tmp_path / "base")
    release = adapter_release(tmp_path / "release", base)
    merged(release, tmp_path / "out", capsys)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "release.json", "README.md", "manifest.json"} <= names
    assert not [name for name in names if name.startswith("adapter_")]
    record = Release.model_validate_json((tmp_path / "out" / "release.json").read_text())
    assert (record.method, record.run, str(release) in record.merged_from) == ("full", "a-run", True)
    card = (tmp_path / "out" / "README.md").read_text()
    assert str(release) in card
    assert card.index("## Merged") < card.index("## Data")
    source, target = (load(str(path), None, torch.device("cpu")) for path in (release, tmp_path / "out"))
    assert target.template.source == source.template.source
    assert list((tmp_path).glob(".*")) == []


def test_a_16_bit_base_stays_one_within_its_rounding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_base(tmp_path / "base")
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    found = merged(adapter_release(tmp_path / "release", base), tmp_path / "out", capsys)
    assert found["precision"] == "bfloat16"
    assert 0 < found["max_abs_logit_difference"] < 0.25
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").dtype == torch.bfloat16


def test_a_merge_that_changes_the_model_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights that are written wrong: one of the merged matrices does not reach the disk as it was computed."""

    def damaged(model: Any, dtype: torch.dtype, stop_ids: list[int], directory: Path) -> None:
        model.model.layers[1].mlp.down_proj.weight.data.mul_(-1)
        save_whole(model, dtype, stop_ids, directory)

    monkeypatch.setattr("trainers.merge.save_whole", damaged)
    release = adapter_release(tmp_path / "release", write_base(tmp_path / "base"), moved=3.0)
    assert main(["merge", str(release), str(tmp_path / "out")]) == 1
    assert "off those of base and adapter" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_no_adapter_or_is_there_already_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = write_base(tmp_path / "base")
    assert main(["merge", str(base), str(tmp_path / "out")]) == 2
    assert "no adapter" in capsys.readouterr().err
    release = adapter_release(tmp_path / "release", base)
    assert main(["merge", str(release), str(base)]) == 2
    assert "is there already" in capsys.readouterr().err
