"""How long after the first completion that the router could serve does router_wait return, beside `kubectl rollout status`?

Usage: .venv/bin/python benchmarks/readiness.py INVENTORY [--runs 5] [--rate 20] [--keep] [--json FILE]
Needs KUBECONFIG and the images that INVENTORY names. It installs the row `smoke` in a namespace of its own. Then, RUNS times: the engine is
scaled to none and to one again; router_wait, as the role calls it, `kubectl rollout status` and `kubernetes.core.k8s_info` with `wait` are
started while it loads. All the time a completion of one token is asked for through the router, RATE times in a second, each by a
connection of its own. Seconds are counted from the moment when the first of them has come back whole: below zero, a wait was over before
the model answered. The clock of all is this machine's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests
from switch import ENGINE, NAMESPACE, at_rate, kubectl, router
from wait import Process, by_core, by_kubectl, by_module

WAIT_S = 300
REQUEST_S = 20.0


class FirstAnswer:
    """Asks for completions of one token at a steady rate, until one has come back; ``at_s`` is when, by time.monotonic."""

    def __init__(self, url: str, key: str, rate: float) -> None:
        self.at_s = 0.0
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}"}
        self._answered = threading.Event()
        self._thread = threading.Thread(target=at_rate, args=(rate, self._answered, lambda _number: self._ask()), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when one has come back."""
        self._thread.join()

    def _ask(self) -> None:
        body = {"model": "smoke", "prompt": "Hello", "max_tokens": 1}
        try:
            done = requests.post(f"{self._url}/v1/completions", json=body, headers=self._headers, timeout=REQUEST_S)
        except requests.RequestException:
            return
        if done.status_code == 200 and not self._answered.is_set():
            self.at_s = time.monotonic()
            self._answered.set()


def waiting(key: str, folder: Path) -> dict[str, Process]:
    """Start all that wait for the engine, by their names."""
    service = {"namespace": NAMESPACE, "name": "vllm-router", "port": 8000}
    arguments = {"model": "smoke", "service": service, "engine_deployment": ENGINE, "api_key": key, "wait_timeout": WAIT_S}
    return {
        "router_wait": by_module(arguments, folder / "arguments.json"),
        "kubectl rollout status": by_kubectl(NAMESPACE, ENGINE, WAIT_S),
        "kubernetes.core.k8s_info": by_core(NAMESPACE, ENGINE, WAIT_S),
    }


def restart() -> None:
    """Start the engine anew; return when its Deployment says that it is not available."""
    kubectl("scale", f"deployment/{ENGINE}", "--replicas=0")
    kubectl("wait", "pod", "-l", f"app={ENGINE}", "--for=delete", "--timeout=180s")
    kubectl("scale", f"deployment/{ENGINE}", "--replicas=1")
    kubectl("wait", f"deployment/{ENGINE}", "--for=condition=Available=false", "--timeout=30s")


def measured(url: str, key: str, rate: float) -> dict[str, float]:
    """Start the engine once; return by how many seconds each wait was later than the first answer."""
    restart()
    with tempfile.TemporaryDirectory() as folder:
        waits = waiting(key, Path(folder))
        first = FirstAnswer(url, key, rate)
        first.wait()
        for process in waits.values():
            process.wait()
        failed = '"failed": true' in waits["router_wait"].out
    if failed:
        sys.exit(waits["router_wait"].out)
    return {name: round(process.ended_s - first.at_s, 2) for name, process in waits.items()}


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20.0, help="completions asked for in a second")
    parser.add_argument("--keep", action="store_true", help="leave all of it there, so that the next run begins sooner")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    with router(options.inventory, options.keep) as (url, key):
        rows = [measured(url, key, options.rate) for _run in range(options.runs)]
    print(f"{'seconds after the first answer':<32} {'median':>7} {'least':>7} {'most':>7}")
    for name in rows[0]:
        seconds = [row[name] for row in rows]
        print(f"{name:<32} {statistics.median(seconds):>7.2f} {min(seconds):>7.2f} {max(seconds):>7.2f}")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
