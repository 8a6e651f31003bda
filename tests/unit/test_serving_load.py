"""What a release directory becomes when it is served: its model, its adapter, the ids that end its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from cluster.errors import BaseModelError
from cluster.spec import JobSpec
from serving.load import load
from serving.prompts import PromptEncoder
from tests.small_tokenizers import bytewise
from tests.tiny import write_base
from trainers import checkpoint
from trainers.export import write_model
from trainers.model import prepare_model, trainable_parameters
from trainers.quiet import quiet_libraries

PROBE = torch.tensor([[5, 60, 7, 8, 90, 11]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that moves the base's logits, as a release keeps it."""
    quiet_libraries()
    directory = tmp_path_factory.mktemp("adapter")
    model: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(directory)
    model.generation_config.eos_token_id = [7, 8]
    model.generation_config.save_pretrained(directory)
    load(str(base)).tokenizer.save_pretrained(directory)
    return directory


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=PROBE).logits.float()


def test_a_whole_model_is_served_as_it_is(base: Path):
    release = load(str(base))
    assert torch.equal(logits(release.model), logits(AutoModelForCausalLM.from_pretrained(base)))
    assert not release.model.training
    assert release.context_tokens == 128
    assert release.num_ids == release.model.config.vocab_size


def test_an_adapter_is_served_over_its_base(base: Path, adapter: Path):
    plain = AutoModelForCausalLM.from_pretrained(base)
    expected = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).eval())
    release = load(str(adapter))
    assert (expected - logits(plain)).abs().max() > 0.1
    assert (logits(release.model) - expected).abs().max() < 1e-5  # fp32 sums in another order
    assert not any("lora" in name for name, _ in release.model.named_modules())


def test_over_16_bit_weights_an_adapter_stays_beside_them(base: Path, adapter: Path):
    release = load(str(adapter), dtype=torch.bfloat16)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    expected = logits(PeftModel.from_pretrained(plain, adapter).eval())
    assert torch.equal(logits(release.model), expected)


def test_an_adapters_base_may_lie_somewhere_else(base: Path, adapter: Path, tmp_path: Path):
    moved = tmp_path / "moved"
    moved.symlink_to(base)
    config = (adapter / "adapter_config.json").read_text()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in adapter.iterdir():
        (copy / file.name).symlink_to(file)
    (copy / "adapter_config.json").unlink()
    (copy / "adapter_config.json").write_text(config.replace(str(base), str(tmp_path / "gone")))
    with pytest.raises(BaseModelError, match="gone cannot be loaded"):
        load(str(copy))
    assert torch.equal(logits(load(str(copy), base=str(moved)).model), logits(load(str(adapter)).model))


def test_answers_end_where_the_release_says(base: Path, adapter: Path):
    end = load(str(base)).tokenizer.eos_token_id
    assert load(str(base)).stop_ids == {end}
    assert load(str(adapter)).stop_ids == {7, 8, end}


CLOSED_BY_BEGIN = "{% for m in messages %}{{ m.content }}<|begin|>{% endfor %}"


@pytest.mark.parametrize("method", ["full", "lora"])
def test_an_exported_release_ends_answers_as_its_template_does(
    base: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
):
    job = JobSpec.model_validate(
        {
            "name": "a",
            "base": str(base),
            "data": {"train": "x.jsonl", "template": CLOSED_BY_BEGIN},
            "train": {"method": method},
        }
    )

    def untrained(directory: Path) -> dict[str, torch.Tensor]:
        return dict(trainable_parameters(prepare_model(str(base), job.train, torch.float32)))

    monkeypatch.setattr(checkpoint, "read_weights", untrained)
    write_model(job, tmp_path, tmp_path / "release")
    release = load(str(tmp_path / "release"))
    assert release.stop_ids == {1, 0}
    ids = PromptEncoder(release.tokenizer).ids(({"role": "user", "content": "my invoice"},))
    assert release.tokenizer.decode(ids) == "my invoice<|begin|>"


def test_text_leaves_special_tokens_out_and_spelling_shows_them(base: Path):
    release = load(str(base))
    vocabulary = release.vocabulary()
    ids = release.tokenizer("my invoice", add_special_tokens=False)["input_ids"]
    assert vocabulary.decode([1, *ids, 0]) == "my invoice"
    assert "".join(vocabulary.spell(token) for token in ids) == "my invoice"
    assert vocabulary.spell(0) == "<|end|>"


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        ("adapter_model.safetensors", "holds no adapter_model.safetensors"),
        ("tokenizer.json", "has no tokenizer that loads"),
    ],
)
def test_what_is_missing_is_named(adapter: Path, tmp_path: Path, gone: str, said: str):
    for file in adapter.iterdir():
        if file.name != gone:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(BaseModelError, match=said):
        load(str(tmp_path))


def test_pickled_weights_are_not_loaded(base: Path, tmp_path: Path):
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).symlink_to(file)
    torch.save(AutoModelForCausalLM.from_pretrained(base).state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load(str(tmp_path))


def test_an_adapter_over_another_base_is_refused(adapter: Path, tmp_path: Path):
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=261, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    bytewise().save_pretrained(tmp_path)
    with pytest.raises(BaseModelError, match="does not fit its base"):
        load(str(adapter), base=str(tmp_path))


def test_a_base_without_a_template_is_asked_as_it_was_trained(base: Path):
    release = load(str(base))
    ids = PromptEncoder(release.tokenizer).ids(({"role": "user", "content": "my invoice"},))
    assert release.tokenizer.decode(ids) == "<|begin|>my invoice\n"
