"""Does the verdict lie, however often it is looked at, and what does that cost? Prints a markdown report.

    python benchmarks/ab_validity.py > benchmarks/results/ab_validity.md

Monte Carlo on the product's decision code (ab_experiments.py says how): false positives without an effect, under ramps,
drift, returning users and three arms; power against the test that may be looked at once; the sample-ratio check and the
bounds. Exits with 1 if a rate of false positives exceeds 5 %, or a check that is exact its budget by three standard
errors.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from math import ceil, log
from statistics import median

import numpy as np
from ab_experiments import (
    DESIGN,
    LOOKS,
    Course,
    Floats,
    Ints,
    binary_course,
    course_of,
    drifting,
    first_decision,
    looks_at,
    returning_course,
    shares_of,
)
from heading import heading

from serving.contrast import Contrast, contrast_path
from serving.guardrails import log_evidence
from serving.sample_ratio import Ratio, ratio_after

NUM_UNITS = 8000
NUM_USERS = 1500
RATES = (0.02, 0.1, 0.3, 0.5, 0.7)
EFFECTS = ((0.50, 0.55), (0.30, 0.36), (0.10, 0.13), (0.02, 0.03))
FEW = ((0.9, 0.0), (0.9, 0.3), (0.0, 0.3))
TRIPLE = replace(DESIGN, arms=("control", "b", "c"))


class Report:
    """Printed lines, and the false-positive rates that must stay below a bound."""

    def __init__(self) -> None:
        self.broken: list[str] = []
        self.highest = 0.0

    def rate(self, case: str, found: int, num: int, bound: float = 0.05) -> str:
        """Return found/num in percent; remember whether it is above 5 %, or clearly above an exact check's bound."""
        slack = 0.0 if bound == 0.05 else 3 * (bound * (1 - bound) / num) ** 0.5
        if found / num > bound + slack:
            self.broken.append(f"{case}: {found / num:.2%}")
        if bound == 0.05:
            self.highest = max(self.highest, found / num)
        return f"{100 * found / num:.2f} %"


def is_wrong(course: Course) -> bool:
    return course.decision in ("promote", "rollback")


def false_positives(report: Report, num: int) -> None:
    print(f"\n## False positives, binary outcome, {NUM_UNITS:,} units, {LOOKS} looks, α = 0.05\n")
    print("But in the first column, the base rate rises from 30 % below to 30 % above itself during the experiment.\n")
    cases = [("50 %", 0.0), *((ramp, 0.3) for ramp in ("50 %", "1→50 %", "10→50 %", "1→10→50 %"))]
    print("| base rate | 50 %, no drift | " + " | ".join(ramp for ramp, _ in cases[1:]) + " |")
    print("|---|" + "---:|" * len(cases))
    naive: list[list[str]] = []
    for place, rate in enumerate(RATES):
        cells, naive_cells = [], []
        for ramp, drift in cases:
            generator = np.random.default_rng([place, int(10 * drift), cases.index((ramp, drift))])
            rate_N, share_N = drifting(rate, NUM_UNITS, drift), shares_of(ramp, NUM_UNITS)
            courses = [binary_course(generator, rate_N, share_N) for _ in range(num)]
            cells.append(report.rate(f"{rate} {ramp}", sum(map(is_wrong, courses)), num))
            naive_cells.append(f"{100 * sum(course.naive for course in courses) / num:.0f} %")
        print(f"| {rate} | " + " | ".join(cells) + " |", flush=True)
        naive.append(naive_cells)
    print("\nThe same data with a z-test of the arms' shares, repeated at every look:\n")
    print("| base rate | 50 %, no drift | " + " | ".join(ramp for ramp, _ in cases[1:]) + " |")
    print("|---|" + "---:|" * len(cases))
    for rate, cells in zip(RATES, naive, strict=True):
        print(f"| {rate} | " + " | ".join(cells) + " |")


def other_false_positives(report: Report, num: int) -> None:
    print("\n## False positives, other experiments\n")
    print(
        "Returning users: heavy-tailed numbers of requests, heavier for users who succeed more; outcomes within a "
        "horizon of a fifth of the experiment, three in ten missing and counted as 0; the ramps move users between "
        "arms. The naive test counts requests in the arm that answered.\n"
    )
    print("| case | hone | naive |\n|---|---:|---:|")
    for ramp in ("50 %", "1→50 %", "10→50 %", "10→50→10 %"):
        generator = np.random.default_rng([1, len(ramp)])
        courses = [returning_course(generator, ramp, NUM_USERS, 0.3, f"{ramp}-{n}") for n in range(num)]
        rate = report.rate(f"returning {ramp}", sum(map(is_wrong, courses)), num)
        print(
            f"| {NUM_USERS:,} returning users, {ramp} | {rate} | {sum(c.naive for c in courses) / num:.0%} |",
            flush=True,
        )
    for name in ("stars 1 to 5", "log-normal, σ = 1"):
        for ramp in ("50 %", "1→50 %"):
            generator = np.random.default_rng([2, len(name), len(ramp)])
            wrong = sum(is_wrong(graded_course(generator, name, ramp)) for _ in range(num))
            print(f"| {name}, {ramp}, drifting | {report.rate(f'{name} {ramp}', wrong, num)} | |", flush=True)
    generator = np.random.default_rng(3)
    wrong = sum(triple_is_wrong(generator) for _ in range(num))
    print(f"| three arms, 80/10/10 → 34/33/33 %, either challenger | {report.rate('three arms', wrong, num)} | |")


def graded_course(generator: np.random.Generator, name: str, ramp: str) -> Course:
    share_N = shares_of(ramp, NUM_UNITS)
    level_N = np.linspace(0.7, 1.3, NUM_UNITS)
    if name.startswith("stars"):
        value_N = 1 + generator.binomial(4, 0.5 * level_N).astype(np.float64)
    else:
        value_N = level_N * generator.lognormal(sigma=1.0, size=NUM_UNITS)
    return course_of(value_N, generator.random(NUM_UNITS) < share_N, share_N)


def triple_is_wrong(generator: np.random.Generator) -> bool:
    share_NA = np.repeat([[0.8, 0.1, 0.1], [0.34, 0.33, 0.33]], NUM_UNITS // 2, axis=0)
    arm_N = (generator.random(NUM_UNITS)[:, None] > np.cumsum(share_NA, axis=1)).sum(axis=1)
    value_N = (generator.random(NUM_UNITS) < drifting(0.3, NUM_UNITS, 0.3)).astype(np.float64)
    paths, looks = {}, looks_at(NUM_UNITS)
    for place, arm in enumerate(TRIPLE.challengers, start=1):
        in_pair_N = (arm_N == 0) | (arm_N == place)
        share_N = share_NA[in_pair_N][:, place] / share_NA[in_pair_N][:, [0, place]].sum(axis=1)
        pair_path_NC = contrast_path(value_N[in_pair_N], arm_N[in_pair_N] == place, share_N, Contrast())
        # A look at n units of all arms is one at so many units of the pair.
        paths[arm] = pair_path_NC[np.maximum(np.cumsum(in_pair_N)[looks - 1], 1) - 1]
    decision, _ = first_decision(paths, np.arange(1, LOOKS + 1), TRIPLE)
    return decision != "continue"


def fixed_units(a: float, b: float) -> int:
    """Return the units, both arms together, at which a two-sided z-test at 0.05 has a power of 80 %."""
    return 2 * ceil((1.959964 + 0.841621) ** 2 * (a * (1 - a) + b * (1 - b)) / (b - a) ** 2)


def power(num: int) -> None:
    print("\n## Power at 50 %, a look every fixed number / 15 units\n")
    print(
        "Fixed: the units at which a z-test that is looked at once has a power of 80 %. Ours stops at its first "
        "decision; four times as many units were drawn.\n"
    )
    print(
        "| rates | fixed | z-test's power at fixed | ours at fixed | at twice fixed | median units to promotion "
        "| over fixed | wrong side |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for a, b in EFFECTS:
        fixed = fixed_units(a, b)
        generator = np.random.default_rng([4, fixed])
        rate_N, share_N = np.full(4 * fixed, a), np.full(4 * fixed, 0.5)
        courses = [binary_course(generator, rate_N, share_N, b - a) for _ in range(num)]
        units = [c.units if c.decision == "promote" else 10**9 for c in courses]
        shares = [sum(u <= 1.001 * times * fixed for u in units) / num for times in (1, 2)]
        middle, once = median(units), sum(c.once for c in courses) / num
        wrong = sum(c.decision == "rollback" for c in courses) / num
        print(
            f"| {a} → {b} | {fixed:,} | {once:.0%} | {shares[0]:.0%} | {shares[1]:.0%} | {middle:,.0f} "
            f"| {middle / fixed:.2f} | {wrong:.2%} |",
            flush=True,
        )
    print("\nFew units: a look at every unit, 50 %, 400 units.\n")
    print("| rates | decided rightly | median units | most units |\n|---|---:|---:|---:|")
    for a, b in FEW:
        generator = np.random.default_rng([5, int(10 * a), int(10 * b)])
        courses: list[Course] = []
        for _ in range(max(1, num // 10)):
            arm_N = generator.random(400) < 0.5
            value_N = (generator.random(400) < np.where(arm_N, b, a)).astype(np.float64)
            courses.append(course_of(value_N, arm_N, np.full(400, 0.5), np.arange(1, 401)))
        right = [c.units for c in courses if c.decision == ("promote" if b > a else "rollback")]
        print(f"| {a} → {b} | {len(right) / len(courses):.1%} | {median(right):.0f} | {max(right)} |", flush=True)


def sample_ratio(report: Report, num: int) -> None:
    print("\n## Sample ratio: 20,000 units, looked at after every one, error budget 0.01\n")
    print(
        "Faults lose a share of the candidate's units before they are recorded. Four times as many experiments as "
        "elsewhere without a fault (standard error of 1 %: "
        f"{100 * (0.01 * 0.99 / (4 * num)) ** 0.5:.2f} %), a quarter as many with one.\n"
    )
    print("| ramp | lost | found | median units until found |\n|---|---:|---:|---:|")
    for ramp in ("50 %", "1→50 %", "10→50→10 %"):
        for lost in (0.0, 0.02, 0.05, 0.1, 0.3):
            generator = np.random.default_rng([6, len(ramp), int(100 * lost)])
            found: list[int] = []
            experiments = 4 * num if lost == 0 else ceil(num / 4)
            for _ in range(experiments):
                share_N = shares_of(ramp, 20_000)
                arm_N = generator.random(20_000) < share_N
                kept_N = ~(arm_N & (generator.random(20_000) < lost))
                share_N, arm_N = share_N[kept_N], arm_N[kept_N].astype(np.intp)
                found.extend(units_until_found(np.stack([1 - share_N, share_N], axis=1), arm_N))
            share = len(found) / experiments
            if lost == 0:
                report.rate(f"sample ratio {ramp}", len(found), experiments, bound=0.01)
            middle = f"{median(found):,.0f}" if found and lost else ""
            print(f"| {ramp} | {lost:.0%} | {share:.2%} | {middle} |", flush=True)


def units_until_found(probability_NA: Floats, arm_N: Ints) -> list[int]:
    """Return after how many units, in steps of 100, the check was no longer fine; empty if it always was."""
    if ratio_after(Ratio((0.0, 0.0), (0.0, 0.0)), arm_N, probability_NA).is_fine(0.01):
        return []
    check = Ratio((0.0, 0.0), (0.0, 0.0))
    for start in range(0, len(arm_N), 100):
        check = ratio_after(check, arm_N[start : start + 100], probability_NA[start : start + 100])
        if not check.is_fine(0.01):
            return [min(start + 100, len(arm_N))]
    return []


def bounds(report: Report, num: int) -> None:
    print("\n## Bounds on error rates: 5,000 requests, looked at after every 25, error budget 0.0125 (four bounds)\n")
    print("| bound | true rate | found | median requests until found |\n|---|---:|---:|---:|")
    for bound in (0.01, 0.05):
        for times in (1.0, 1.5, 2.0, 5.0):
            generator = np.random.default_rng([7, int(1000 * bound), int(10 * times)])
            found: list[int] = []
            for _ in range(num):
                bad = np.cumsum(generator.random(5000) < bound * times)[24::25].tolist()
                looks = ((n, log_evidence(k, n, bound)) for n, k in zip(range(25, 5001, 25), bad, strict=True))
                found.extend([next((n for n, evidence in looks if evidence >= -log(0.0125)), 0)])
            hits = [n for n in found if n]
            if times == 1:
                report.rate(f"bound {bound}", len(hits), num, bound=0.0125)
            middle = f"{median(hits):,.0f}" if hits and times > 1 else ""
            print(f"| {bound} | {bound * times:g} | {len(hits) / num:.2%} | {middle} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Validity and power of the verdict.")
    parser.add_argument("--experiments", type=int, default=2000, help="experiments per case")
    num = parser.parse_args().experiments
    report = Report()
    command = "benchmarks/ab_validity.py" + (f" --experiments {num}" if num != 2000 else "")
    print(heading("Validity of the verdict", command, ["numpy"]))
    print(
        f"{num:,} experiments per case; a rate of 5 % has a standard error of {100 * (0.05 * 0.95 / num) ** 0.5:.1f} %."
    )
    false_positives(report, num)
    other_false_positives(report, num)
    power(num)
    sample_ratio(report, num)
    bounds(report, num)
    print(
        f"\nThe highest rate of false positives is {report.highest:.2%}. Took {time.process_time():.0f} s "
        f"of one processor."
    )
    if report.broken:
        print("Above their bound: " + "; ".join(report.broken))
        sys.exit(1)


if __name__ == "__main__":
    main()
