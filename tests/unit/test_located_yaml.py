"""YAML with places: scalars as YAML 1.2 has them, and nothing that a job file does not need."""

from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cluster.errors import JobFileError
from cluster.located_yaml import CoreDumper, parse_yaml


def parsed(text: str) -> Any:
    return parse_yaml(text, lambda line: f"f:{line}").value


# The tables of the YAML 1.2.2 specification, section 10.3.2, and the words that YAML 1.1 read otherwise.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E5", 1e5),
        ("2.0e-4", 2e-4),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.5", -1.5),
        ("+12", 12),
        ("-0", 0),
        ("010", 10),
        ("0o17", 15),
        ("0xFf", 255),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("off", "off"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("0b1", "0b1"),
        ("1e", "1e"),
        (".", "."),
        ("nan", "nan"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("!!str 5", "5"),
        ("loguniform(1e-5, 1e-3)", "loguniform(1e-5, 1e-3)"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text: str, value: Any):
    found = parsed(f"key: {text}")["key"]
    assert found == value
    assert type(found) is type(value)


def test_nan_is_a_number():
    assert math.isnan(parsed("a: .nan")["a"])


def test_every_key_and_item_knows_its_line():
    places = parse_yaml("a: 1\n\nb:\n  c: [x,\n      y]\n  d:\n  - e: 2\n", lambda line: str(line)).places
    expected = {("a",): "1", ("b",): "3", ("b", "c"): "4", ("b", "c", 0): "4", ("b", "c", 1): "5"}
    expected |= {("b", "d"): "6", ("b", "d", 0): "7", ("b", "d", 0, "e"): "7", (): "1"}
    assert places == expected


def test_an_alias_gives_two_values_that_do_not_share_changes():
    value = parsed("a: &x {k: 1}\nb: *x\n")
    value["a"]["k"] = 2
    assert value["b"] == {"k": 1}


BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else '1'}]\n" for n in range(12))


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3", "a is given twice, first at f:1"),
        ("a:\n  b: 1\n  b: 1\n", "f:3", "b is given twice, first at f:2"),
        ("a: 1\nb: [1,\n", "f:3", "no valid YAML"),
        ("a: 1\n  b: 2\n", "f:2", "no valid YAML"),
        ("a:\n\t- 1\n", "f:2", "no valid YAML"),
        ("a: @x\n", "f:1", "no valid YAML"),
        ("a: 1\n---\nb: 1\n", "f:2", "second document"),
        ("a: *nowhere\n", "f:1", "undefined alias"),
        ("a: 1\nb: \x07\n", "f:2", "'\\x07' is not allowed"),
        ("a: 1\n2: 3\n", "f:2", "2 stands where a key belongs"),
        ("a: 1\n[x]: 3\n", "f:2", "a collection stands where a key belongs"),
        ("a: !!python/object:os.system {}\n", "f:1", "tag"),
        ("a: !!binary aGk=\n", "f:1", "tag"),
        ("a: !!set {b}\n", "f:1", "tag"),
        ("a: !!int x\n", "f:1", "cannot be read as a number"),
        ("a: " + "9" * 5000, "f:1", "cannot be read as a number"),
        ("a: &a [*a]\n", "f:1", "too many values"),
        (BOMB, "f:", "too many values"),
        ("a: " + "[" * 5000, "f:1", "nested too deeply"),
    ],
)
def test_what_a_job_file_does_not_need_is_refused_with_its_line(text: str, place: str, what: str):
    with pytest.raises(JobFileError) as caught:
        parsed(text)
    assert caught.value.where.startswith(place)
    assert what in caught.value.what
    assert caught.value.remedy


SCALARS = st.one_of(
    st.text(), st.integers(), st.booleans(), st.none(), st.floats(allow_nan=False), st.from_regex(r"[-+.0-9eEx_:]{1,8}")
)


@given(st.dictionaries(st.text(min_size=1), SCALARS))
def test_what_is_dumped_reads_back_with_values_and_types(values: dict[str, Any]):
    text = yaml.dump(values, Dumper=CoreDumper, allow_unicode=True)
    back = parsed(text)
    assert back == values
    assert {key: type(value) for key, value in back.items()} == {key: type(value) for key, value in values.items()}


@given(st.dictionaries(st.from_regex(r"[a-z]{1,5}", fullmatch=True), st.text()))
def test_what_is_dumped_means_the_same_to_a_yaml_1_1_reader(values: dict[str, str]):
    assert yaml.safe_load(yaml.dump(values, Dumper=CoreDumper, allow_unicode=True)) == values
