"""How many tokens a second does an endpoint write over HTTP, beside `transformers serve`? Prints a markdown table.

    HONE_REALDATA=… python benchmarks/endpoint_throughput.py [--repeats 5]

6 layers × 256 with GPT-2's vocabulary (random weights), fp32, each server started by its own command and left running;
repeats are interleaved, and no two are asked at once. One client alone, then 16 together: completions of 64 tokens,
greedy, prompts of E2E. Only tokens that a server says it wrote count, so one that ends an answer early gains nothing.
A server that does not start or answer is left out, with its reason.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
from heading import heading, spread
from train_throughput import REALDATA, small_model

from cluster.ports import free_port
from trainers.quiet import quiet_libraries

BIN = Path(sys.executable).parent
CLIENTS, TOKENS, ALONE = 16, 64, 4
START_S = 180.0


@dataclass(frozen=True)
class Server:
    """One that answers at an address, under a model's name."""

    name: str
    url: str
    model: str


@contextmanager
def ours(folder: Path, home: Path) -> Generator[Server]:
    """Serve the model with `hone serve` for the block."""
    port = free_port()
    environment = os.environ | {"HONE_HOME": str(home)}
    command = [BIN / "hone", "serve", f"base:{folder}", "--endpoint", "bench", "--port", str(port), "--detach"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    try:
        yield Server("hone serve", f"http://127.0.0.1:{port}", "bench")
    finally:
        subprocess.run([BIN / "hone", "stop", "bench"], check=True, env=environment)


@contextmanager
def theirs(folder: Path, *options: str) -> Generator[Server]:
    """Serve the model with `transformers serve` for the block."""
    port = free_port()
    shape = ["--device", "cpu", "--dtype", "float32", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [BIN / "transformers", "serve", str(folder), *shape, *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield Server(" ".join(["transformers serve", *options]), f"http://127.0.0.1:{port}", str(folder))
    finally:
        process.terminate()
        process.wait()


def written(server: Server, prompt: str) -> int:
    """Return how many tokens a server wrote for a prompt."""
    body = {"model": server.model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
    answer = httpx.post(f"{server.url}/v1/completions", json=body, timeout=300)
    answer.raise_for_status()
    return int(answer.json()["usage"]["completion_tokens"])


def rate(server: Server, prompts: list[str], at_once: int) -> float:
    """Return tokens a second over these prompts, so many at once."""
    began = time.perf_counter()
    with ThreadPoolExecutor(at_once) as clients:
        tokens = sum(clients.map(lambda prompt: written(server, prompt), prompts))
    return tokens / (time.perf_counter() - began)


def wait_for(server: Server) -> str:
    """Wait until a server answers; return "" or why it does not."""
    deadline = time.monotonic() + START_S
    why = ""
    while time.monotonic() < deadline:
        try:
            written(server, "name")
        except httpx.HTTPStatusError as error:
            why = f"{error.response.status_code}: {error.response.text[:200]}"
            if error.response.status_code < 500:
                return why
        except httpx.HTTPError as error:
            why = type(error).__name__
        else:
            return ""
        time.sleep(1)
    return why


def main() -> None:
    quiet_libraries()
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    asked = parser.parse_args()
    command = f"benchmarks/endpoint_throughput.py --repeats {asked.repeats}"
    lines = (REALDATA / "e2e" / "trainset.csv").read_text(encoding="utf-8").splitlines()[1:]
    prompts = lines[:CLIENTS]
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        folder = Path(directory, "model")
        small_model(folder)
        print(heading("An endpoint beside transformers serve", command, ("torch", "transformers", "ray")), flush=True)
        started = [
            running.enter_context(ours(folder, Path(directory, "home"))),
            running.enter_context(theirs(folder)),
            running.enter_context(theirs(folder, "--continuous-batching")),
        ]
        reasons = {server: wait_for(server) for server in started}
        servers = [server for server, why in reasons.items() if not why]
        found: dict[Server, list[tuple[float, float]]] = {server: [] for server in servers}
        for repeat in range(asked.repeats + 1):
            for server in servers:
                values = rate(server, prompts[:ALONE], 1), rate(server, prompts, CLIENTS)
                found[server] += [values] if repeat else []  # the first one warms up
        show(found, {server: why for server, why in reasons.items() if why})


def show(found: dict[Server, list[tuple[float, float]]], left_out: dict[Server, str]) -> None:
    print(f"| server | tokens/s, one client | tokens/s, {CLIENTS} clients | ours over it, {CLIENTS} clients |")
    print("|---|---:|---:|---:|")
    mine = next(iter(found.values()))
    for server, values in found.items():
        ratios = [own[1] / other[1] for own, other in zip(mine, values, strict=True)]
        alone, together = median(one for one, _ in values), median(all_ for _, all_ in values)
        print(f"| `{server.name}` | {alone:.0f} | {together:.0f} | {spread(ratios)} |")
    for server, why in left_out.items():
        print(f"\n`{server.name}` did not answer: {why}")


if __name__ == "__main__":
    main()
