"""What clients notice of a switch of the model: failed requests, the longest gap, and how long it takes, beside kubectl.

Usage: .venv/bin/python benchmarks/switch.py INVENTORY [--rate 5] [--keep] [--json FILE]
Needs KUBECONFIG and the images that INVENTORY names. It installs the row `smoke` in a namespace of its own, and asks for the alias `chat`
through the router all the time (half of the requests streamed; every twentieth for 64 tokens, the others for 2), while the model is
switched smoke -> smoke-json -> smoke: by this collection with surge and with recreate, and by `kubectl apply` of the same Deployment
followed by `kubectl rollout status`, once with RollingUpdate (as the production-stack chart does) and once with Recreate. Weights of both
are on the volume before the clock starts.

The gap is the longest time in which no request that was sent came back whole. The engine's start is taken from its pod: from the start of
its container to its condition Ready. Where the old engine ends first, its unloading goes from the deletion of its pod to the creation of
the next; it has two parts, the end of the container and that of the pod, for which the kubelet of 1.20 takes up to a minute.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[1]
ANSIBLE = ROOT / ".venv/bin/ansible-playbook"
NAMESPACE = "bench-switch"
ENGINE = "vllm-backend"
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.import_role: {name: llmops.serving.vllm}
"""
REMOVE = PLAY.replace("serving.vllm}", "serving.vllm, tasks_from: remove}")
TIMEOUT_S = 20.0
# vLLM binds the threads of each engine to the first cores that it sees, so two engines of one machine would wait for each other there.
UNBOUND = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
ROWS = json.dumps({"vllm_model_configs": {row: {"env": UNBOUND} for row in ("smoke", "smoke-json")}})
# Few, so that an engine on a small CPU has room beside its requests for one that loads; some are long, so that a switch meets them.
TOKENS, LONG_TOKENS, LONG_EVERY = 2, 64, 20


class Answer(t.NamedTuple):
    """One request: when it was sent, when its answer was whole, and what went wrong (empty: nothing)."""

    sent_s: float
    done_s: float
    error: str


def at_rate(rate: float, over: threading.Event, ask: t.Callable[[int], None]) -> None:
    """Call *ask* with 0, 1, 2 ... *rate* times in a second, whatever comes back, until *over*; return when all calls have."""
    with ThreadPoolExecutor(64) as pool:
        begun, number = time.monotonic(), 0
        while not over.is_set():
            pool.submit(ask, number)
            number += 1
            over.wait(max(0.0, begun + number / rate - time.monotonic()))


class Load:
    """Asks at a steady rate, whatever comes back, until it is stopped."""

    def __init__(self, url: str, key: str, rate: float) -> None:
        self.url, self.rate = url, rate
        self.headers = {"Authorization": f"Bearer {key}"}
        self.answers: list[Answer] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Load:
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        """End when all that was asked has come back."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        at_rate(self.rate, self._over, lambda number: self._ask(number % 2 == 0, LONG_TOKENS if number % LONG_EVERY == 0 else TOKENS))

    def _ask(self, stream: bool, tokens: int) -> None:
        messages = [{"role": "user", "content": "Hello!"}]
        body = {"model": "chat", "messages": messages, "max_tokens": tokens, "ignore_eos": True, "temperature": 0, "stream": stream}
        sent, error = time.monotonic(), ""
        try:
            with requests.post(
                f"{self.url}/v1/chat/completions", json=body, headers=self.headers, timeout=TIMEOUT_S, stream=stream
            ) as answer:
                text = answer.text
            if answer.status_code != 200:
                error = f"{answer.status_code} {text[:60]}"
            elif stream and "[DONE]" not in text:
                error = "stream broke off"
        except requests.RequestException as exc:
            error = type(exc).__name__
        self.answers.append(Answer(sent, time.monotonic(), error))


def kubectl(*words: str, stdin: str = "") -> str:
    """Run kubectl in the namespace of the benchmark and return what it prints."""
    done = subprocess.run(["kubectl", "-n", NAMESPACE, *words], input=stdin, check=True, capture_output=True, text=True)
    return done.stdout


def play(text: str, inventory: str, *words: str) -> float:
    """Run a playbook; return its seconds. Its output is shown when it fails."""
    with tempfile.NamedTemporaryFile("w", suffix=".yml") as file:
        file.write(text)
        file.flush()
        begun = time.monotonic()
        done = subprocess.run(
            [str(ANSIBLE), "-i", inventory, "-e", f"llm_namespace={NAMESPACE}", "-e", ROWS, *words, file.name],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
    if done.returncode:
        sys.exit(done.stdout[-4000:] + done.stderr[-2000:])
    return time.monotonic() - begun


def settled() -> dict[str, t.Any]:
    """Return the engine's pod when that of before is gone, which would share the machine with what is measured next."""
    while len(pods := json.loads(kubectl("get", "pods", "-l", f"app={ENGINE}", "-o", "json"))["items"]) > 1:
        time.sleep(1)
    return dict(pods[0])


def start_s_of(pod: dict[str, t.Any]) -> float:
    """Seconds from the start of the engine's container to its *pod* being ready."""
    ready = next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")["lastTransitionTime"]
    started = pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"]
    return (datetime.fromisoformat(ready) - datetime.fromisoformat(started)).total_seconds()


def unload_s(pod: dict[str, t.Any]) -> float:
    """Seconds from the deletion of the engine of before to the creation of *pod*; below zero where they were side by side."""
    events = json.loads(kubectl("get", "events", "--field-selector", "reason=SuccessfulDelete", "-o", "json"))["items"]
    made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"])
    deleted = [datetime.fromisoformat(event["lastTimestamp"]) for event in events if event["involvedObject"]["name"].startswith(ENGINE)]
    return (made - max(deleted)).total_seconds()


def by_kubectl(deployment: dict[str, t.Any], strategy: dict[str, t.Any]) -> t.Callable[[], float]:
    """Return a function that switches by kubectl to *deployment*, and returns its seconds."""
    wanted = json.loads(json.dumps(deployment))
    wanted["spec"]["strategy"] = strategy

    def switch() -> float:
        begun = time.monotonic()
        kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=llmops.serving", "-f", "-", stdin=json.dumps(wanted))
        kubectl("rollout", "status", f"deployment/{ENGINE}", "--timeout=600s")
        return time.monotonic() - begun

    return switch


def measured(title: str, load: Load, switch: t.Callable[[], float]) -> dict[str, t.Any]:
    """Run *switch* under load, until all that was asked meanwhile has come back or is given up; return what clients saw."""
    first = len(load.answers)
    seconds = switch()
    time.sleep(TIMEOUT_S)
    answers = load.answers[first:]
    whole = sorted(answer.done_s for answer in answers if not answer.error)
    failed = [answer for answer in answers if answer.error]
    pod = settled()
    start_s, away_s = start_s_of(pod), unload_s(pod)
    gap_s = max((later - earlier for earlier, later in zip(whole, whole[1:])), default=0.0)
    row = {
        "switch": title,
        "requests": len(answers),
        "failed": len(failed),
        "errors": sorted({answer.error for answer in failed})[:3],
        "gap_s": round(gap_s, 1),
        "unload_s": round(away_s, 1) if away_s >= 0 else None,
        "engine_start_s": round(start_s, 1),
        "gap_over_start_s": round(gap_s - start_s, 1),
        "total_s": round(seconds, 1),
    }
    unload = f"{away_s:.1f}" if away_s >= 0 else "-"
    print(f"{title:<44} {row['requests']:>8} {row['failed']:>6} {gap_s:>7.1f} {unload:>9} {start_s:>8.1f} {seconds:>8.1f}", flush=True)
    return row


@contextlib.contextmanager
def router(inventory: str, keep: bool = False) -> t.Iterator[tuple[str, str]]:
    """Install `smoke`; give the router's address and its key; remove all of it in the end, unless it is to be kept."""
    try:
        play(PLAY, inventory, "-e", "vllm_model_name=smoke")
        address = kubectl("get", "service", "vllm-router", "-o", "jsonpath={.spec.clusterIP}")
        command = f"kubectl -n {NAMESPACE} get secret vllm-secrets -o jsonpath='{{.data.VLLM_API_KEY}}' | base64 -d"
        key = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
        yield f"http://{address}:8000", key
    finally:
        if not keep:
            play(REMOVE, inventory, "-e", "vllm_purge=true")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("inventory")
    parser.add_argument("--rate", type=float, default=5.0, help="requests in a second")
    parser.add_argument("--keep", action="store_true", help="leave all of it there, so that the next run begins sooner")
    parser.add_argument("--json", help="file for the figures")
    options = parser.parse_args()
    inventory = options.inventory

    def engine() -> dict[str, t.Any]:
        live = json.loads(kubectl("get", "deployment", ENGINE, "-o", "json"))
        kept = {key: live["metadata"][key] for key in ("name", "namespace", "labels")}
        return {"apiVersion": live["apiVersion"], "kind": live["kind"], "metadata": kept, "spec": live["spec"]}

    rows = []
    rolling = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "100%", "maxUnavailable": 0}}
    recreate = {"type": "Recreate", "rollingUpdate": None}
    with router(inventory, options.keep) as (url, key):
        deployments = {"smoke": engine()}
        play(PLAY, inventory, "-e", "vllm_model_name=smoke-json", "-e", "vllm_switch_strategy=recreate")
        deployments["smoke-json"] = engine()
        play(PLAY, inventory, "-e", "vllm_model_name=smoke", "-e", "vllm_switch_strategy=recreate")
        print(f"{'switch':<44} {'requests':>8} {'failed':>6} {'gap s':>7} {'unload s':>9} {'start s':>8} {'total s':>8}")
        with Load(url, key, options.rate) as load:
            time.sleep(5)
            for strategy in ("surge", "recreate"):
                for row in ("smoke-json", "smoke"):
                    words = ("-e", f"vllm_model_name={row}", "-e", f"vllm_switch_strategy={strategy}")
                    rows.append(measured(f"{strategy} to {row}", load, lambda words=words: play(PLAY, inventory, *words)))
            for title, way in (("RollingUpdate", rolling), ("Recreate", recreate)):
                for row in ("smoke-json", "smoke"):
                    rows.append(measured(f"kubectl, {title} to {row}", load, by_kubectl(deployments[row], way)))
    for ours, theirs in (("surge", "kubectl, RollingUpdate"), ("recreate", "kubectl, Recreate")):
        totals = [sum(row["total_s"] for row in rows if row["switch"].startswith(f"{name} to")) for name in (ours, theirs)]
        gaps = [max(row["gap_s"] for row in rows if row["switch"].startswith(f"{name} to")) for name in (ours, theirs)]
        print(f"{ours} beside {theirs}: {totals[0] / totals[1]:.2f} x the time, {gaps[0] / gaps[1]:.2f} x the longest gap")
    if options.json:
        Path(options.json).write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
