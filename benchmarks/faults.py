"""How long does a run stand still after each fault, and does it end as it should? Prints a markdown table.

    python benchmarks/faults.py

Runs tests/faults: each test breaks something, waits for the run's end, and compares its final weights or its error. A
run stands still from the fault, or from the command that resumes it, until it has gone on from its newest checkpoint.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from heading import heading


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory) / "faults.xml"
        tests = Path(__file__).parents[1] / "tests" / "faults"
        options = ["-q", str(tests), f"--junitxml={record}", "-o", "junit_family=xunit1"]  # which keeps properties
        done = subprocess.run([sys.executable, "-m", "pytest", *options], check=False)
        cases = list(ElementTree.parse(record).getroot().iter("testcase"))
    print(heading("Faults", "benchmarks/faults.py", ("ray", "torch", "deepspeed")))
    print("A model of 50 thousand parameters on 2 workers; what is measured is finding out, and starting again.\n")
    print("| what holds | stood still, s | whole test, s |")
    print("|---|---:|---:|")
    for case in cases:
        properties = {one.get("name"): one.get("value") for one in case.iter("property")}
        name = str(case.get("name")).removeprefix("test_").replace("_", " ")
        failed = " (**failed**)" if case.find("failure") is not None or case.find("error") is not None else ""
        print(f"| {name}{failed} | {properties.get('recovery_s', '')} | {float(case.get('time', 0)):.0f} |")
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
