"""No model's code runs, but what the administrator lists at an exact revision."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cluster.errors import BaseModelError, UsageError
from cluster.manifest import content_hash
from cluster.trusted_code import LISTED_IN, loading
from serving.load import load as load_release
from tests.tiny import write_base
from trainers.inference import load as load_model
from trainers.model import load_base

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def listed(folder: Path, text: str) -> dict[str, str]:
    file = folder / "trusted"
    file.write_text(text)
    file.chmod(0o644)
    return {LISTED_IN: str(file)}


def own_code(path: Path) -> Path:
    """A base whose configuration is code of its own, which leaves a mark when it runs."""
    write_base(path)
    config = json.loads((path / "config.json").read_text())
    config |= {
        "model_type": "ours",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"},
    }
    (path / "config.json").write_text(json.dumps(config))
    (path / "own.py").write_text(
        "from pathlib import Path\nfrom transformers import LlamaConfig, LlamaForCausalLM\n"
        f"Path({str(path.parent / 'ran')!r}).touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'ours'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
    )
    return path


def test_without_a_list_no_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(LISTED_IN, raising=False)
    base = str(own_code(tmp_path / "base"))
    for load in (lambda: load_base(base, torch.float32), lambda: load_release(base)):
        with pytest.raises(BaseModelError) as refused:
            load()
        assert "only an administrator" in refused.value.remedy
    assert not (tmp_path / "ran").exists()


def test_a_listed_directory_runs_while_it_is_what_was_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    base = own_code(tmp_path / "base")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    for name, value in listed(tmp_path, f"{base}@{content_hash(base)}").items():
        monkeypatch.setenv(name, value)
    assert type(load_base(str(base), torch.float32)).__name__ == "OwnModel"
    assert (tmp_path / "ran").exists()
    with (base / "own.py").open("a") as code:
        code.write("# changed\n")
    with pytest.raises(UsageError, match="is not what"):
        load_base(str(base), torch.float32)


def test_a_listed_hub_model_is_loaded_at_its_commit_and_others_without_code(tmp_path: Path):
    env = listed(tmp_path, f"# looked at in March\norg/model@{COMMIT}  # ours\n")
    assert loading("org/model", env) == {"trust_remote_code": True, "revision": COMMIT, "code_revision": COMMIT}
    assert loading("org/other", env) == {"trust_remote_code": False}
    assert loading("org/model", {}) == {"trust_remote_code": False}


@pytest.mark.parametrize("line", ["org/model@main", "org/model", "org/model@", "../x@" + "0" * 64, "/dir@" + "0" * 40])
def test_a_line_that_may_come_to_mean_something_else_is_refused(tmp_path: Path, line: str):
    with pytest.raises(UsageError, match="no model at an exact revision"):
        loading("org/model", listed(tmp_path, line))


def test_a_list_that_others_may_write_is_refused(tmp_path: Path):
    env = listed(tmp_path, f"org/model@{COMMIT}\n")
    (tmp_path / "trusted").chmod(0o666)
    with pytest.raises(UsageError, match="others may write"):
        loading("org/model", env)
    with pytest.raises(UsageError, match="cannot be read"):
        loading("org/model", {LISTED_IN: str(tmp_path / "none")})


def test_a_pickled_adapter_is_not_loaded(tmp_path: Path):
    base = write_base(tmp_path / "base")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)})
    )
    torch.save({}, adapter / "adapter_model.bin")
    for load in (lambda: load_model(str(adapter), None, torch.device("cpu")), lambda: load_release(str(adapter))):
        with pytest.raises(BaseModelError, match=r"no adapter_model\.safetensors"):
            load()
