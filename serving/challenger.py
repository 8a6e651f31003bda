"""A child that was accepted → the challenger of a running endpoint, in an experiment of its own.

Never straight to champion: the arm that has the traffic stays and becomes the experiment's control, the child gets
the configured share, and only a verdict, or a person, gives it more. Arms that have no traffic and shadow nobody are
drained to make room. Rules of the experiment are those of the endpoint's last one; its name is new, as its rows are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.errors import UsageError
from cluster.serve_spec import ArmSpec, ExperimentSpec, ServeSpec
from cluster.store import Store
from serving import endpoint as endpoints
from serving.keeper import changed, find_kept
from serving.parent import main_arm
from serving.traffic import split

if TYPE_CHECKING:
    from cluster.progress import Progress
    from cluster.session import Settings
    from serving.endpoint import Endpoint

WHOLE = 100.0


def refuse_undecided(endpoint: Endpoint) -> None:
    """Raise UsageError while several arms have traffic: a child has one parent, and would end their experiment."""
    answering = [name for name, weight in endpoint.weights.items() if weight > 0]
    if len(answering) > 1:
        running = f"; the experiment {endpoint.experiment.name} runs" if endpoint.experiment else ""
        raise UsageError(
            f"{endpoint.name} shares its traffic between {' and '.join(answering)}{running}",
            "Give one arm all of it first: hone promote EXPERIMENT, hone rollback, or hone split.",
        )


def refuse_absent(endpoint: str, store: Store) -> None:
    """Raise UsageError where the endpoint does not run here: there is nothing to challenge."""
    if find_kept(store, endpoint) is None:
        raise UsageError(
            f"{endpoint} does not run here, so nobody could challenge it", "hone serve it, or look with --dry-run."
        )


def challenge(name: str, version: str, settings: Settings, progress: Progress) -> tuple[str, str]:
    """Bring a version up as challenger of a running endpoint; return experiment and arm. Again changes nothing.

    Raises UsageError where the endpoint does not run here or another experiment runs, RunFailed where the arm does not
    become ready.
    """
    endpoint = endpoints.read(Store(settings.home), name)
    spec, arm = challenged(endpoint, version)
    assert spec.experiment is not None, "a challenger comes with an experiment"
    if endpoint.experiment is not None and endpoint.experiment.name == spec.experiment.name:
        return spec.experiment.name, arm
    refuse_undecided(endpoint)
    changed(spec, settings, progress)
    weights = {one: asked.weight for one, asked in spec.arms.items()}
    if endpoints.read(Store(settings.home), name).weights != weights:  # an arm keeps its live weight where it can
        split(name, weights, settings)
    return spec.experiment.name, arm


def challenged(endpoint: Endpoint, version: str) -> tuple[ServeSpec, str]:
    """Return the endpoint with ``version`` (NAME@N) as challenger of its main arm, and the challenger's arm."""
    model, _, number = version.partition("@")
    control, arm = main_arm(endpoint), f"v{number}"
    if arm == control:
        arm = f"child-{arm}"
    share = endpoint.retrain.weight
    arms = {
        one: ArmSpec(
            release=old.version or old.release,
            weight=WHOLE - share if one == control else 0.0,
            shadow=old.shadow,
            generation=old.generation,
        )
        for one, old in endpoint.arms.items()
        if one == control or (old.shadow > 0 and one != arm)
    }
    arms[arm] = ArmSpec(release=version, weight=share, generation=endpoint.arms[control].generation)
    experiment = _experiment(endpoint, f"{model[:50]}-v{number}", control)
    spec = ServeSpec(
        endpoint=endpoint.name, arms=arms, experiment=experiment, log=endpoint.log, retrain=endpoint.retrain
    )
    return spec, arm


def _experiment(endpoint: Endpoint, name: str, control: str) -> ExperimentSpec:
    last = endpoint.experiment or ExperimentSpec(name=name, control=control)
    asked = {"horizon_h": endpoint.retrain.horizon_h, "promote": endpoint.retrain.promote}
    given = {key: value for key, value in asked.items() if value is not None}
    return last.model_copy(update={"name": name, "control": control, **given})
