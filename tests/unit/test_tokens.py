"""Golden ids and masks of formats × templates × losses, and a token file that holds them exactly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.errors import DataError, StoreError
from cluster.plain_template import PLAIN_TEMPLATE
from cluster.spec import DataSpec
from tests.small_tokenizers import BRACKETS, CHATML, HEADINGS, bytewise, merging, spelled
from trainers import tokens as tokens_module
from trainers.formats import infer_format
from trainers.rows import Row, RowMaker, SourceProblem, SourceProblems
from trainers.sources import read_rows
from trainers.templates import Template, load_tokenizer, template_of
from trainers.tokens import Encoded, TokenSet, encode_rows

FORMATS: dict[str, dict[str, Any]] = {
    "messages": {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yo"}]},
    "alpaca": {"instruction": "Hi", "input": "", "output": "Yo"},
    "prompt_completion": {"prompt": "Hi", "completion": "Yo"},
    "classification": {"text": "Hi", "label": "Yo"},
    "text": {"text": "Yo"},
}
TEMPLATES = {"plain": PLAIN_TEMPLATE, "chatml": CHATML, "brackets": BRACKETS, "headings": HEADINGS}
GOLDEN = {
    "plain": "<s>Hi\n[[Yo</s>]]",
    "chatml": "<|start|>user\nHi<|end|>\n<|start|>assistant\n[[Yo<|end|>]]",
    "brackets": "<s>[user] Hi [/][[ Yo</s>]]",
    "headings": "# user\nHi\n\n# assistant\n[[Yo</s>]]",
}


def row_of(record: dict[str, Any], where: str = "rows.jsonl:1") -> Row:
    data = DataSpec(train=["rows.jsonl"])
    row = RowMaker(data, infer_format(record.keys(), data), "train", SourceProblems()).row(record, where)
    assert row is not None
    return row


def encoded(row: Row, source: str, loss_on: Any = "completion", max_length: int = 1000) -> Encoded:
    (one,) = encode_rows([row], Template(bytewise(), source), loss_on, max_length)
    return one


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("name", FORMATS)
def test_golden_ids_and_masks(name: str, template: str, loss_on: str):
    ids, is_target = spelled("<s>[[Yo</s>]]" if name == "text" else GOLDEN[template])
    one = encoded(row_of(FORMATS[name]), TEMPLATES[template], loss_on)
    assert one.ids_T.tolist() == ids
    assert one.is_target_T.tolist() == is_target
    assert (one.ids_T.dtype, one.is_target_T.dtype) == (np.int32, np.bool_)
    assert (one.length, one.targets, one.kept_targets) == (len(ids), sum(is_target), sum(is_target))


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [("completion", "<s>Be brief\nHi\nYo</s>Bye\n[[Ok</s>]]"), ("all", "<s>Be brief\nHi\n[[Yo</s>]]Bye\n[[Ok</s>]]")],
)
def test_golden_ids_and_masks_of_several_turns(loss_on: str, expected: str):
    said = ["Be brief", "Hi", "Yo", "Bye", "Ok"]
    roles = ["system", "user", "assistant", "user", "assistant"]
    row = row_of({"messages": [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)]})
    one = encoded(row, PLAIN_TEMPLATE, loss_on)
    assert (one.ids_T.tolist(), one.is_target_T.tolist()) == spelled(expected)


def test_the_first_token_is_no_target_since_nothing_predicts_it():
    (one,) = encode_rows([row_of({"text": "Yo"})], Template(bytewise(bos_token=None), CHATML), "completion", 100)
    assert one.is_target_T.tolist() == [False, True, True]
    assert one.targets == 2


@pytest.mark.parametrize("max_length", range(1, 9))
def test_what_is_too_long_is_cut_on_the_right_and_counted(max_length: int):
    ids, is_target = spelled("<s>Hi\n[[Yo</s>]]")
    one = encoded(row_of(FORMATS["prompt_completion"]), PLAIN_TEMPLATE, max_length=max_length)
    assert one.ids_T.tolist() == ids[:max_length]
    assert one.kept_targets == sum(is_target[:max_length])
    assert (one.length, one.targets) == (7, 3), "counted before the cut"


def test_batches_and_shared_pieces_do_not_change_the_ids(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tokens_module, "ROWS_A_BATCH", 3)
    template = Template(merging(["abc ab\nabc"] * 5), CHATML)
    rows = [row_of({"prompt": "ab " * (i % 4), "completion": "abc" * (i % 3)}) for i in range(20)]
    together = list(encode_rows(rows, template, "completion", 50))
    alone = [next(encode_rows([row], template, "completion", 50)) for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one.ids_T, other.ids_T)
        assert np.array_equal(one.is_target_T, other.is_target_T)


def test_a_row_that_the_template_cannot_render_is_named():
    template = Template(bytewise(), "{{ raise_exception('no such role') }}")
    with pytest.raises(DataError, match="no such role") as caught:
        list(encode_rows([row_of(FORMATS["messages"], "rows.jsonl:17")], template, "completion", 10))
    assert caught.value.where == "rows.jsonl:17"


def test_a_text_longer_than_the_models_context_gives_no_warning(caplog: pytest.LogCaptureFixture):
    template = Template(bytewise(model_max_length=4), PLAIN_TEMPLATE)
    assert next(encode_rows([row_of({"text": "x" * 50})], template, "completion", 100)).length == 52
    assert not caplog.records


EXAMPLES = st.lists(
    st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), max_size=20).map(
        lambda pairs: (np.asarray([i for i, _ in pairs], np.int32), np.asarray([t for _, t in pairs], np.bool_))
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(EXAMPLES, st.integers(1, 5))
def test_what_is_written_is_read(examples: list[tuple[Any, Any]], batch: int):
    import tempfile

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens_module, "ROWS_A_BATCH", batch)
        path = Path(directory) / "new" / "train.arrow"
        assert TokenSet.write(path, iter(examples)) == len(examples)
        tokens = TokenSet.load(path)
        assert len(tokens) == len(examples)
        assert tokens.lengths.tolist() == [len(ids) for ids, _ in examples]
        assert tokens.target_counts.tolist() == [int(mask.sum()) for _, mask in examples]
        assert (tokens.lengths.dtype, tokens.target_counts.dtype) == (np.int32, np.int32)
        for index, (ids, mask) in enumerate(examples):
            read_ids, read_mask = tokens.example(index)
            assert (read_ids.dtype, read_mask.dtype) == (np.int32, np.bool_)
            assert np.array_equal(read_ids, ids)
            assert np.array_equal(read_mask, mask)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "train.arrow"
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 40, 3500)
    TokenSet.write(path, ((np.arange(n, dtype=np.int32), rng.random(n) < 0.5) for n in lengths.tolist()))
    return path


def test_examples_are_views_of_the_mapped_file(written: Path):
    tokens = TokenSet.load(written)
    for index in (0, 999, 1000, 3499):
        ids, mask = tokens.example(index)
        for part in (ids, mask):
            assert not part.flags.owndata
            assert not part.flags.writeable, "workers share the file and must not change it"


def test_the_datasets_library_opens_the_file(written: Path):
    import datasets

    rows = datasets.Dataset.from_file(str(written))
    tokens = TokenSet.load(written)
    assert len(rows) == len(tokens)
    for index in (0, 1234, 3499):
        ids, mask = tokens.example(index)
        assert rows[index] == {"input_ids": ids.tolist(), "is_target": mask.astype(int).tolist()}


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_a_missing_or_damaged_file_is_refused(keep: float, written: Path, tmp_path: Path):
    with pytest.raises(StoreError, match="no token file"):
        TokenSet.load(tmp_path / "missing.arrow")
    data = written.read_bytes()
    written.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(StoreError, match="no token file"):
        TokenSet.load(written)


def test_the_modules_stay_light():
    modules = "sources rows formats readers turns duplicates splits templates tokens"
    code = "import sys;" + "".join(f"import trainers.{name};" for name in modules.split())
    code += "print([m for m in ('torch', 'transformers', 'datasets', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_real_model_and_data_are_encoded_in_time(realdata: Path):
    tokenizer = load_tokenizer(str(realdata / "stories260K"))
    template = template_of(tokenizer, None)
    path = realdata / "e2e" / "devset.csv"
    data = DataSpec.model_validate({"train": [str(path)], "columns": {"prompt": "mr", "completion": "ref"}})
    rows = list(read_rows(data.train, data))
    began_s = time.process_time()
    examples = list(encode_rows(rows, template, data.loss_on, 512))
    spent_s = time.process_time() - began_s
    # Measured 0.6 s of one core for these 4,672 rows (42,061 take 5 s); ten times that is a regression.
    assert spent_s < 6
    for row, one in zip(rows[::97], examples[::97], strict=True):
        prompt, answer = one.ids_T[~one.is_target_T].tolist(), one.ids_T[one.is_target_T].tolist()
        assert prompt == template.prompt_ids(row.prompt)
        assert tokenizer.decode(prompt) == "<s> " + row.prompt[0]["content"] + "\n"
        assert tokenizer.decode(answer, skip_special_tokens=True) == row.completion
        assert answer[-1] == tokenizer.eos_token_id
        assert json.dumps(prompt + answer) == json.dumps(one.ids_T.tolist())


def test_a_row_that_the_template_cannot_render_is_on_record_and_has_no_tokens():
    source = PLAIN_TEMPLATE + "{% if 'Hi' in messages[0].content %}{{ 1/0 }}{% endif %}"
    rows = [row_of(FORMATS["messages"], "rows.jsonl:17"), row_of({"prompt": "a", "completion": "b"}, "rows.jsonl:18")]
    problems: list[SourceProblem] = []
    refused, kept = encode_rows(rows, Template(bytewise(), source), "completion", 100, problems)
    assert [(problem.code, problem.where) for problem in problems] == [("roles_broken", "rows.jsonl:17")]
    assert (len(refused.ids_T), refused.length, refused.targets) == (0, 0, 0)
    assert kept.kept_targets == 2
    with pytest.raises(DataError, match=r"rows\.jsonl:17.*division"):
        list(encode_rows(rows[:1], Template(bytewise(), source), "completion", 100, problems))
