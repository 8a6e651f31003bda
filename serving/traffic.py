"""Who answers how much: weights, promotion and rollback, each one change of the endpoint's document.

Promotion moves the registry's alias and all traffic together, and rollback both back: the alias first, since a
document that cannot be written then puts it back, while traffic that has moved has been seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Unpack

from cluster.errors import UsageError
from cluster.records import Record
from cluster.registry import CHAMPION, Registry
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints
from serving.endpoint import About, By, Endpoint, What
from serving.results import verdict_of_endpoint, verdict_on
from serving.split import exposure_probabilities
from serving.steering import is_steered, move_of

Clock = Callable[[], float]
BY_NAME = "asked for by name"
"""Why an arm is promoted that a person chose."""


class Traffic(Record):
    """What `split`, `promote` and `rollback` print."""

    endpoint: str
    epoch: int
    weights: dict[str, float]
    shares: dict[str, float]
    aliases: dict[str, str]
    why: str

    def lines(self) -> list[str]:
        """Return it for a reader."""
        shown = ", ".join(f"{arm} {share:.1%}" for arm, share in self.shares.items())
        moved = [f"  {model}@{CHAMPION} is {version}" for model, version in self.aliases.items()]
        return [f"{self.endpoint}, epoch {self.epoch}: {shown}", *moved, *([f"  {self.why}"] if self.why else [])]


def split(
    name: str,
    weights: Mapping[str, float],
    settings: Settings,
    clock: Clock = time.time,
    *,
    seen_epoch: int | None = None,
) -> Traffic:
    """Set arms' weights; those not named keep theirs.

    Raises UsageError for arms and weights that cannot be, and where the endpoint is no longer at ``seen_epoch``.
    """

    def edit(old: Endpoint) -> Endpoint:
        return as_seen(old, seen_epoch).weighted(weights, "split", clock())

    return _told(endpoints.change(Store(settings.home), name, edit))


def promote(experiment: str, arm: str | None, settings: Settings, clock: Clock = time.time) -> Traffic:
    """Make an arm's release its model's champion and give it all traffic; without ``arm``, the one the verdict names.

    Raises UsageError where no arm is named and the verdict names none.
    """
    if arm is not None:
        endpoint = endpoints.of_experiment(Store(settings.home), experiment)
        return promoted(endpoint, arm, BY_NAME, settings, clock)
    verdict, endpoint = verdict_on(experiment, settings, clock())
    if verdict.decision != "promote":
        raise UsageError(
            f"the verdict is {verdict.decision}: {verdict.reason}",
            f"Name the arm to promote it anyway: hone promote {experiment} ARM",
        )
    return promoted(endpoint, verdict.arm, verdict.reason, settings, clock)


def promoted(
    endpoint: Endpoint, arm: str, why: str, settings: Settings, clock: Clock = time.time, *, by: By = "person"
) -> Traffic:
    """Give an arm all traffic, and its version its model's alias."""
    if arm not in endpoint.arms:
        raise UsageError(f"{endpoint.name} has no arm {arm!r}", f"The arms are {', '.join(endpoint.arms)}.")
    version = endpoint.arms[arm].version
    aliases = {} if version is None else {version.partition("@")[0]: version}
    weights = {name: 100.0 if name == arm else 0.0 for name in endpoint.arms}
    with _aliased(aliases, settings) as before:
        about = About(by=by, aliases=aliases, aliases_before=before)
        return _told(_weighted(endpoint, weights, "promote", why, settings, clock, **about))


def rollback(name: str, settings: Settings, clock: Clock = time.time, *, seen_epoch: int | None = None) -> Traffic:
    """Restore weights and aliases as they were before the last change.

    Raises UsageError where there is none, and where the endpoint is no longer at ``seen_epoch``.
    """
    store = Store(settings.home)
    seen = as_seen(endpoints.read(store, name), seen_epoch)

    def edit(old: Endpoint) -> Endpoint:
        return endpoints.rolled_back(as_seen(old, seen.epoch), clock())

    with _aliased(endpoints.last_change(seen).aliases_before, settings):
        return _told(endpoints.change(store, name, edit))


def taken_off(endpoint: Endpoint, arm: str, why: str, settings: Settings, clock: Clock = time.time) -> Traffic:
    """Give an arm no more traffic, and its alias back; where nobody else had any traffic, the control gets it."""
    weights = endpoint.weights | {arm: 0.0}
    if endpoint.experiment is not None and not any(weights.values()):
        weights[endpoint.experiment.control] = 100.0
    promotion = endpoints.promotion_of(endpoint, arm)
    aliases = {} if promotion is None else promotion.aliases_before
    with _aliased(aliases, settings) as before:
        about = About(by="keeper", aliases=aliases, aliases_before=before)
        return _told(_weighted(endpoint.without(promotion), weights, "rollback", why, settings, clock, **about))


def steer(name: str, settings: Settings, clock: Clock = time.time) -> Traffic | None:
    """Make the change of traffic that it is time for, if any; see ``serving.steering``."""
    endpoint = endpoints.read(Store(settings.home), name)
    if not is_steered(endpoint) or endpoint.experiment is None:
        return None
    verdict = verdict_of_endpoint(endpoint, settings, clock())
    move = move_of(endpoint, verdict, clock())
    if move is None:
        return None
    if move.kind == "promote":
        return promoted(endpoint, move.arm, move.why, settings, clock, by="keeper")
    if move.kind == "take off":
        return taken_off(endpoint, move.arm, move.why, settings, clock)
    return _told(_weighted(endpoint, dict(move.weights), "ramp", move.why, settings, clock, by="keeper"))


def _weighted(
    seen: Endpoint,
    weights: Mapping[str, float],
    what: What,
    why: str,
    settings: Settings,
    clock: Clock,
    **about: Unpack[About],
) -> Endpoint:
    """Set weights that were decided on the endpoint as it was ``seen``. Raises UsageError where it changed since."""

    def edit(old: Endpoint) -> Endpoint:
        as_seen(old, seen.epoch)
        return seen.weighted(weights, what, clock(), why, **about)

    return endpoints.change(Store(settings.home), seen.name, edit)


def as_seen(endpoint: Endpoint, epoch: int | None) -> Endpoint:
    """Return an endpoint that is still at ``epoch`` (None: any). Raises UsageError where it changed since."""
    if epoch is not None and endpoint.epoch != epoch:
        raise UsageError(
            f"{endpoint.name} was changed meanwhile (it is at epoch {endpoint.epoch}, not {epoch})",
            "Look at it, and try again.",
        )
    return endpoint


@contextmanager
def _aliased(aliases: Mapping[str, str], settings: Settings) -> Generator[dict[str, str]]:
    """Move champions for the block, and back where it fails; yield what they were before."""
    registry = Registry(settings)
    found = {model: registry.champion(model) for model in aliases}
    before = {model: version for model, version in found.items() if version is not None}
    for version in aliases.values():
        registry.set_alias(version, CHAMPION)
    try:
        yield before
    except BaseException:
        for version in before.values():
            registry.set_alias(version, CHAMPION)
        raise


def _told(endpoint: Endpoint) -> Traffic:
    last = endpoint.history[-1]
    return Traffic(
        endpoint=endpoint.name,
        epoch=endpoint.epoch,
        weights=endpoint.weights,
        shares=exposure_probabilities(endpoint.weights),
        aliases=last.aliases,
        why=last.why,
    )
