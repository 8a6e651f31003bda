"""`make docs-test`: every command of the guides, run for real, in order, in a directory of its own.

The directory holds what the guides take for granted, and nothing else: ``models/small``, a Llama of 60,000 parameters
(`tests.tiny`), ``tickets.jsonl`` and ``more-tickets.jsonl``, made by the same file, and ``export.csv``, the same rows
as another program would name them. All guides share one HONE_HOME, so that what one made is there for the next.
Commands of kubectl, docker and clouds are not run: they are read by a shell's rules and the files they name looked for.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cluster.ports import free_port
from tests.guides import GUIDES, Block, Command, blocks, commands, files_of, foreign, guide
from tests.tiny import ticket_rows, write_base, write_jsonl

ROOT = Path(__file__).parent.parent
LONGEST_S = 600
PORT = "8000"
"""What the guides call the port of an endpoint; here it is a free one."""


def write_given(folder: Path) -> None:
    """Write what the guides take for granted."""
    write_base(folder / "models" / "small")
    write_jsonl(folder / "tickets.jsonl", ticket_rows(400))
    write_jsonl(folder / "more-tickets.jsonl", ticket_rows(60, seed=1))
    with (folder / "export.csv").open("w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["question", "department"])
        rows.writerows([row["text"], row["label"]] for row in [*ticket_rows(200, seed=2), *ticket_rows(3, seed=2)])


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a reader who has just installed hone."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("HONE_", "RAY_", "MLFLOW_"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), bare.get("PATH", "")))
    return bare | {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "user"),
        "TORCH_EXTENSIONS_DIR": _built(),
    }


def _built() -> str:
    """Return where DeepSpeed's collective was built, which the reader's set-up did too."""
    default = Path.home() / ".cache" / "torch_extensions"
    return os.environ.get("TORCH_EXTENSIONS_DIR") or str(next(iter(sorted(default.glob("py*"))), default))


def newest_run(folder: Path) -> str:
    runs = [path for path in (folder / ".hone" / "runs").glob("*-*-*") if path.is_dir()]
    return max(runs, key=lambda path: re.findall(r"\d{8}-\d{6}", path.name)[-1:]).name if runs else "RUN"


def run_command(command: Command, folder: Path, env: dict[str, str], port: str) -> str:
    """Run one command; return why it is not as the guide says, nothing where it is."""
    text = re.sub(r"\bRUN\b", newest_run(folder), command.text)
    text = text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{port}")
    if text.startswith("hone serve"):
        text += f" --port {port}"
    return _ended(["bash", "-euo", "pipefail", "-c", text], command.exits, folder, env)


def _ended(arguments: list[str], exits: int, folder: Path, env: dict[str, str]) -> str:
    out = folder / "output"
    with out.open("wb") as both:
        try:
            done = subprocess.run(
                arguments, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=both, stderr=subprocess.STDOUT,
                timeout=LONGEST_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"it ran for more than {LONGEST_S} s"
    said = out.read_text(errors="replace")
    if done.returncode != exits or "Traceback" in said:
        return f"it ended with {done.returncode}, not {exits}:\n{said[-4000:]}"
    return ""


def do(block: Block, folder: Path, env: dict[str, str], port: str) -> list[str]:
    """Do what a block says; return what is not as it says."""
    if block.kind == "file":
        target = folder / block.file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(block.text, encoding="utf-8")
        return []
    if block.kind == "python":
        text = block.text.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{port}")
        wrong = _ended([sys.executable, "-c", text], 0, folder, env)
        return [f"the Python of line {block.line}: {wrong}"] if wrong else []
    found: list[str] = []
    for command in commands(block.text):
        began_s = time.monotonic()
        if block.kind == "validate":
            missing = [file for file in files_of(foreign(command.text)) if not _is_there(file, folder)]
            wrong = f"there is no {missing[0]}" if missing else ""
        else:
            wrong = run_command(command, folder, env, port)
            print(f"  {time.monotonic() - began_s:5.1f} s  {command.text}", flush=True)
        found += [f"{command.text}: {wrong}"] if wrong else []
    return found


def _is_there(file: str, folder: Path) -> bool:
    return (folder / file).exists() or (ROOT / file).exists()


def main() -> int:
    """Run all guides, or those named; exit code 1 where one says what is not so."""
    began_s = time.monotonic()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="hone-guides-") as place:
        folder = Path(place)
        (folder / "user").mkdir()
        write_given(folder)
        env, port = environment(folder), str(free_port())
        try:
            for name in sys.argv[1:] or GUIDES:
                print(f"docs-test: {name}", flush=True)
                for block in blocks(guide(name)):
                    if block.kind != "shown":
                        wrong += [f"docs/{name}.md, line {block.line}: {one}" for one in do(block, folder, env, port)]
        finally:
            for kept in (folder / ".hone" / "clusters").glob("*.json"):  # what a guide that broke off left serving
                run_command(Command(f"hone stop {kept.stem}"), folder, env, port)
    for one in wrong:
        print(one, file=sys.stderr)
    print(f"docs-test: {len(wrong)} wrong, took {time.monotonic() - began_s:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
