"""What a second `make install-chat` costs: wall time and API requests, beside kubernetes.core applying the same objects.

Usage: .venv/bin/python benchmarks/second_run.py INVENTORY [RUNS]
The chat of INVENTORY has to be installed. Requests are counted on the wire: `kubectl proxy` speaks to the cluster, and a relay in front of
it counts the request lines of everything that the playbook sends. The alternative is one task of kubernetes.core.k8s with server-side
apply over the same manifests (it neither prunes, nor looks at GPUs, nor asks the model).
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import socketserver
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ANSIBLE = ROOT / ".venv/bin/ansible-playbook"
RENDER = """
- hosts: localhost
  gather_facts: false
  tasks:
    - ansible.builtin.include_role: {name: llmops.serving.vllm, tasks_from: "{{ item }}", public: true}
      loop: [resolve, platform/kubernetes/render]
    - ansible.builtin.include_role: {name: llmops.serving.open_webui, tasks_from: platform/kubernetes/render}
      vars: {open_webui_endpoint: "{{ vllm_plan.endpoint }}"}
    - ansible.builtin.copy: {dest: "{{ out }}", mode: "0644", content: "{{ (vllm_manifests + open_webui_manifests) | to_json }}"}
"""
ALTERNATIVE = """
- hosts: localhost
  gather_facts: false
  tasks:
    - kubernetes.core.k8s:
        kubeconfig: "{{ llm_kubeconfig }}"
        apply: true
        server_side_apply: {field_manager: benchmark, force_conflicts: true}
        definition: "{{ lookup('ansible.builtin.file', manifests) | from_json }}"
"""


class Relay(socketserver.ThreadingTCPServer):
    """Passes bytes on to `kubectl proxy`, and keeps the request lines that it sees."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), RelayHandler)
        self.port = port
        self.requests: list[str] = []


class RelayHandler(socketserver.BaseRequestHandler):
    """One connection: a thread for each direction."""

    def handle(self) -> None:
        """Pass on until one side closes."""
        with socket.create_connection(("127.0.0.1", self.server.port)) as far:
            back = threading.Thread(target=self.pump, args=(far, self.request, False), daemon=True)
            back.start()
            self.pump(self.request, far, True)
            back.join(timeout=1)

    def pump(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        """Copy from *source* to *sink*."""
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if count:
                    # a request begins where a packet does: the clients wait for an answer before they send the next
                    found = re.match(rb"(GET|POST|PUT|PATCH|DELETE) (/\S*) HTTP/1\.1\r\n", data)
                    if found and found.group(2).startswith((b"/api", b"/version", b"/openapi")):
                        self.server.requests.append(f"{found.group(1).decode()} {found.group(2).decode()}")
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def counted_cluster(folder: Path):
    """Give a relay and the path of a kubeconfig that leads through it."""
    command = ["kubectl", "proxy", "--port=0", "--reject-paths=^$", "--disable-filter"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as proxy:
        try:
            relay = Relay(int(proxy.stdout.readline().rpartition(":")[2]))
            threading.Thread(target=relay.serve_forever, daemon=True).start()
            server = f"http://127.0.0.1:{relay.server_address[1]}"
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": server}}],
                "users": [{"name": "u", "user": {}}],
            }
            path = folder / "kubeconfig"
            path.write_text(json.dumps(config))
            yield relay, path
        finally:
            proxy.terminate()


def play(inventory: str, playbook: Path, kubeconfig: Path, *extra: str) -> tuple[float, str]:
    """Run a playbook; return wall seconds and what it printed."""
    words = [word for variable in (f"llm_kubeconfig={kubeconfig}", *extra) for word in ("-e", variable)]
    begun = time.monotonic()
    run = subprocess.run([ANSIBLE, "-i", inventory, playbook, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    if run.returncode:
        raise SystemExit(run.stdout[-2000:] + run.stderr[-500:])
    return seconds, run.stdout


def main() -> None:
    """Measure both, in turn, and print a table with the ratio."""
    inventory = sys.argv[1]
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as name, counted_cluster(Path(name)) as (relay, kubeconfig):
        folder = Path(name)
        manifests = folder / "manifests.json"
        for file, text in (("render.yml", RENDER), ("alternative.yml", ALTERNATIVE)):
            (folder / file).write_text(text)
        play(inventory, folder / "render.yml", kubeconfig, f"out={manifests}")
        objects = len(json.loads(manifests.read_text()))
        ours: list[tuple[float, int]] = []
        theirs: list[tuple[float, int]] = []
        play(inventory, folder / "alternative.yml", kubeconfig, f"manifests={manifests}")
        play(inventory, ROOT / "playbooks/chat.yml", kubeconfig)
        for _run in range(runs):
            relay.requests.clear()
            seconds, out = play(inventory, ROOT / "playbooks/chat.yml", kubeconfig)
            if "changed=0" not in out:
                raise SystemExit("The second run changed something:\n" + out[-1500:])
            ours.append((seconds, len(relay.requests)))
            relay.requests.clear()
            seconds, _out = play(inventory, folder / "alternative.yml", kubeconfig, f"manifests={manifests}")
            theirs.append((seconds, len(relay.requests)))
        print(f"{objects} objects, median of {runs} runs           seconds  requests")
        for title, rows in (("make install-chat, nothing to change", ours), ("kubernetes.core.k8s, the same objects", theirs)):
            print(f"{title:42} {statistics.median(s for s, _n in rows):8.2f} {statistics.median(n for _s, n in rows):9.0f}")
        seconds_ratio, requests_ratio = (
            statistics.median(row[column] for row in ours) / statistics.median(row[column] for row in theirs) for column in (0, 1)
        )
        print(f"{'ratio':42} {seconds_ratio:8.2f} {requests_ratio:9.2f}")


if __name__ == "__main__":
    main()
