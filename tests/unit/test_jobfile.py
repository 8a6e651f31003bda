"""Loading a job file: what is wrong is told with its place, and a resolved job reads back equal."""

from __future__ import annotations

import json
import pickle
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cluster.errors import JobFileError
from cluster.jobfile import MAX_JOB_BYTES, dump_job, job_hash, load_job

HEAD = "name: router\nbase: org/model\ndata: rows.jsonl\n"  # the next line is line 4


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str | bytes, *overrides: str) -> Any:
    path = Path("job.yaml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return load_job(path, overrides)


def refused(text: str | bytes, *overrides: str) -> JobFileError:
    with pytest.raises(JobFileError) as caught:
        load(text, *overrides)
    assert caught.value.remedy
    assert caught.value.exit_code == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return caught.value


# The block of the design document, with every key that it shows.
DESIGN = """
name: support-router            # a comment
base: ./models/small
data: {train: [a.jsonl, b.jsonl], validation: v.jsonl, test: {old: o.jsonl, new: n.jsonl}, format: auto,
       loss_on: completion, columns: {prompt: q, completion: a, label: l, references: r, group: g},
       split: {validation: 0.1, test: 0.1, stratify: auto, seed: 0}, audit: {allow: ["*"], fix: [duplicate_exact]}}
train:
  method: lora
  lora: {rank: 16, alpha: 32, dropout: 0.05, targets: all-linear, dora: false, rslora: false}
  epochs: 3
  learning_rate: 2.0e-4
  batch_size: 32
  dropout: 0.0
  weight_decay: 0.0
  max_length: 1024
  zero_stage: auto
  offload: none
  precision: auto
  eval_every: 0.25
  early_stopping: {patience: 3}
  best_by: loss
  seed: 0
cluster: {workers: 1, gpus_per_worker: auto, price_per_gpu_hour: null, max_hours: null, max_cost: null}
evaluate: {metrics: auto, base: true, few_shot: 0, max_new_tokens: 64, slices: []}
gate: ["accuracy >= 0.70", "accuracy >= base + 0.10"]
sweep:
  trials: 24
  space: {train.learning_rate: "loguniform(1e-5, 1e-3)", train.batch_size: "choice(16, 32, 64)",
          train.lora.dropout: "uniform(0.0, 0.2)"}
serve:
  endpoint: support
  arms:
    control: {release: support-router@champion, weight: 90}
    candidate: {release: support-router@4, weight: 10, generation: {temperature: 0.0}}
  experiment: {name: router-v4, control: control, outcome: success, unit: user, horizon_h: 24, missing: exclude,
               guardrails: {error_rate: 0.01, slow: {latency_s: 2.0, rate: 0.05}}, ramp: [1, 10, 50], promote: manual}
  log: features
"""


def test_the_designs_job_file_loads_and_reads_back_equal(here: Path):
    spec = load(DESIGN)
    assert spec.base == str(here / "models/small")
    assert spec.train.learning_rate == 2e-4
    assert spec.train.max_length_given
    assert spec.sweep.space["train.lora.dropout"] == "uniform(0.0, 0.2)"
    assert load(dump_job(spec)) == spec


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("train: {epoch: 2}", "job.yaml:4", ["train.epoch is no key", "did you mean epochs?"]),
        ("train:\n  lora:\n    rnk: 2", "job.yaml:6", ["train.lora.rnk", "did you mean rank?"]),
        ("train: {lr: 0.1}", "job.yaml:4", ["train.lr is no key", "did you mean learning_rate?"]),
        ("trian: {}", "job.yaml:4", ["trian is no key", "did you mean train?"]),
        ("epochs: 2", "job.yaml:4", ["did you mean train.epochs?"]),
        ("train.epochs: 2", "job.yaml:4", ["did you mean train.epochs?"]),
        ("train: {rank: 2}", "job.yaml:4", ["did you mean train.lora.rank?"]),
        ("foo: 2", "job.yaml:4", ["foo is no key", "The keys are name, base, data"]),
        ("train:\n  epochs: -1", "job.yaml:5", ["train.epochs is -1", "greater than 0", "Passes over"]),
        ("train:\n  epochs: three", "job.yaml:5", ['train.epochs is "three"', "must be a number"]),
        ("train:\n  epochs: '3'", "job.yaml:5", ['is "3"', "must be a number"]),
        ("train:\n\n  dropout: 1.0", "job.yaml:6", ["train.dropout is 1.0", "less than 1"]),
        ("train: {batch_size: 0}", "job.yaml:4", ["train.batch_size is 0", "at least 1"]),
        ("train: {learning_rate: .inf}", "job.yaml:4", ["finite number"]),
        ("train: {method: LoRA}", "job.yaml:4", ['"LoRA"', "'full', 'lora' or 'qlora'"]),
        ("train: {zero_stage: 4}", "job.yaml:4", ["train.zero_stage is 4", "'auto' or at most 3"]),
        ("train: {eval_every: true}", "job.yaml:4", ["train.eval_every is true"]),
        ("train: {dora: yes}", "job.yaml:4", ["train.lora.dora?"]),
        ("train: {lora: {dora: yes}}", "job.yaml:4", ['train.lora.dora is "yes"', "true or false"]),
        ("train: 7", "job.yaml:4", ["train is 7", "a block of keys"]),
        ("cluster: {workers: 0}", "job.yaml:4", ["cluster.workers is 0; it must be at least 1"]),
        ("cluster:\n  workers:\n    max: 2", "job.yaml:5", ["cluster.workers.min is missing"]),
        ("cluster:\n  workers:\n    min: 3\n    max: 2", "job.yaml:7", ["min 3 is above max 2"]),
        ("train:\n  method: full\n  lora: {rank: 2}", "job.yaml:6", ["no adapter under method full"]),
        ("train:\n  method: qlora\n  zero_stage: 3", "job.yaml:6", ["4-bit base", "ZeRO stage 3"]),
        ("train:\n  zero_stage: 0\n  offload: all", "job.yaml:6", ["needs ZeRO stage 3", "zero_stage is 0"]),
        ("gate:\n  - accuracy > 0\n  - accuracy", "job.yaml:6", ["gate.1", "'accuracy' compares nothing"]),
        ("sweep:\n  space:\n    train.lr: fixed(1)", "job.yaml:6", ["sweep.space.train.lr"]),
        ("sweep:\n  space:\n    train.dropout: uniform(0, 2)", "job.yaml:6", ["cannot be 2.0", "less than 1"]),
        ("serve:\n  endpoint: e\n  arms:\n    a: {release: m@x, weight: 1}", "job.yaml:7", ["'m@x' is no version"]),
        ("name: x", "job.yaml:4", ["name is given twice, first at job.yaml:1"]),
    ],
)
def test_a_mistake_names_its_line_key_value_and_bound(line: str, place: str, words: list[str]):
    error = refused(f"{HEAD}{line}\n")
    assert error.where == place
    for word in words:
        assert word in str(error)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("data", "place", "word"),
    [
        ("data: 3", "job.yaml:3", "data is 3"),
        ("data: []", "job.yaml:3", "data is []"),
        ("data: {}", "job.yaml:3", "data.train is missing"),
        ("data:\n  train: a\n  columns: {promt: q}", "job.yaml:5", "did you mean prompt?"),
        ("data:\n  train: a\n  audit:\n    allow: [truncate]", "job.yaml:6", "did you mean truncated?"),
        ("data:\n  train: a\n  test:\n    base: x", "job.yaml:6", "'base' cannot name a test set"),
        ("data:\n  train: a\n  split: {test: 0.95}", "job.yaml:5", "nothing to train on"),
        ("data:\n  train: a\n  split:\n    validation: 0.95", "job.yaml:5", "nothing to train on"),
        ("data:\n  train: [a, 3]", "job.yaml:4", "data.train.1 is 3"),
    ],
)
def test_a_mistake_in_the_data_names_its_line(data: str, place: str, word: str):
    error = refused(f"name: a\nbase: b\n{data}\n")
    assert (error.where, word in str(error)) == (place, True)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["../x", "a/b", "/etc", "..", "A", "x" * 64, "", "a b"])
def test_a_name_that_could_leave_the_store_is_refused(name: str):
    error = refused(f"name: '{name}'\nbase: b\ndata: c\n")
    assert error.where == "job.yaml:1"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("text", ["base: b\ndata: c\n", "name:\nbase: b\ndata: c\n", "name: null\nbase: b\ndata: c\n"])
def test_a_missing_key_is_named(text: str):
    assert "name is missing" in str(refused(text))


@pytest.mark.usefixtures("here")
def test_up_to_five_mistakes_are_told_at_once_in_the_files_order():
    wrong = ["seed: x", "epochs: 0", "dropout: 2", "warmup: 1", "offload: all of it", "rsloar: 1", "best_by: ''"]
    error = refused(HEAD + "train:\n" + "".join(f"  {line}\n" for line in wrong))
    assert error.where == "job.yaml"
    told = re.findall(r"job\.yaml:(\d+): train\.(\w+)", error.what)
    assert told == [("5", "seed"), ("6", "epochs"), ("7", "dropout"), ("8", "warmup"), ("9", "offload")]
    assert "7 mistakes" in error.what
    assert "and 2 more" in error.what


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("content", "place", "word"),
    [
        (b"", "job.yaml", "empty"),
        (b"# only a comment\n", "job.yaml", "empty"),
        (b"- a\n- b\n", "job.yaml:1", "a list"),
        (b"hello\n", "job.yaml:1", "a single value"),
        (b"name: a\nbase: \xff\n", "job.yaml:2", "0xff is not UTF-8"),
        (b"name: a\nbase: [\n", "job.yaml:3", "no valid YAML"),
        (b"#" * (MAX_JOB_BYTES + 1), "job.yaml", "larger than"),
        (b'{"prompt": "x"}\n{"prompt": "y"}\n', "job.yaml:2", "no valid YAML"),
    ],
)
def test_a_file_that_is_no_job_file_says_so(content: bytes, place: str, word: str):
    error = refused(content)
    assert (error.where, word in str(error)) == (place, True)


def test_a_path_that_cannot_be_read_says_so(here: Path, monkeypatch: pytest.MonkeyPatch):
    for path, word in ((here / "missing.yaml", "no such file"), (here, "directory")):
        with pytest.raises(JobFileError, match=word):
            load_job(path)

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)  # a test that runs as root can read everything
    with pytest.raises(JobFileError, match="Permission denied"):
        load_job(here / "job.yaml")


def test_a_byte_order_mark_is_no_mistake(here: Path):
    assert load(b"\xef\xbb\xbf" + HEAD.encode()).name == "router"


def test_numbers_with_an_exponent_are_numbers_in_file_and_override(here: Path):
    assert load(f"{HEAD}train: {{learning_rate: 1e-4}}\n").train.learning_rate == 1e-4
    assert load(HEAD, "train.learning_rate=1e-4").train.learning_rate == 1e-4


def test_off_is_a_word_and_not_false(here: Path):
    arms = "{a: {release: m@1, weight: 1}}"
    assert load(f"{HEAD}serve: {{endpoint: e, arms: {arms}, log: off}}\n").serve.log == "off"


def test_paths_are_taken_from_the_files_directory_wherever_we_are(here: Path, monkeypatch: pytest.MonkeyPatch):
    (here / "jobs").mkdir()
    (here / "jobs" / "job.yaml").write_text("name: a\nbase: ../models/x\ndata: rows.jsonl\n")
    spec = load_job(Path("jobs/job.yaml"), ["data.test=held-out.csv"])
    assert spec.base == str(here / "models/x")
    assert spec.data.train == [str(here / "jobs/rows.jsonl")]
    assert spec.data.test == {"test": [str(here / "jobs/held-out.csv")]}
    dumped = dump_job(spec)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    assert load(dumped) == spec


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "line",
    [
        "train: {method: full}",
        "train: {method: qlora, max_length: 64}",
        "train: {early_stopping: null, eval_every: 5}",
        "train: {eval_every: 5.0}",
        "train: {lora: {alpha: 7}, epochs: 2, learning_rate: 1e-5}",
        "cluster: {workers: {min: 1, max: 3}, gpus_per_worker: 2}",
        "sweep: {space: {base: 'choice(./x, org/y)', train.lora.targets: [all-linear, [q]]}}",
    ],
)
def test_a_resolved_job_reads_back_equal_with_the_same_hash(line: str):
    spec = load(f"{HEAD}{line}\n")
    again = load(dump_job(spec))
    assert again == spec
    assert job_hash(again) == job_hash(spec)
    assert again.train.max_length_given == spec.train.max_length_given
    assert dump_job(again) == dump_job(spec)


TEXTS = st.text(min_size=1) | st.from_regex(r"[-+.0-9eE:~]{1,6}", fullmatch=True) | st.sampled_from(["off", "null"])


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(slices=st.lists(TEXTS), column=TEXTS, rate=st.floats(1e-12, 1), seed=st.integers(0, 2**32 - 1))
def test_any_text_and_number_survives_dumping(here: Path, slices: list[str], column: str, rate: float, seed: int):
    spec = load(HEAD)
    spec = spec.model_copy(
        update={
            "data": spec.data.model_copy(update={"columns": {"prompt": column}}),
            "evaluate": spec.evaluate.model_copy(update={"slices": slices}),
            "train": spec.train.model_copy(update={"learning_rate": rate, "seed": seed}),
        }
    )
    assert load(dump_job(spec)) == spec


def test_the_dump_shows_the_resolved_learning_rate(here: Path):
    assert "learning_rate: 2.0e-05" in dump_job(load(f"{HEAD}train: {{method: full}}\n"))


def test_the_hash_is_that_of_the_canonical_json(here: Path):
    spec = load(HEAD)
    canonical = json.dumps(json.loads(spec.model_dump_json()), sort_keys=True, separators=(",", ":"))
    assert job_hash(spec) == sha256(canonical.encode()).hexdigest()


def test_the_hash_knows_the_job_and_not_its_spelling(here: Path):
    spec = load(HEAD)
    assert job_hash(load("data: [rows.jsonl]\nbase: org/model\nname: router\ntrain: {epochs: 3} # x\n")) == job_hash(
        spec
    )
    for override in ("train.seed=1", "train.method=full", "gate=[a > 1]", "train.max_length=1024"):
        assert job_hash(load(HEAD, override)) != job_hash(spec)
