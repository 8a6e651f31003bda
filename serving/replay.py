"""Rows as users: each asks once over real HTTP, and feeds back whether the answer was right.

For demonstrations, load and acceptance: the same door that a stranger's client uses, nothing else. An answer is right
when it equals one of the row's references after white space is folded. Users come as fast as ``concurrency`` of them
are answered; one who is turned away for a moment (429, 503) comes again. Users may also say nothing, or say what would
have been right and let it be learned from.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import httpx
from pydantic import Field

from cluster.errors import RunFailed
from cluster.records import Interval, Record
from serving.generation import Message

TRIES = 20
WAIT_S = 0.5
TIMEOUT_S = 120.0
Feedback = Literal["value", "correction", "none"]


@dataclass(frozen=True)
class User:
    """One row: what is asked, and what would be right."""

    messages: Sequence[Message]
    references: Sequence[str]


class Replayed(Record):
    """What became of the rows."""

    users: int
    failed: int
    seconds: float
    right: dict[str, int] = Field(description="arm → right answers")
    answered: dict[str, int] = Field(description="arm → answers")
    latency_s: Interval | None = Field(description="median, with the 5th and 95th of a hundred")

    def lines(self) -> list[str]:
        """Return it for a reader."""
        shares = [
            f"  {arm:<12} {self.right.get(arm, 0)} of {count} right ({self.right.get(arm, 0) / count:.1%})"
            for arm, count in sorted(self.answered.items())
        ]
        return [f"{self.users} users in {self.seconds:.1f} s, {self.failed} without an answer", *shares]


def replay(
    url: str,
    users: Sequence[User],
    *,
    max_tokens: int = 32,
    concurrency: int = 8,
    key: str | None = None,
    prefix: str = "replay",
    feedback: Feedback = "value",
) -> Replayed:
    """Let every row ask at ``url`` (without /v1) and report the outcome; ``prefix`` names a fresh set of users.

    ``feedback`` is what they say: whether the answer was right, also what would have been (with consent), or nothing.
    Raises RunFailed where the endpoint does not answer at all, or takes no feedback.
    """
    asked = {"max_tokens": max_tokens, "temperature": 0} | ({"consent": True} if feedback == "correction" else {})
    return asyncio.run(_all(url, users, asked, concurrency, key, prefix, feedback))


def is_right(answer: str, references: Sequence[str]) -> bool:
    """Return whether an answer is one of the references."""
    return " ".join(answer.split()) in {" ".join(text.split()) for text in references}


async def _all(
    url: str,
    users: Sequence[User],
    settings: Mapping[str, Any],
    concurrency: int,
    key: str | None,
    prefix: str,
    feedback: Feedback,
) -> Replayed:
    places = asyncio.Semaphore(concurrency)
    right: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    latencies: list[float] = []
    headers = {"authorization": f"Bearer {key}"} if key else {}
    began_s = time.monotonic()
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT_S) as client:

        async def come(number: int, user: User) -> None:
            async with places:
                asked_s = time.monotonic()
                body = dict(settings) | {"messages": list(user.messages), "user": f"{prefix}-{number}"}
                answer = await _posted(client, "/v1/chat/completions", body)
                if answer is None:
                    return
                latencies.append(time.monotonic() - asked_s)
                arm = str(answer["hone"]["arm"])
                is_good = is_right(answer["choices"][0]["message"]["content"], user.references)
                answered[arm] += 1
                right[arm] += is_good
                if feedback == "none":
                    return
                said: dict[str, Any] = {"request_id": answer["id"], "value": float(is_good), "source": "replay"}
                if feedback == "correction" and not is_good:
                    said["correction"] = user.references[0]
                if await _posted(client, "/v1/feedback", said) is None:
                    raise RunFailed("the endpoint took no feedback", "See its log.")

        async with asyncio.TaskGroup() as tasks:
            for number, user in enumerate(users):
                tasks.create_task(come(number, user))
    if users and not answered:
        raise RunFailed(f"nobody was answered at {url}", "Check that the endpoint runs, and its keys.")
    return Replayed(
        users=len(users),
        failed=len(users) - answered.total(),
        seconds=time.monotonic() - began_s,
        right=dict(right),
        answered=dict(answered),
        latency_s=_spread(latencies),
    )


async def _posted(client: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a request's answer; None where there is none after several tries."""
    for _ in range(TRIES):
        try:
            answer = await client.post(path, json=body)
        except httpx.TransportError:
            await asyncio.sleep(WAIT_S)
            continue
        if answer.status_code == 200:
            return answer.json()
        if answer.status_code not in (429, 503):
            return None
        await asyncio.sleep(float(answer.headers.get("retry-after", WAIT_S)))
    return None


def _spread(latencies: Sequence[float]) -> Interval | None:
    if not latencies:
        return None
    ordered = sorted(latencies)

    def at(share: float) -> float:
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    return Interval(value=at(0.5), low=at(0.05), high=at(0.95))
