"""The console's page: what an endpoint does now and what its experiment says, with the forms that change either.

Everything is rendered here; the page's few lines of script only fetch the live part again. Without script the page
shows the state at which it was loaded, and every form works.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from cluster.curves import Series, curve
from cluster.pages import Cell, Section, Tone, badge, banner, element, joined, page, table, visible
from serving.console_forms import NOTHING, Answer, Tried, form, traffic_forms, try_form
from serving.drift_report import DriftReport
from serving.endpoint import Arm, Change, Endpoint
from serving.looks import Look
from serving.recent import Load
from serving.split import exposure_probabilities
from serving.verdict import Verdict

KIND, WORKING = "Console", "Its verdict is being worked out."
CHANGES_SHOWN = 8
LONG_S = 4 * 3600.0
TONES: dict[str, Tone] = {"promote": "good", "rollback": "error", "continue": "note", "invalid": "error"}
SCRIPT = Markup("""
const live = document.getElementById("live");
const refresh = async () => {
  try {
    const answer = await fetch(`${live.dataset.root}/live`);
    if (answer.status === 401) location.assign(live.dataset.root);
    else if (answer.ok) live.innerHTML = await answer.text();
  } catch { /* the endpoint restarts; the page stays */ }
  setTimeout(refresh, 2000);
};
setTimeout(refresh, 2000);
""")


@dataclass(frozen=True)
class State:
    """What the live part shows: the document, the arms that are ready, their load, and looks at the experiment."""

    endpoint: Endpoint
    ready: frozenset[str]
    loads: Mapping[str, Load]
    looks: Sequence[Look]
    trouble: str = ""
    drift: DriftReport | None = None


def console_page(
    root: str,
    state: State,
    *,
    tried: Tried = NOTHING,
    answers: Sequence[Answer] = (),
    said: str = "",
    trouble: str = "",
) -> str:
    """Return the page; ``root`` is the path of the console, ``said`` and ``trouble`` stand above everything."""
    told = [banner("good", said)] if said else []
    told += [banner("error", trouble)] if trouble else []
    live = Markup('<div id="live" data-root="{}">{}</div>').format(root, live_part(state))
    sections = [
        Section("Now", live),
        Section("Traffic", traffic_forms(root, state.endpoint), "A change is live within a second."),
        Section("Try", try_form(root, tried, answers), "Every arm answers; no experiment counts it."),
        Section("Changes", _changes(state.endpoint.history)),
    ]
    leave = form(f"{root}/close", Markup("<button>Close the session</button>"))
    return page(state.endpoint.name, KIND, joined(told), sections, leave, SCRIPT)


def closed_page(endpoint: str, root: str, trouble: str = "") -> str:
    """Return the page that asks for the administrator's key."""
    fields = Markup(
        '<label>Administrator\'s key <input type="password" name="key" required autofocus '
        'autocomplete="current-password"></label><button>Open</button>'
    )
    head = banner("error", trouble) if trouble else Markup("")
    return page(endpoint, KIND, head, [Section("Open", form(f"{root}/open", fields))])


def live_part(state: State) -> Markup:
    """Return what is fetched again and again."""
    told = [banner("warning", state.trouble)] if state.trouble else []
    return joined([*told, _arms(state), _drift(state.drift), *_experiment(state)])


def _arms(state: State) -> Markup:
    shares = exposure_probabilities(state.endpoint.weights, state.ready)
    timed = ["running", "requests/s", "failed", "no room", "p50 s", "p95 s", "first token s", "tokens/s"]
    head = ["arm", "release", "users", "", *timed]
    rows = [_arm_row(name, arm, shares[name], state) for name, arm in state.endpoint.arms.items()]
    span_s = max(load.span_s for load in state.loads.values())
    when = element("p", f"Epoch {state.endpoint.epoch}; rates and times are of the last {span_s:.0f} s.", "soft")
    return table(head, rows, numeric=range(4, len(head))) + when


def _arm_row(name: str, arm: Arm, share: float, state: State) -> list[Cell]:
    load = state.loads[name]
    is_ready = name in state.ready
    return [
        element("b", name),
        element("code", arm.version or arm.release),
        f"{share:.1%}" + (f", shadows {arm.shadow:g} %" if arm.shadow else ""),
        badge("good" if is_ready else "error", "ready" if is_ready else "not ready"),
        str(load.running),
        f"{load.requests_per_s:.2f}",
        str(load.failed),
        str(load.overloaded),
        *(_seconds(found) for found in (load.p50_s, load.p95_s, load.first_token_p50_s)),
        f"{load.tokens_per_s:.1f}",
    ]


def _drift(found: DriftReport | None) -> Markup:
    """Return one line on the last look at drift; nothing where nobody has looked yet."""
    if found is None:
        return Markup("")
    tones: dict[str, Tone] = {"drift": "error", "none": "good", "undecided": "note"}
    terms = ", ".join(term.term for term in found.terms[:5] if term.direction == "live")
    more = f"; live prompts have more of: {terms}" if found.flagged and terms else ""
    measure = "" if found.drift is None else f" (AUC {found.drift:.3f})"
    said = f" {found.reason}{measure}{more}; {_clock(found.at_s)} UTC."
    words = {"drift": "drift", "none": "no drift found", "undecided": "drift undecided"}
    return element("p", badge(tones[found.decision], words[found.decision]) + visible(said))


def _seconds(found: float | None) -> str:
    return "" if found is None else f"{found:.3f}"


def _experiment(state: State) -> list[Markup]:
    experiment = state.endpoint.experiment
    if experiment is None:
        return [element("p", "No experiment runs.", "soft")]
    title = element("h3", f"Experiment {experiment.name}")
    if not state.looks:
        return [title, element("p", "No verdict is known yet." if state.trouble else WORKING, "soft")]
    verdict = state.looks[-1].verdict
    ratio = "Units are split as recorded" if verdict.srm.ok else "Units are NOT split as recorded"
    as_of = _clock(state.looks[-1].at_s)
    facts = f"{ratio} (evidence {verdict.srm.evidence:.3g}); {verdict.waiting} units wait; as of {as_of} UTC."
    return [
        title,
        banner(TONES[verdict.decision], verdict.decision, verdict.reason),
        _means(verdict),
        element("p", facts, "soft"),
        _interval_over_time(state.looks),
        _bounds(verdict),
    ]


def _means(verdict: Verdict) -> Markup:
    rows: list[list[Cell]] = []
    for arm, summary in verdict.arms.items():
        span = summary.interval
        effect = verdict.effects[arm].effect if arm in verdict.effects else None
        rows.append(
            [
                element("b", arm),
                str(summary.units),
                "" if summary.mean is None else f"{summary.mean:.4f}",
                "" if span is None else f"{span.low:.4f} to {span.high:.4f}",
                "" if effect is None or effect.estimate is None or effect.low is None or effect.high is None
                else f"{effect.estimate:+.4f} ({effect.low:+.4f} to {effect.high:+.4f})",
            ]
        )  # fmt: skip
    return table(["arm", "units", "mean", "95 % at every look", "against the control"], rows, numeric=(1, 2, 3, 4))


def _interval_over_time(looks: Sequence[Look]) -> Markup:
    """Return the leading challenger's effect and its interval since the first request; nothing where it has none."""
    last = looks[-1]
    if last.verdict.effect.estimate is None:
        return element("p", "There is no interval now.", "soft")
    unit, seconds = ("minute", 60.0) if last.since_s < LONG_S else ("hour", 3600.0)
    parts: dict[str, list[tuple[float, float]]] = {"estimate": [], "low": [], "high": []}
    for look in looks:
        effect = look.verdict.effects[last.verdict.arm].effect
        for name, found in parts.items():
            value: float | None = getattr(effect, name)
            if value is not None:
                found.append((look.since_s / seconds, value))
    points = parts["estimate"]
    series = [
        Series("no effect", [(points[0][0], 0.0), (points[-1][0], 0.0)], "faint"),
        Series("estimate", points, has_dots=True),
        Series("lower end", parts["low"], "second"),
        Series("upper end", parts["high"], "second"),
    ]
    return curve(f"Effect of {last.verdict.arm}", "against the control,", series, is_linear=True, by=unit)


def _bounds(verdict: Verdict) -> Markup:
    rows = [
        [element("b", arm), name, "" if bound.rate is None else f"{bound.rate:.2%} of {bound.requests}",
         f"{bound.bound:.2%}", badge("good" if bound.ok else "error", "holds" if bound.ok else "broken")]
        for arm, bounds in verdict.guardrails.items()
        for name, bound in bounds.items()
    ]  # fmt: skip
    return table(["arm", "guardrail", "seen", "at most", ""], rows, numeric=(2, 3)) if rows else Markup("")


def _changes(history: Sequence[Change]) -> Markup:
    rows = [
        [
            _clock(change.time_s),
            str(change.epoch),
            change.what + (" (taken back)" if change.undone else ""),
            change.by,
            ", ".join(f"{arm} {weight:g}" for arm, weight in change.weights.items()),
            change.why,
        ]
        for change in reversed(history[-CHANGES_SHOWN:])
    ]
    return table(["when (UTC)", "epoch", "what", "by", "weights", "why"], rows)


def _clock(at_s: float) -> str:
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}"
