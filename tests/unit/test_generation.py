"""A request says what is wrong with it before anything waits for it."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from cluster.errors import GenerationFailed, NotServing, Overloaded, RequestRefused
from serving.generation import Alternative, GenerationRequest, Piece, TokenLogprob


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"max_tokens": 0}, "max_tokens is 0, but must be at least 1"),
        ({"temperature": 2.1}, "temperature is 2.1, but must be 0 to 2"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.01}, "top_p is 1.01, but must be 0 to 1"),
        ({"n": 0}, "n is 0"),
        ({"logprobs": 21}, "logprobs is 21, but must be 0 to 20"),
        ({"logprobs": -1}, "logprobs is -1"),
        ({"stop": ("",)}, "a stop text is empty"),
        ({"stop": ("a",) * 17}, "number of stop texts is 17"),
    ],
)
def test_a_value_outside_its_bounds_is_refused(asked: dict[str, Any], said: str):
    settings: dict[str, Any] = {"max_tokens": 5} | asked
    with pytest.raises(RequestRefused, match=said):
        GenerationRequest("Hi", **settings)


def test_what_crosses_processes_survives_it():
    token = TokenLogprob(4, "a", -0.5, (Alternative(4, "a", -0.5),))
    for value in (GenerationRequest("Hi", max_tokens=5, stop=("a",)), Piece(0, "a", (4,), (token,), "stop", 3, 1)):
        assert pickle.loads(pickle.dumps(value)) == value
    for kind in (RequestRefused, Overloaded, NotServing, GenerationFailed):
        error = pickle.loads(pickle.dumps(kind("what", "remedy", "where")))
        assert (type(error), str(error)) == (kind, "where: what\n  → remedy")
