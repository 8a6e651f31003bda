"""What `hone loop-demo` deals to whom, and when it says that the loop closed."""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest

from serving.loop_demo import LoopShown, Shares
from trainers.demo_data import docstring_rows, sources
from trainers.duplicates import NearTexts
from trainers.loop_demo import EVERY_NEW, SHARES, _dealt  # pyright: ignore[reportPrivateUsage]
from trainers.minhash import near_duplicate_pairs
from trainers.rows import Row

CLOSED: dict[str, Any] = {
    "before": Shares(old=0.73), "during": Shares(old=0.7, new=0.0), "after": Shares(old=0.71, new=0.65), "drift": 0.64,
    "decision_on_drift": "drift", "drift_reason": "", "terms": ["event"], "child": "loop@2", "champion": "loop@2",
    "experiment": "loop-v2", "decision": "promote", "seconds": 1.0, "told": [],
}  # fmt: skip


def test_every_row_has_one_use_and_so_have_its_near_duplicates(tmp_path: Path) -> None:
    rows = docstring_rows(sources(Path(sysconfig.get_path("stdlib"))))
    new = set(sorted({row.label for row in rows})[::EVERY_NEW])
    pools = _dealt(rows, new, tmp_path)
    assert list(pools) == [name for name, _ in SHARES]
    assert len(new) == 4
    assert not new & {row.label for row in pools["job"]}
    assert {row.label for row in pools["score"]} >= new
    use_of = {row.text: use for use, pool in pools.items() for row in pool}
    assert sum(map(len, pools.values())) == len(rows)
    assert len(use_of) == len({row.text for row in rows}), "no text has two uses"
    texts = list(use_of)
    asked = [Row(({"role": "user", "content": text}, {"role": "assistant", "content": ""}), "") for text in texts]
    near = near_duplicate_pairs(NearTexts(asked), 0.8)
    assert len(near.i) > 0
    for one, other in zip(near.i.tolist(), near.j.tolist(), strict=True):
        assert use_of[texts[one]] == use_of[texts[other]], (texts[one], texts[other])


@pytest.mark.parametrize(
    ("changed", "is_closed"),
    [
        ({}, True),
        ({"champion": None}, False),
        ({"champion": "loop@1"}, False),
        ({"decision_on_drift": "none"}, False),
        ({"terms": []}, False),
        ({"during": Shares(old=0.7, new=0.75)}, False),
        ({"after": Shares(old=0.69, new=0.65)}, False),
        ({"after": Shares(old=0.71, new=0.5)}, False),
        ({"after": Shares(old=0.71)}, False),
    ],
)
def test_the_loop_closed_where_each_part_of_it_did(changed: dict[str, Any], is_closed: bool) -> None:
    assert LoopShown.model_validate(CLOSED | changed).is_closed is is_closed
