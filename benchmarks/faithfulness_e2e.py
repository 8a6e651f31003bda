"""What does `evaluate.faithfulness` make of human sentences? The E2E development set, with and without aliases.

    HONE_REALDATA=… python benchmarks/faithfulness_e2e.py > benchmarks/results/faithfulness_e2e.md

Human references are no gold standard: people left slots out and added others, and other people's corrections of this
set changed many of its inputs. So the shares missing and added are an upper bound of what matching itself gets wrong,
slot by slot. Planted faults have a known answer: in references that lack and add nothing, one value's words are taken
out, or another input's value is put in, and the count has to move by exactly one.
"""

from __future__ import annotations

import csv
import os
import random
import re
import time
from collections import Counter
from pathlib import Path

import numpy as np
from heading import heading

from trainers.faithfulness import Inventory, Slot, slot_counts, slots_of

ALIASES = {
    "familyFriendly": ["child friendly", "kid friendly", "kids friendly", "children friendly"],
    "riverside": ["by the river", "near the river", "river"],
    "city centre": ["city center", "centre of the city", "center of the city"],
    "5 out of 5": ["5 star", "5 of 5"],
    "3 out of 5": ["3 star", "3 of 5"],
    "1 out of 5": ["1 star", "1 of 5"],
}


def main() -> None:
    """Print the report."""
    with (Path(os.environ["HONE_REALDATA"]) / "e2e" / "devset.csv").open(encoding="utf-8") as file:
        rows = [(slots_of(row["mr"]), row["mr"], row["ref"]) for row in csv.DictReader(file)]
    inventory = Inventory.of([({"role": "user", "content": mr},) for _, mr, _ in rows])
    print(heading("Faithfulness on human sentences", "benchmarks/faithfulness_e2e.py", ["numpy"]))
    print(f"{len(rows):,} sentences of the E2E development set, {sum(len(slots) for slots, *_ in rows):,} slots.\n")
    columns = ("", "missing", "added", "faithful", "ms a sentence", "taken out, seen", "put in, seen")
    print(f"| {' | '.join(columns)} |\n|---{'|--:' * (len(columns) - 1)}|")
    for name, aliases in (("no aliases", dict[str, list[str]]()), ("aliases", ALIASES)):
        began_s = time.perf_counter()
        counts = np.array([slot_counts(slots, ref, inventory, aliases) for slots, _, ref in rows])
        took_ms = 1000 * (time.perf_counter() - began_s) / len(rows)
        missing, required, added, stated = counts.sum(axis=0)
        faithful = float(np.mean(counts[:, 0] + counts[:, 2] == 0))
        whole = [(slots, ref) for (slots, _, ref), found in zip(rows, counts, strict=True) if found[0] + found[2] == 0]
        out, into = planted(whole, inventory, aliases)
        shares = f"{missing / required:.3f} | {added / stated:.3f} | {faithful:.3f} | {took_ms:.2f}"
        print(f"| {name} | {shares} | {out} | {into} |")
    print("\nMissing, by slot, with aliases:\n\n| slot | missing | of |\n|---|--:|--:|")
    of, lacking = Counter[str](), Counter[str]()
    for slots, _, ref in rows:
        for slot in slots:
            of[slot[0]] += 1
            lacking[slot[0]] += slot_counts([slot], ref, inventory, ALIASES)[0]
    for slot, number in lacking.most_common():
        print(f"| {slot} | {number / of[slot]:.3f} | {of[slot]:,} |")


def planted(
    whole: list[tuple[list[Slot], str]], inventory: Inventory, aliases: dict[str, list[str]]
) -> tuple[str, str]:
    """Return how many planted omissions and additions move the count by exactly one."""
    rng = random.Random(0)
    taken, seen_out, seen_in = 0, 0, 0
    for slots, ref in whole:
        spoken = [value for name, value in slots if name not in inventory.polar]
        value = rng.choice(spoken)
        without = re.sub(re.escape(value), "it", ref, flags=re.IGNORECASE)
        if without != ref:
            taken += 1
            seen_out += slot_counts(slots, without, inventory, aliases)[0] == 1
        other = rng.choice([one for one in inventory.spoken if one not in spoken])
        seen_in += slot_counts(slots, f"{ref} Also {other}.", inventory, aliases)[2] == 1
    return f"{seen_out:,} of {taken:,}", f"{seen_in:,} of {len(whole):,}"


if __name__ == "__main__":
    main()
