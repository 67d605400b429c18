"""What the GPU preflight costs on a big cluster: time and memory beside a plain paged list of the same nodes and pods.

Usage: KUBECONFIG=... .venv/bin/python benchmarks/preflight_scale.py [--nodes 5000] [--pods 20000] [--repeat 5] [--keep | --remove-only]
It makes Node and Pod objects that nothing stands behind, on the cluster that KUBECONFIG names, and removes them at the end, also after
Ctrl-C. Take a cluster for tests: its API server and controllers have work with so many objects. The nodes have a taint and lack the label
kubernetes.io/os, so that neither the scheduler nor the usual DaemonSets put pods on them. Both ways are measured in turn, each in a fresh
process, from the first import of the kubernetes client on. CPU time and memory are those of that process, not of the API server.
Needs Linux, which tells a process its peak memory.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import io
import itertools
import json
import random
import re
import signal
import statistics
import subprocess
import sys
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / ".venv/collections"))

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError  # noqa: E402
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError, Object  # noqa: E402

MOST_RATIO = 1.5
MOST_MIB = 200
PAGE = 500
MOST_IN_FLIGHT = 16
NODE = "preflight-scale-"
NAMESPACES = [f"preflight-scale-{number}" for number in range(10)]
MARK = "llmops.serving/benchmark"
SELECTOR = f"{MARK}=preflight-scale"

# taints that the pods and the check tolerate; a cluster sets the last two itself where no kubelet sends heartbeats
TAINTS = ("nvidia.com/gpu", MARK, "node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")
TOLERATIONS = [{"key": key, "operator": "Exists"} for key in TAINTS]

# product, memory of one unit in MiB, what it offers, compute capability, how many of 20 nodes
PRODUCTS = (
    ("NVIDIA-A100-SXM4-80GB", 81920, {"nvidia.com/gpu": 8}, "8.0", 10),
    ("NVIDIA-H100-80GB-HBM3", 81559, {"nvidia.com/gpu": 8}, "9.0", 5),
    ("NVIDIA-L4", 23034, {"nvidia.com/gpu": 4}, "8.9", 3),
    ("Tesla-T4-SHARED", 15360, {"nvidia.com/gpu": 16}, "7.5", 1),
    ("NVIDIA-A100-SXM4-40GB", 40960, {"nvidia.com/gpu": 6, "nvidia.com/mig-1g.5gb": 6, "nvidia.com/mig-2g.10gb": 4}, "8.0", 1),
)
PHASES = {"Running": 14, "Pending": 2, "Succeeded": 3, "Failed": 1}

# what the role asks for: a model on two GPUs of 80 GB, twice, which replaces the pods of an earlier one
QUESTION = {
    "min_memory_gb": 80,
    "gpus_per_node": 2,
    "replicas": 2,
    "tolerations": TOLERATIONS,
    "replaced_pods": {"namespace": NAMESPACES[0], "label_selector": "app.kubernetes.io/instance=app-0"},
}


# -- the objects -------------------------------------------------------------------------------------------------------


def now() -> str:
    """Return the time as the API writes it."""
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def node_name(number: int) -> str:
    """Return the name of a node."""
    return f"{NODE}{number:05}"


def node(number: int) -> Object:
    """Return a GPU node as GPU feature discovery and a kubelet describe it; one of 20 each is cordoned, not ready, or another team's."""
    dice = random.Random(number)
    name = node_name(number)
    product, memory, gpus, capability, _share = dice.choices(PRODUCTS, [row[-1] for row in PRODUCTS])[0]
    trouble = dice.choices(["cordoned", "not ready", "tainted", ""], [1, 1, 1, 17])[0]
    major, minor = capability.split(".")
    shared_by = 4 if product.endswith("SHARED") else 1
    taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}, {"key": MARK, "effect": "NoSchedule"}]
    if trouble == "tainted":
        taints.append({"key": "team", "value": "research", "effect": "NoSchedule"})
    labels = {
        MARK: "preflight-scale",
        "kubernetes.io/hostname": name,
        "kubernetes.io/arch": "amd64",
        "node.kubernetes.io/instance-type": "gpu.8xlarge",
        "topology.kubernetes.io/region": "region-1",
        "topology.kubernetes.io/zone": f"region-1-{'abc'[number % 3]}",
        "nvidia.com/cuda.driver-version.full": "570.86.15",
        "nvidia.com/cuda.driver-version.major": "570",
        "nvidia.com/cuda.runtime-version.full": "12.8",
        "nvidia.com/gfd.timestamp": "1763700000",
        "nvidia.com/gpu.compute.major": major,
        "nvidia.com/gpu.compute.minor": minor,
        "nvidia.com/gpu.count": str(gpus["nvidia.com/gpu"]),
        "nvidia.com/gpu.family": "ampere",
        "nvidia.com/gpu.machine": "PowerEdge-XE8545",
        "nvidia.com/gpu.memory": str(memory),
        "nvidia.com/gpu.mode": "compute",
        "nvidia.com/gpu.present": "true",
        "nvidia.com/gpu.product": product,
        "nvidia.com/gpu.replicas": str(shared_by),
        "nvidia.com/gpu.sharing-strategy": "none" if shared_by == 1 else "time-slicing",
        "nvidia.com/mig.capable": "true",
        "nvidia.com/mig.strategy": "mixed",
    }
    for resource in gpus:
        profile = resource.partition("/mig-")[2]
        if profile:
            labels[f"{resource}.product"] = f"{product}-MIG-{profile}"
            labels[f"{resource}.memory"] = str(int(profile.partition(".")[2][:-2]) * 972)
            labels[f"{resource}.count"] = str(gpus[resource])
    labels.update({f"feature.node.kubernetes.io/cpu-cpuid.FEATURE{bit}": "true" for bit in range(20)})
    resources = {"cpu": "128", "memory": "1056270136Ki", "pods": "110", "ephemeral-storage": "1844284980Ki", "hugepages-2Mi": "0"}
    resources.update({resource: str(count) for resource, count in gpus.items()})
    return {
        "apiVersion": "v1",
        "kind": "Node",
        # the annotation has the value that the controller gives in a cluster of thousands, so that it need not patch every node
        "metadata": {"name": name, "labels": labels, "annotations": {"node.alpha.kubernetes.io/ttl": "300"}},
        "spec": {"taints": taints, **({"unschedulable": True} if trouble == "cordoned" else {})},
        "status": {
            "capacity": resources,
            "allocatable": resources,
            "conditions": conditions(trouble != "not ready"),
            "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": name}],
            "nodeInfo": {
                "machineID": f"{number:032x}",
                "systemUUID": f"{number:032x}",
                "bootID": f"{number:032x}",
                "kernelVersion": "6.8.0-60-generic",
                "osImage": "Ubuntu 24.04.2 LTS",
                "containerRuntimeVersion": "containerd://1.7.27",
                "kubeletVersion": "v1.33.1",
                "kubeProxyVersion": "v1.33.1",
                "operatingSystem": "linux",
                "architecture": "amd64",
            },
            "images": [{"names": [f"registry.example.com/team/image-{at}@sha256:{at:064x}"], "sizeBytes": 10**9 + at} for at in range(20)],
        },
    }


def conditions(ready: bool) -> list[Object]:
    """Return the conditions of a node, as of now."""
    found = [(f"{what}Pressure", "False", f"KubeletHasNo{what}Pressure", "enough available") for what in ("Memory", "Disk", "PID")]
    if ready:
        found.append(("Ready", "True", "KubeletReady", "kubelet is posting ready status"))
    else:
        found.append(("Ready", "False", "KubeletNotReady", "container runtime network not ready"))
    times = {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
    return [{"type": kind, "status": status, "reason": reason, "message": message, **times} for kind, status, reason, message in found]


def pod(number: int, nodes: int) -> tuple[Object, Object]:
    """Return a pod that is bound to a node, and its status; two of five ask for GPUs, some of those in an init container."""
    dice = random.Random(-number - 1)
    phase = dice.choices(list(PHASES), list(PHASES.values()))[0]
    gpus = dice.choices([0, 1, 2, 4], [12, 4, 3, 1])[0]
    app = f"app-{number // len(NAMESPACES) % 100}"
    image = f"registry.example.com/team/{app}:1.27.3"
    resources: Object = {"requests": {"cpu": "500m", "memory": "2Gi"}, "limits": {"memory": "4Gi"}}
    if gpus:
        for part in resources.values():
            part["nvidia.com/gpu"] = str(gpus)
    container = {"image": image, "resources": resources}
    main = {"name": "main", "args": ["serve", f"--name={app}"], "volumeMounts": [{"name": "data", "mountPath": "/data"}], **container}
    spec = {
        "nodeName": node_name(number % nodes),
        "automountServiceAccountToken": False,
        "initContainers": [{"name": "fetch", **container}] if gpus > 1 else [],
        "containers": [main],
        "tolerations": TOLERATIONS,
        "volumes": [{"name": "data", "emptyDir": {}}],
    }
    labels = {MARK: "preflight-scale", "app.kubernetes.io/name": "app", "app.kubernetes.io/instance": app, "pod-template-hash": "5f6d7c8b9"}
    annotations = {"checksum/config": f"{number:064x}", "prometheus.io/scrape": "true"}
    name = f"{app}-5f6d7c8b9-{number:05}"
    began = now()
    running = phase == "Running"
    ended = {"terminated": {"exitCode": int(phase == "Failed"), "startedAt": began, "finishedAt": began}}
    state = {"Running": {"running": {"startedAt": began}}, "Pending": {"waiting": {"reason": "ContainerCreating"}}}.get(phase, ended)
    status = {
        "phase": phase,
        "podIP": "192.0.2.7",
        "hostIP": "192.0.2.1",
        "startTime": began,
        "conditions": [
            {"type": kind, "status": str(running or kind == "PodScheduled"), "lastTransitionTime": began}
            for kind in ("Initialized", "Ready", "ContainersReady", "PodScheduled")
        ],
        "containerStatuses": [{"name": "main", "ready": running, "state": state, "image": image, "imageID": "", "restartCount": 0}],
    }
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels, "annotations": annotations}, "spec": spec}
    return document, status


# -- making and removing -----------------------------------------------------------------------------------------------


def in_parallel(kube: Kube, action: t.Callable[[int], object], count: int) -> None:
    """Call *action* with each number below *count*; several at once, but no more than there are connections that stay open."""
    with ThreadPoolExecutor(min(MOST_IN_FLIGHT, kube.api.configuration.connection_pool_maxsize)) as pool:
        for _done in pool.map(action, range(count)):
            pass


def make(kube: Kube, nodes: int, pods: int) -> None:
    """Make the objects: nodes before their pods, which the cluster removes otherwise."""

    def make_pod(number: int) -> None:
        document, status = pod(number, nodes)
        path = f"/api/v1/namespaces/{NAMESPACES[number % len(NAMESPACES)]}/pods"
        kube.call("POST", path, body=document)
        patch = {"path": f"{path}/{document['metadata']['name']}/status", "content_type": "application/merge-patch+json"}
        kube.call("PATCH", body={"status": status}, **patch)

    for namespace in NAMESPACES:
        kube.call("POST", "/api/v1/namespaces", body={"metadata": {"name": namespace, "labels": {MARK: "preflight-scale"}}})
        with contextlib.suppress(KubeError):  # the cluster may have been faster
            kube.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", body={"metadata": {"name": "default"}})
    in_parallel(kube, lambda number: kube.call("POST", "/api/v1/nodes", body=node(number)), nodes)
    in_parallel(kube, make_pod, pods)


def stay_ready(kube: Kube, nodes: int) -> None:
    """Send the heartbeats of all nodes, where the cluster has noticed that they have none."""
    some = kube.call("GET", "/api/v1/nodes", query={"labelSelector": SELECTOR, "limit": 20})["items"]
    if not any(condition["status"] == "Unknown" for each in some for condition in each["status"]["conditions"]):
        return

    def heartbeat(number: int) -> None:
        body = {"status": {"conditions": node(number)["status"]["conditions"]}}
        path = f"/api/v1/nodes/{node_name(number)}/status"
        kube.call("PATCH", path, body=body, content_type="application/strategic-merge-patch+json")

    in_parallel(kube, heartbeat, nodes)


def remove(kube: Kube) -> None:
    """Remove what carries the mark, and wait until it is gone: pods before their nodes, so that nothing looks for other places."""

    def empty(path: str) -> None:
        while next(kube.list(path, label_selector=SELECTOR, page_size=1), None):
            kube.call("DELETE", path, query={"labelSelector": SELECTOR, "gracePeriodSeconds": "0", "limit": PAGE})

    in_parallel(kube, lambda at: empty(f"/api/v1/namespaces/{NAMESPACES[at]}/pods"), len(NAMESPACES))
    empty("/api/v1/nodes")
    found = [space["metadata"]["name"] for space in kube.list("/api/v1/namespaces", label_selector=SELECTOR)]
    for name in found:
        kube.delete(f"/api/v1/namespaces/{name}")
    while next(kube.list("/api/v1/namespaces", label_selector=SELECTOR), None):
        time.sleep(0.5)


def refuse_daemons(kube: Kube) -> None:
    """End when a DaemonSet would start a pod on every node made here."""
    labels = node(0)["metadata"]["labels"].items()
    for daemon in kube.list("/apis/apps/v1/daemonsets"):
        spec = daemon["spec"]["template"]["spec"]
        everywhere = any(rule.get("operator") == "Exists" and rule.get("key") in (None, "", MARK) for rule in spec.get("tolerations") or [])
        if everywhere and (spec.get("nodeSelector") or {}).items() <= labels:
            raise SystemExit(
                f"The DaemonSet {daemon['metadata']['namespace']}/{daemon['metadata']['name']} tolerates every taint: it would start a pod "
                "on each node made here. Take another cluster."
            )


# -- measuring ---------------------------------------------------------------------------------------------------------


def check_gpus() -> Object:
    """Run the module as Ansible does, from its arguments to the JSON that it prints."""
    from ansible.module_utils.testing import patch_module_args
    from ansible_collections.llmops.serving.plugins.modules import gpu_memory_check

    out = io.StringIO()
    with cost() as spent, patch_module_args(QUESTION), contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        gpu_memory_check.main()
    result = json.loads(out.getvalue())
    if "gpus" not in result:
        raise SystemExit(result.get("msg") or out.getvalue()[-2000:])
    made = {rows: len({gpus["node"] for gpus in result[rows] if gpus["node"].startswith(NODE)}) for rows in ("gpus", "eligible")}
    return {**spent, "nodes": made["gpus"], "usable": made["eligible"], "summary": result["summary"]}


def list_plainly() -> Object:
    """Read the same objects page by page, and do nothing with them."""
    counts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    with cost() as spent:
        kube = Kube.connect()
        for kind in ("nodes", "pods"):
            token, counts[kind], sizes[kind] = "", 0, 0
            while True:
                response = kube.request("GET", f"/api/v1/{kind}", query={"limit": PAGE, "continue": token})
                response.read()
                page = json.loads(response.data)
                counts[kind] += len(page["items"])
                sizes[kind] += len(response.data)
                token = page["metadata"].get("continue")
                if not token:
                    break
    return {**spent, **counts, **{f"{kind}_kib": sizes[kind] / counts[kind] / 1024 for kind in counts}}


@contextlib.contextmanager
def cost() -> t.Iterator[dict[str, float]]:
    """Give a dict that holds, after the block, what it took. The peak is that of the process, with all that it has imported.

    It is not ``ru_maxrss``: that one begins with the memory of the process that started this one.
    """
    spent: dict[str, float] = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield spent
    spent["wall_s"], spent["cpu_s"] = time.perf_counter() - wall, time.process_time() - cpu
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    spent["peak_mib"] = int(peak[1]) / 1024 if peak else 0


WAYS = {"check": check_gpus, "list": list_plainly}


def measure(way: str) -> Object:
    """Run one of WAYS in a fresh process."""
    run = subprocess.run([sys.executable, __file__, "--measure", way], capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr[-2000:])
    return t.cast(Object, json.loads(run.stdout))


def compare(kube: Kube, nodes: int, pods: int, repeat: int) -> None:
    """Measure all in turn, and print a table with the ratio."""
    rows: dict[str, list[Object]] = {way: [] for way in WAYS}
    for _round, way in itertools.product(range(repeat), WAYS):
        stay_ready(kube, nodes)
        rows[way].append(measure(way))
    checked, listed = rows["check"][-1], rows["list"][-1]
    if checked["nodes"] < nodes or listed["pods"] < pods:
        raise SystemExit(f"The cluster removed some: {checked['nodes']} nodes and {listed['pods']} pods are left. Take another cluster.")
    print(f"{listed['nodes']} nodes of {listed['nodes_kib']:.1f} KiB, {listed['pods']} pods of {listed['pods_kib']:.1f} KiB.")
    print(f"{checked['usable']} of the nodes made here are usable for what was asked. {checked['summary'][:120]} ...\n")
    columns = {"wall_s": "wall s", "cpu_s": "CPU s", "peak_mib": "peak MiB"}
    print(f"{f'median (least - most) of {repeat} runs':40}" + "".join(f"{title:>24}" for title in columns.values()))
    medians = {}
    for way, title in (("check", "gpu_memory_check"), ("list", "plain list of the same, paged")):
        cells = []
        for column in columns:
            values = [row[column] for row in rows[way]]
            medians[way, column] = statistics.median(values)
            cells.append(f"{medians[way, column]:.1f} ({min(values):.1f} - {max(values):.1f})")
        print(f"{title:40}" + "".join(f"{cell:>24}" for cell in cells))
    ratios = [medians["check", column] / medians["list", column] for column in columns]
    print(f"{'ratio':40}" + "".join(f"{ratio:>24.2f}" for ratio in ratios))
    print(f"{'aim':40}{f'<= {MOST_RATIO:g} times':>24}{'':24}{f'<= {MOST_MIB} MiB':>24}")
    met = ratios[0] <= MOST_RATIO and medians["check", "peak_mib"] <= MOST_MIB
    print("The aim is met." if met else "The aim is MISSED.")


def main() -> None:
    """Make, measure and remove."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--pods", type=int, default=20000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="leave the objects there")
    parser.add_argument("--remove-only", action="store_true", help="remove what an earlier run has left, and do nothing else")
    parser.add_argument("--measure", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if min(options.nodes, options.pods, options.repeat) < 1:
        parser.error("--nodes, --pods and --repeat must be 1 or more")
    if options.measure:
        print(json.dumps(WAYS[options.measure]()))
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kube = Kube.connect()
    if options.remove_only:
        remove(kube)
        return
    refuse_daemons(kube)
    remove(kube)
    try:
        begun = time.monotonic()
        make(kube, options.nodes, options.pods)
        print(f"Made {options.nodes} nodes and {options.pods} pods in {time.monotonic() - begun:.0f} s.", flush=True)
        compare(kube, options.nodes, options.pods, options.repeat)
    finally:
        if not options.keep:
            print("Removing them; if that is interrupted: --remove-only ...", flush=True)
            begun = time.monotonic()
            remove(kube)
            print(f"Removed all of them in {time.monotonic() - begun:.0f} s.", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ServingError as exc:
        raise SystemExit(str(exc)) from None
    except KeyboardInterrupt:
        raise SystemExit("Interrupted.") from None
