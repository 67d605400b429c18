"""What a router costs: the same load on an engine directly and through each router before it, in turn, as ratios.

Usage: .venv/bin/python benchmarks/router_overhead.py MODEL direct=http://127.0.0.1:8100 rust=http://127.0.0.1:8000

The first NAME=URL is what the others are compared with. The load is made by the module serving_benchmark, one process a run. The key, if
there is one, is $OPENAI_API_KEY. For each figure: the median of the rounds, and its ratio to that of the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import typing as t
from pathlib import Path

from serving_benchmark import Figures, Shape, ours

SHOWN = ("requests/s", "output tokens/s", "ttft p50 ms", "ttft p95 ms", "itl p50 ms", "itl p95 ms", "e2e p50 ms", "e2e p95 ms")


def measured(shape: Shape, urls: t.Mapping[str, str], rounds: int) -> dict[str, list[Figures]]:
    """Load each of *urls* once a round, every round beginning with another, and return the figures by name."""
    runs: dict[str, list[Figures]] = {name: [] for name in urls}
    names = list(urls)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            at = number % len(names)
            for name in names[at:] + names[:at]:
                runs[name].append(ours(shape._replace(url=urls[name].rstrip("/")), Path(folder)))
                print(f"  round {number + 1} of {rounds}: {name} done", file=sys.stderr, flush=True)
    return runs


def tell(runs: t.Mapping[str, list[Figures]]) -> None:
    """Print the medians and the ratios."""
    first, *others = runs
    print(f"{'median of the rounds':<20} {first:>10}" + "".join(f" {name:>10} {'ratio':>7}" for name in others))
    for figure in SHOWN:
        middle = {name: statistics.median(run[figure] for run in found) for name, found in runs.items()}
        ratios = {name: f"{middle[name] / middle[first]:.3f}" if middle[first] else "-" for name in others}
        cells = "".join(f" {middle[name]:>10.2f} {ratios[name]:>7}" for name in others)
        print(f"{figure:<20} {middle[first]:>10.2f}{cells}")
    for name, found in runs.items():
        for number, run in enumerate(found, 1):
            if run["errors"]:
                print(f"{name}, round {number}: errors: {run['errors']}")
            if run["client"]["limited"]:
                print(f"{name}, round {number}: the client was the bottleneck: {run['client']['why']}")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("urls", nargs="+", metavar="NAME=URL")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--input-tokens", type=int, default=128)
    parser.add_argument("--output-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    urls = dict(entry.split("=", 1) for entry in options.urls if "=" in entry)
    if len(urls) < 2 or len(urls) < len(options.urls):
        parser.error("at least two different NAME=URL are needed, the first of them to compare with")
    lengths = (options.input_tokens, options.output_tokens)
    shape = Shape("", options.model, "completions", None, options.concurrency, options.requests, *lengths)
    runs = measured(shape, urls, options.rounds)
    tell(runs)
    if options.json:
        Path(options.json).write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
