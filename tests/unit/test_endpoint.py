"""An endpoint's document: every change is one epoch further, with what was before in its history."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from cluster.errors import StoreError, UsageError
from cluster.store import Store
from serving import endpoint as endpoints
from tests.endpoints import endpoint


def test_a_document_is_read_back_equal(tmp_path: Path):
    store, made = Store(str(tmp_path)), endpoint(a=50, b=50)
    endpoints.write(store, made)
    assert endpoints.read(store, "support") == made
    assert endpoints.names(store) == ["support"]
    assert endpoints.of_experiment(store, "v2") == made


def test_a_change_that_failed_leaves_the_document_as_it_was(tmp_path: Path):
    store, made = Store(str(tmp_path)), endpoint(a=50, b=50)
    endpoints.write(store, made)
    endpoints.restore(store, "support", None)
    assert endpoints.find(store, "support") is None
    endpoints.restore(store, "support", None)
    endpoints.restore(store, "support", made)
    assert endpoints.read(store, "support") == made


def test_an_experiment_of_two_endpoints_is_nobodys(tmp_path: Path):
    store, made = Store(str(tmp_path)), endpoint(a=50, b=50)
    endpoints.write(store, made)
    endpoints.write(store, made.model_copy(update={"name": "staging"}))
    with pytest.raises(UsageError, match="staging and support"):
        endpoints.of_experiment(store, "v2")


def test_weights_change_in_one_epoch_and_those_not_named_stay():
    after = endpoint(a=50, b=50).weighted({"b": 10}, "split", 2.0)
    assert (after.epoch, after.weights) == (2, {"a": 50, "b": 10})
    assert (after.history[-1].weights_before, after.history[-1].what) == ({"a": 50, "b": 50}, "split")


@pytest.mark.parametrize("weights", [{"c": 1.0}, {"a": -1.0}, {"a": 0.0, "b": 0.0}, {"a": float("nan")}])
def test_weights_that_cannot_be_are_refused(weights: dict[str, float]):
    with pytest.raises(UsageError):
        endpoint(a=50, b=50).weighted(weights, "split", 2.0)


def test_rollback_restores_what_was_before_the_last_change_step_by_step():
    now = endpoint(a=90, b=10)
    now = now.weighted({"a": 50, "b": 50}, "split", 2.0)
    now = now.weighted({"a": 0, "b": 100}, "promote", 3.0, aliases={"m": "m@2"}, aliases_before={"m": "m@1"})
    back = endpoints.rolled_back(now, 4.0)
    assert (back.weights, back.epoch) == ({"a": 50, "b": 50}, 4)
    assert back.history[-1].aliases == {"m": "m@1"}
    assert endpoints.rolled_back(back, 5.0).weights == {"a": 90, "b": 10}
    with pytest.raises(UsageError, match="no change"):
        endpoints.rolled_back(endpoints.rolled_back(back, 5.0), 6.0)


def test_an_endpoint_that_is_not_there_is_named_with_those_that_are(tmp_path: Path):
    store = Store(str(tmp_path))
    endpoints.write(store, endpoint(a=1))
    with pytest.raises(UsageError, match="suport") as refused:
        endpoints.read(store, "suport")
    assert "support" in refused.value.remedy
    store.put_json({"name": "support"}, "endpoints", "support.json")
    with pytest.raises(StoreError, match="damaged"):
        endpoints.read(store, "support")


def test_changes_made_at_once_are_all_made(tmp_path: Path):
    store = Store(str(tmp_path))
    endpoints.write(store, endpoint(a=1))

    def add_one() -> None:
        for _ in range(10):
            endpoints.change(store, "support", lambda old: old.weighted({"a": old.weights["a"] + 1}, "split", 2.0))

    threads = [threading.Thread(target=add_one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert endpoints.read(store, "support").weights == {"a": 31}
