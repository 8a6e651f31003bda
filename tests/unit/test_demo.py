"""The demo's rows are what the library says, its job is a job, and its base has never read a held-out row.

The honesty of the base is checked by an oracle of its own (plain character 5-grams and substring search on the corpus
that comes out), not by the functions that filter it.
"""

from __future__ import annotations

import io
import json
import re
import sysconfig
from collections import Counter
from pathlib import Path

import pytest

from cluster.errors import UsageError
from cluster.jobfile import load_job
from cluster.progress import Progress
from cluster.session import Settings
from trainers.demo import JOB, SPACES, TRAIN_KEYS, WHOLE_LIBRARY_ROWS, gate_of, held_out_texts, write_demo
from trainers.demo_base import ASSISTANT, END, USER, Pretraining, build_base, corpus
from trainers.demo_data import DocstringRow, docstring_rows, first_sentence, sources
from trainers.gate_rules import parse_rule
from tuning.space import own_values
from tuning.warm_start import Base, warm_starts

WHEN_SMALL = {"mail": 3, "web": 2}


def library(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def installed() -> list[DocstringRow]:
    return docstring_rows(sources(Path(sysconfig.get_path("stdlib"))))


def small_library(root: Path) -> Path:
    return library(
        root,
        {
            "mail/__init__.py": '"""Read and write mail messages."""\n',
            "mail/box.py": (
                '"""Boxes of mail.\n\nSecond paragraph. Flush the pending changes to disk.\n"""\n\n\n'
                'def flush():\n    """Write any pending changes to the disk."""\n    return write_to_the_disk()\n'
            ),
            "web.py": (
                '"""Serve pages over HTTP."""\n\n\ndef fetch(url):\n    """Write any pending change to the disk."""\n'
                "    # fetch the page behind an address and return it\n    return url\n"
            ),
            "test/test_mail.py": '"""Tests are no rows."""\n',
            "idlelib/run.py": '"""Tools are no rows."""\n',
            "site-packages/other.py": '"""Other projects are no rows."""\n',
            "broken.py": "def (:\n",
        },
    )


@pytest.mark.parametrize(
    ("docstring", "sentence"),
    [
        ("Return x.  Then y.", "Return x."),
        ("One line\nand the next. More.", "One line and the next."),
        ("No full stop\n\nSecond paragraph.", "No full stop"),
        ("Is it 1.5 times as long? Yes.", "Is it 1.5 times as long?"),
    ],
)
def test_first_sentence_ends_where_a_reader_would_stop(docstring: str, sentence: str):
    assert first_sentence(docstring) == sentence


def test_rows_are_the_docstrings_of_libraries_and_nothing_else(tmp_path: Path):
    rows = docstring_rows(sources(small_library(tmp_path)))
    assert Counter(row.label for row in rows) == WHEN_SMALL
    assert {row.text for row in rows if row.label == "web"} == {
        "Serve pages over HTTP.",
        "Write any pending change to the disk.",
    }


def test_a_row_says_where_its_docstring_stands(tmp_path: Path):
    rows = {row.text: row.where for row in docstring_rows(sources(small_library(tmp_path)))}
    assert rows["Write any pending changes to the disk."] == "mail/box.py:7"


def test_a_private_module_counts_for_the_package_it_implements(tmp_path: Path):
    root = library(tmp_path, {"_pydecimal.py": '"""Decimal arithmetic."""\n', "_pyio.py": '"""Streams."""\n'})
    assert {row.label for row in docstring_rows(sources(root))} == {"decimal", "io"}


def test_only_the_sixteen_largest_packages_are_labels(tmp_path: Path):
    root = library(tmp_path, {f"p{n:02}.py": '"""Text."""\n' + f"class A:\n{DOCUMENTED * n}" for n in range(1, 20)})
    rows = docstring_rows(sources(root))
    assert {row.label for row in rows} == {f"p{n:02}" for n in range(4, 20)}


DOCUMENTED = '    def f(self):\n        """Do it."""\n'


def test_the_installed_library_gives_thousands_of_rows_with_duplicates_and_imbalance(installed: list[DocstringRow]):
    counts = Counter(row.label for row in installed)
    assert len(counts) == 16
    assert 2000 < len(installed) < 6000  # a distribution may lack some packages (tkinter, say)
    assert len({row.text for row in installed}) < 0.97 * len(installed)
    assert max(counts.values()) > 2 * min(counts.values())


def normalised(text: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


def five_grams(text: str) -> set[str]:
    text = " ".join(text.split()).lower()
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def test_no_copy_or_near_duplicate_of_a_held_out_row_reaches_the_base(tmp_path: Path):
    held = ["Write any pending changes to the disk.", "Fetch the page behind an address, and return it."]
    texts = [piece.text for piece in corpus(sources(small_library(tmp_path)), {"mail", "web"}, held)]
    assert not any(normalised(text).find(normalised(one)) >= 0 for text in texts for one in held)
    assert max(jaccard(five_grams(text), five_grams(one)) for text in texts for one in held) < 0.8
    assert "Serve pages over HTTP." in texts


def test_a_docstring_goes_whole_when_a_later_sentence_is_held_out(tmp_path: Path):
    held = ["flush the pending changes to disk"]
    texts = [piece.text for piece in corpus(sources(small_library(tmp_path)), {"mail", "web"}, held)]
    assert not {"Boxes of mail.", "Second paragraph.", "Flush the pending changes to disk."} & set(texts)


def test_code_is_read_without_its_docstrings(tmp_path: Path):
    texts = [piece.text for piece in corpus(sources(small_library(tmp_path)), {"mail", "web"}, [])]
    code = [text for text in texts if "def " in text]
    assert code
    assert not any('"""' in text for text in code)


def demo_job(
    folder: Path,
    method: str,
    rows: list[DocstringRow] | None = None,
    overrides: tuple[str, ...] = (),
    *,
    num_rows: int = WHOLE_LIBRARY_ROWS,
):
    lines = [json.dumps({"text": row.text, "label": row.label}) for row in rows or [DocstringRow("Do it.", "mail", "")]]
    (folder / "docstrings.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "base").mkdir(exist_ok=True)
    job = folder / f"{method}.yaml"
    keys = {"train": TRAIN_KEYS[method], "gate": gate_of(method, num_rows), "space": SPACES[method]}
    job.write_text(JOB.format(base="./base", **keys), encoding="utf-8")
    return load_job(job, overrides)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_job_file_is_a_job_of_two_sharded_workers_with_a_gate(tmp_path: Path, method: str):
    job = demo_job(tmp_path, method)
    assert (job.train.method, job.train.zero_stage, job.cluster.workers) == (method, 2, 2)
    assert (job.data.split.validation, job.data.split.test) == (0.1, 0.1)
    assert len(job.gate) >= 2
    for rule in job.gate:
        parse_rule(rule)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_jobs_own_values_are_among_the_trials(tmp_path: Path, method: str):
    job = demo_job(tmp_path, method)
    assert own_values(job) in warm_starts(job, Base("llama", 128)).values()


@pytest.mark.parametrize("num_rows", [WHOLE_LIBRARY_ROWS, 3125])
def test_the_full_gate_is_no_lower_than_promised(tmp_path: Path, num_rows: int):
    promised = {"accuracy": 0.60, "macro_f1": 0.45}
    gate = demo_job(tmp_path, "full", num_rows=num_rows).gate
    stated = {rule.split(" >= ")[0]: float(rule.split(" >= ")[1]) for rule in gate}
    assert all(stated[metric] >= bound for metric, bound in promised.items())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_library_of_which_parts_are_missing_is_asked_for_less(method: str):
    assert gate_of(method, 3125) != gate_of(method, 3840)


def test_another_split_holds_out_other_rows(tmp_path: Path, installed: list[DocstringRow]):
    some = installed[::8]
    first, again, other = (
        set(held_out_texts(demo_job(tmp_path, "full", some, overrides).data))
        for overrides in ((), (), ("data.split.seed=1",))
    )
    assert first == again
    assert 0.1 * len(some) < len(first) < 0.25 * len(some)
    assert len(first & other) < 0.5 * len(first)


def test_held_out_rows_share_no_text_with_the_others(tmp_path: Path, installed: list[DocstringRow]):
    some = [*installed[::8], *installed[::16]]
    held = set(held_out_texts(demo_job(tmp_path, "full", some).data))
    kept = {row.text for row in some} - held
    assert not {text.lower() for text in held} & {text.lower() for text in kept}


TINY = Pretraining(steps=3, rows=2, length=32, hidden=16, layers=1)


def test_the_base_is_the_same_for_the_same_corpus_and_has_a_chat_template(tmp_path: Path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pieces = corpus(sources(small_library(tmp_path / "library")), {"mail", "web"}, []) * 3
    weights = []
    for name in ("one", "two"):
        build_base(tmp_path / name, pieces, TINY, lambda _line: None)
        weights.append(AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert not list((tmp_path / "one").glob("*.bin"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "one")
    shown = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True
    )
    assert shown == f"{USER}x{END}{ASSISTANT}"
    assert len(tokenizer(shown, add_special_tokens=False)["input_ids"]) == 4


def test_a_home_that_is_no_local_folder_is_refused(tmp_path: Path):
    settings = Settings.from_env({"HONE_HOME": "s3://bucket/home", "HONE_DB": "postgresql://host/db"}, tmp_path)
    with pytest.raises(UsageError, match="local directory"):
        write_demo(settings, Progress(io.StringIO()), method="full")
