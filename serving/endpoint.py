"""The truth about an endpoint: one document in the store, replaced whole, its epoch rising with every change.

It says which arms there are, what each serves, how traffic is weighed, which experiment runs, and how all this came
about. Commands change it; the ingress looks at it twice a second. So a change of weights is live within a second,
survives every restart, and needs no deployment. Which arms are ready is not written here: only the cluster knows.

Changes from one machine are made one after another. Between machines that share a remote home the last one wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Literal, Self, TypedDict, Unpack

from pydantic import Field, ValidationError

from cluster.blocks import did_you_mean
from cluster.durable import locked
from cluster.errors import StoreError, UsageError
from cluster.records import Record
from cluster.retrain_spec import RetrainSpec
from cluster.serve_spec import ExperimentSpec, GenerationSpec
from cluster.store import Store
from serving.split import exposure_probabilities

ENDPOINTS = "endpoints"
MOST_CHANGES = 200
What = Literal["serve", "split", "promote", "rollback", "ramp"]
By = Literal["person", "keeper"]


class Arm(Record):
    """One side of the endpoint: what was asked for, what that meant when it was served, and where it runs."""

    release: str
    version: str | None = Field(description="NAME@N, where the release is a version")
    directory: str
    base: str | None = Field(default=None, description="where an adapter's base lies, if not where the adapter says")
    application: str = Field(description="of Ray Serve")
    weight: float
    asked: float | None = Field(default=None, description="the weight of the file that it was last served from")
    shadow: float = Field(default=0.0, description="percent of the other arms' requests that it answers too, unseen")
    generation: GenerationSpec


class Change(Record):
    """What was changed, why, and what was in force before."""

    epoch: int
    time_s: float
    what: What
    by: By = "person"
    why: str = ""
    weights: dict[str, float]
    weights_before: dict[str, float]
    aliases: dict[str, str] = Field(default_factory=dict, description="model → version that became its champion")
    aliases_before: dict[str, str] = Field(default_factory=dict)
    undone: bool = False
    releases: dict[str, str] = Field(default_factory=dict, description="arm → what it serves from this epoch on")


class About(TypedDict, total=False):
    """What else a change says: who made it, and which aliases moved with it."""

    by: By
    aliases: dict[str, str]
    aliases_before: dict[str, str]


class Endpoint(Record):
    """All that an ingress needs to know; `history` is the oldest change first."""

    name: str
    epoch: int = 0
    salt: str = Field(description="deals units to arms and hides them; a secret of this endpoint")
    arms: dict[str, Arm]
    experiment: ExperimentSpec | None = None
    log: Literal["off", "features", "text"] = "features"
    retrain: RetrainSpec = Field(default_factory=RetrainSpec)
    history: list[Change] = Field(default_factory=list[Change])

    @property
    def weights(self) -> dict[str, float]:
        """Every arm's share relative to the others."""
        return {name: arm.weight for name, arm in self.arms.items()}

    @property
    def split_salt(self) -> str:
        """Deals the units of a new experiment anew."""
        return f"{self.salt}/{self.experiment.name if self.experiment else ''}"

    def weighted(
        self,
        weights: Mapping[str, float],
        what: What,
        now_s: float,
        why: str = "",
        **about: Unpack[About],
    ) -> Self:
        """Return the endpoint with these weights (arms not named keep theirs) and one more change in its history.

        Raises UsageError for an arm that is not there, a weight that is none, and weights that leave nobody to answer.
        """
        for arm in weights:
            if arm not in self.arms:
                remedy = f"The arms are {', '.join(self.arms)}{did_you_mean(arm, self.arms)}"
                raise UsageError(f"{self.name} has no arm {arm!r}", remedy)
        merged = self.weights | dict(weights)
        if not any(exposure_probabilities(merged).values()):
            raise UsageError("every arm would have weight 0", "Give at least one arm a weight above 0.")
        arms = {name: arm.model_copy(update={"weight": merged[name]}) for name, arm in self.arms.items()}
        return self.after(arms, what, now_s, why, **about)

    def without(self, undone: Change | None) -> Self:
        """Return the same endpoint with one change of its history marked as taken back."""
        epoch = None if undone is None else undone.epoch
        history = [one.model_copy(update={"undone": one.undone or one.epoch == epoch}) for one in self.history]
        return self.model_copy(update={"history": history})

    def after(
        self,
        arms: Mapping[str, Arm],
        what: What,
        now_s: float,
        why: str = "",
        **about: Unpack[About],
    ) -> Self:
        """Return the endpoint of the next epoch with these arms."""
        change = Change(
            epoch=self.epoch + 1,
            time_s=now_s,
            what=what,
            why=why,
            weights={name: arm.weight for name, arm in arms.items()},
            weights_before=self.weights,
            releases={name: arm.version or arm.directory for name, arm in arms.items()},
            **about,
        )
        history = [*self.history, change][-MOST_CHANGES:]
        return self.model_copy(update={"epoch": self.epoch + 1, "arms": dict(arms), "history": history})


def last_change(endpoint: Endpoint) -> Change:
    """Return the newest change that a rollback would take back. Raises UsageError where there is none."""
    for change in reversed(endpoint.history):
        if change.what in ("split", "promote", "ramp") and not change.undone:
            return change
    raise UsageError(f"{endpoint.name} has no change to take back", "hone split sets weights.")


def promotion_of(endpoint: Endpoint, arm: str) -> Change | None:
    """Return the change that made an arm's version a champion, if that was not taken back since."""
    version = endpoint.arms[arm].version
    for change in reversed(endpoint.history):
        if change.what == "promote" and not change.undone and version in change.aliases.values():
            return change
    return None


def rolled_back(endpoint: Endpoint, now_s: float, why: str = "") -> Endpoint:
    """Return the endpoint with the weights before its last change; arms that came since keep theirs."""
    undone = last_change(endpoint)
    weights = {arm: weight for arm, weight in undone.weights_before.items() if arm in endpoint.arms}
    return endpoint.without(undone).weighted(
        weights,
        "rollback",
        now_s,
        why or f"takes back the {undone.what} of epoch {undone.epoch}",
        aliases=undone.aliases_before,
        aliases_before=undone.aliases,
    )


def names(store: Store) -> list[str]:
    """Return the endpoints that were ever served from this store."""
    return [name.removesuffix(".json") for name in store.list(ENDPOINTS) if name.endswith(".json")]


def read(store: Store, name: str) -> Endpoint:
    """Return an endpoint's document. Raises UsageError where there is none, StoreError where it is damaged."""
    found = find(store, name)
    if found is None:
        known = names(store)
        remedy = f"There are {', '.join(known)}{did_you_mean(name, known)}" if known else "hone serve makes one."
        raise UsageError(f"there is no endpoint {name!r}", remedy)
    return found


def find(store: Store, name: str) -> Endpoint | None:
    """Return an endpoint's document, None where there is none. Raises StoreError where it is damaged."""
    if not store.exists(ENDPOINTS, f"{name}.json"):
        return None
    try:
        return Endpoint.model_validate(store.get_json(ENDPOINTS, f"{name}.json"))
    except ValidationError as error:
        where = store.path(ENDPOINTS, f"{name}.json")
        raise StoreError(f"the endpoint is damaged: {error.errors()[0]['msg']}", "Serve it again.", where) from error


def of_experiment(store: Store, experiment: str) -> Endpoint:
    """Return the endpoint that runs an experiment. Raises UsageError where none does, or more than one."""
    running: list[str] = []
    found: list[Endpoint] = []
    for name in names(store):
        endpoint = read(store, name)
        if endpoint.experiment is not None:
            running.append(endpoint.experiment.name)
            found += [endpoint] if endpoint.experiment.name == experiment else []
    if len(found) == 1:
        return found[0]
    if found:
        both = " and ".join(endpoint.name for endpoint in found)
        raise UsageError(f"{experiment} is an experiment of {both}", "Serve all but one under another experiment.name.")
    known = f"There are {', '.join(running)}{did_you_mean(experiment, running)}" if running else "None was served yet."
    raise UsageError(f"there is no experiment {experiment!r}", known)


def change(store: Store, name: str, edit: Callable[[Endpoint], Endpoint]) -> Endpoint:
    """Replace an endpoint's document by what ``edit`` makes of it, and return that."""
    with _alone(store, name):
        return write(store, edit(read(store, name)))


def write(store: Store, endpoint: Endpoint) -> Endpoint:
    """Write a document whole."""
    store.put_json(endpoint.model_dump(mode="json"), ENDPOINTS, f"{endpoint.name}.json")
    return endpoint


def restore(store: Store, name: str, before: Endpoint | None) -> None:
    """Put a document back as it was ``before`` a change that failed; None: there was none."""
    if before is not None:
        write(store, before)
    elif store.exists(ENDPOINTS, f"{name}.json"):
        store.remove(ENDPOINTS, f"{name}.json")


def _alone(store: Store, name: str) -> AbstractContextManager[None]:
    return locked(Path(store.path(ENDPOINTS, f".{name}.lock"))) if store.is_local else nullcontext()
