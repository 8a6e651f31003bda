"""How fast runs like this one trained before, or how fast the job says they do: what the plan's hours come from.

A finished training leaves tokens a second and worker under a key of what decides them: the base, the method, whether
activations are computed again, and the kind of device. The newest one counts. Left out: the length of the rows and the
number of workers, which move the rate by less than the machines do.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Literal

from cluster.resources import Rate

if TYPE_CHECKING:
    from cluster.records import SplitCount, TrainedWeights
    from cluster.spec import JobSpec
    from cluster.store import Store

RATES = "rates"


def known_rate(job: JobSpec, store: Store, device: Literal["cpu", "cuda"]) -> Rate | None:
    """Return the rate that the job states, else the one that was measured last, else None."""
    if job.cluster.tokens_per_s is not None:
        return Rate(job.cluster.tokens_per_s, "stated as cluster.tokens_per_s")
    name = _name(job, device)
    if not store.exists(RATES, name):
        return None
    found = store.get_json(RATES, name)
    return Rate(found["tokens_per_s"], f"measured by {found['run']}")


def keep_rate(job: JobSpec, store: Store, run: str, trained: TrainedWeights, train_split: SplitCount) -> None:
    """Write down how many tokens a second each worker of a finished training did, prompts included."""
    tokens_each = train_split.tokens / train_split.rows
    rate = trained.throughput.examples_per_s * tokens_each / trained.world_size
    device = "cuda" if trained.device.startswith("cuda") else "cpu"
    store.put_json({"tokens_per_s": rate, "run": run}, RATES, _name(job, device))


def _name(job: JobSpec, device: str) -> str:
    train = job.train
    shaping = json.dumps([job.base, train.method, train.gradient_checkpointing, device])
    return f"{hashlib.sha256(shaping.encode()).hexdigest()[:24]}.json"
