# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""Which GPUs are there, which of them are free, and whether they are enough.

Readers turn nodes and pods of a cluster, or the output of ``nvidia-smi``, into rows of ``Gpus``; ``check`` judges the rows.
A minimum is decimal GB as cards are sold; drivers report MiB, so 80 is met by 81920 MiB (A100) and by 81559 MiB (H100).

Labels: NVIDIA/k8s-device-plugin internal/lm/resource.go (GPU feature discovery), ROCm/k8s-device-plugin cmd/k8s-node-labeller.
Requests of a pod: kubernetes.io/docs/concepts/workloads/pods/init-containers (Resource sharing within containers).
"""

from __future__ import annotations

import collections
import csv
import dataclasses
import re
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import selector_text

if t.TYPE_CHECKING:
    from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, Object

    Used = dict[tuple[str, str], int]
    # runs nvidia-smi with these arguments; its exit code, what it wrote, and what it wrote of errors
    Ask = t.Callable[..., tuple[int, str, str]]

MIB = 2**20
GB = 10**9

RESOURCES = {"nvidia": "nvidia.com/gpu", "amd": "amd.com/gpu"}
LABELLERS = {"nvidia": "GPU feature discovery", "amd": "the AMD node labeller"}

# Pods that hold GPUs: bound to a node, Pending ones too, and not finished.
HOLDING = "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"

# Where nvidia-smi is under WSL, which need not be in PATH.
WSL_FOLDER = "/usr/lib/wsl/lib"
NVIDIA_SMI_FIELDS = ("index", "name", "memory.total", "memory.free", "compute_cap", "mig.mode.current")
NVIDIA_SMI_CSV = "--format=csv,noheader,nounits"
# Lists the processes of all GPUs in one call, those of the desktop too, which --query-compute-apps leaves out.
NVIDIA_SMI_PROCESSES = ("-q", "-d", "PIDS")
# Its words for a process that is not in its /proc: of another container, or, under WSL, of Windows.
ELSEWHERE = ("not found", "insufficient permissions")
UNNAMED = "a process that nvidia-smi does not name"

# vLLM's default gpu_memory_utilization: it refuses to start where less than this share of a card is free.
FREE_SHARE = 0.92

# A card of a whole number of GiB has up to 7.4 % more bytes than the decimal GB it is sold by.
SOLD_GB = (4, 6, 8, 10, 11, 12, 16, 20, 24, 32, 40, 48, 64, 80, 94, 96, 128, 141, 180, 192, 256, 288)
SOLD_MARGIN = 1.075

COMPUTE_CAPABILITIES = {
    word: capability
    for capability, words in {
        "7.0": "V100 V100S",
        "7.5": "T4 T4G",
        "8.0": "A30 A100 A100X A800",
        "8.6": "A2 A10 A10G A10M A16 A40 A2000 A4000 A4500 A5000 A5500 A6000 3060 3070 3080 3090",
        "8.9": "L2 L4 L20 L40 L40G L40S ADA 4060 4070 4080 4090",
        "9.0": "H20 H100 H200 H800 GH200",
        "10.0": "B100 B200 GB200",
        "10.3": "B300 GB300",
        "12.0": "BLACKWELL 5060 5070 5080 5090",
        "12.1": "GB10",
    }.items()
    for word in words.split()
}

CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
MOST_KINDS = 6
MOST_NAMED = 3
MOST_HOLDERS = 20


class Holder(t.NamedTuple):
    """Who holds GPUs, or memory of them. What is unknown, or nothing that its kind has, is None.

    A ``pod`` or ``deployment`` holds ``gpus``; a ``process`` holds ``memory_mib`` of the GPU with the index ``gpu``, an ``ollama_model`` of
    any of them.
    """

    kind: str
    name: str
    namespace: t.Optional[str] = None
    node: t.Optional[str] = None
    gpus: t.Optional[int] = None
    pid: t.Optional[int] = None
    gpu: t.Optional[int] = None
    memory_mib: t.Optional[int] = None
    expires_at: t.Optional[str] = None
    remedy: str = ""

    @property
    def title(self) -> str:
        """The name as people need it to find this."""
        of_kind = {"pod": f"{self.namespace}/{self.name}", "deployment": f"Deployment/{self.name}", "ollama_model": f"Ollama's {self.name}"}
        return of_kind.get(self.kind, self.name)

    @property
    def text(self) -> str:
        """Who it is and what it holds, in words: ``ml/train-0 (4 GPUs of gpu-a)``, ``python (pid 4242, 17,000 MiB of GPU 0)``."""
        parts = [] if self.pid is None else [f"pid {self.pid}"]
        if self.gpus is not None:
            parts.append(_plural(self.gpus, "GPU") + (f" of {self.node}" if self.node else ""))
        if self.memory_mib is not None:
            parts.append(f"{self.memory_mib:,} MiB" + ("" if self.gpu is None else f" of GPU {self.gpu}"))
        elif self.gpu is not None:
            parts.append(f"on GPU {self.gpu}")
        return f"{self.title} ({', '.join(parts)})" if parts else self.title

    def report(self) -> dict[str, t.Any]:
        """Return what is known, and all of it in words."""
        known = {key: value for key, value in self._asdict().items() if value not in (None, "")}
        return {**known, "text": f"{self.text}: {self.remedy}" if self.remedy else self.text}


class GpuProcess(t.NamedTuple):
    """A process on the GPU with the index ``gpu``; ``graphics``: it only draws. ``name`` is what nvidia-smi says, often a command line."""

    gpu: int
    pid: int
    graphics: bool
    name: str
    memory_mib: t.Optional[int]


@dataclasses.dataclass
class Gpus:
    """GPUs of one kind on one node. Memory is that of one unit, as a pod or a process gets it; None where it is unknown."""

    node: str
    product: str
    count: int
    free: int
    memory_mib: t.Optional[int]
    compute_capability: t.Optional[str]
    resource: str = ""
    sharing: str = "none"
    shared_by: int = 1
    mig: t.Optional[str] = None
    obstacle: str = ""
    index: t.Optional[int] = None
    memory_free_mib: t.Optional[int] = None
    min_free_share: float = FREE_SHARE
    holders: list[Holder] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Request:
    """What has to fit: *replicas* times *gpus_per_node* GPUs on one node, each of at least *min_memory_gb* (0: of any memory)."""

    min_memory_gb: float
    gpus_per_node: int = 1
    replicas: int = 1

    def __str__(self) -> str:
        size = f" of at least {self.min_memory_gb:g} GB" if self.min_memory_gb else ""
        one = f"{_plural(self.gpus_per_node, 'GPU')}{size} on one node"
        return one if self.replicas == 1 else f"{self.replicas} times {one}"


class Place(t.NamedTuple):
    """What messages say about the place where GPUs were looked for: none there, all held by others, memory not known.

    ``held`` takes the place of ``busy`` where it is known by whom; it has ``{holders}`` in it.
    """

    absent: str
    busy: str
    unknown: str
    held: str


@dataclasses.dataclass(frozen=True)
class Verdict:
    """``reasons`` has one entry for each row that was judged, empty where the row is usable; ``possible`` counts replicas.

    ``together`` is the largest number of usable GPUs that are free on one node.
    """

    reasons: list[str]
    fits: list[str]
    possible: int
    possible_when_idle: int
    together: int


# -- a cluster ---------------------------------------------------------------------------------------------------------


def cluster_place(accelerator: str) -> Place:
    """Return the words for a cluster whose pods ask for GPUs of *accelerator*."""
    return Place(
        absent=f"no node of the cluster offers {RESOURCES[accelerator]}. "
        f"Install the {accelerator.upper()} GPU operator, or its device plugin. GPUs offered through DRA only are not counted.",
        busy="Enough of them exist, but other pods hold them: remove such a pod, or wait.",
        held="Enough of them exist, but they are held by {holders}: remove such a pod, or wait.",
        unknown=f"Labels with the memory are missing: install {LABELLERS[accelerator]}.",
    )


def pods_that_make_room(kube: Kube, namespace: str, label_selector: str) -> dict[str, str]:
    """Return the uids of the pods that hold GPUs now and are about to end, with the label ``app`` of each."""
    pods = kube.list(f"/api/v1/namespaces/{namespace}/pods", label_selector=label_selector, field_selector=HOLDING)
    return {pod["metadata"]["uid"]: (pod["metadata"].get("labels") or {}).get("app", "") for pod in pods}


def cluster_gpus(
    kube: Kube,
    accelerator: str = "nvidia",
    tolerations: t.Sequence[Object] = (),
    replaced: t.Callable[[], t.Container[str]] = tuple,
    node_selector: t.Optional[t.Mapping[str, str]] = None,
) -> list[Gpus]:
    """Read nodes and pods, page by page, and return the GPUs of every node that has the labels of *node_selector*.

    *tolerations* are those that the pods will have. The GPUs of pods with a uid in what *replaced* returns count as free; it is called
    where there are GPUs at all.
    Nothing is kept of a pod but its name and what it holds, and its name only where pods can be placed. Raises KubeError when the API
    does not answer or does not permit it.
    """
    found = kube.list("/api/v1/nodes", label_selector=selector_text(node_selector or {}), missing_ok=False)
    rows = [gpus for node in found for gpus in node_gpus(node, accelerator, tolerations)]
    nodes = {gpus.node for gpus in rows if gpus.count}
    if not nodes:
        return rows
    holders = {(gpus.node, gpus.resource): gpus.holders for gpus in rows if not gpus.obstacle}
    making_room = replaced()
    used = gpus_in_use(kube.list("/api/v1/pods", field_selector=HOLDING), accelerator, nodes, making_room, holders)
    for gpus in rows:
        gpus.free = max(0, gpus.count - used.get((gpus.node, gpus.resource), 0))
    return rows


def node_gpus(node: Object, accelerator: str, tolerations: t.Sequence[Object]) -> t.Iterator[Gpus]:
    """Yield the GPUs of a Node, one row for each resource that offers some, all of them free."""
    asked = RESOURCES[accelerator]
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    labels = node["metadata"].get("labels") or {}
    offers = {name: _quantity(amount) for name, amount in allocatable.items() if _is_gpu(name, asked)}
    if not offers and f"{asked}.count" not in labels:
        return
    offers = {name: count for name, count in offers.items() if count} or {asked: 0}
    obstacle = node_obstacle(node, tolerations)
    read = _nvidia_labels if accelerator == "nvidia" else _amd_labels
    for name, count in offers.items():
        gpus = read(Gpus(node["metadata"]["name"], name, count, count, None, None, resource=name, obstacle=obstacle), labels)
        if not count:
            gpus.obstacle = f"offers no {asked}: its device plugin does not run, its cards are unhealthy, or it uses DRA"
        elif name != asked:
            gpus.obstacle = f"offered as {name}, not as {asked}"
        yield gpus


def node_obstacle(node: Object, tolerations: t.Sequence[Object]) -> str:
    """Return why no pod with *tolerations* can be placed on *node*, an empty string when one can."""
    conditions = (node.get("status") or {}).get("conditions") or []
    if not any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions):
        return "not ready"
    spec = node.get("spec") or {}
    if spec.get("unschedulable") and not _tolerated(CORDON, tolerations):
        return "cordoned"
    for taint in spec.get("taints") or []:
        if taint.get("effect") in ("NoSchedule", "NoExecute") and not _tolerated(taint, tolerations):
            value = f"={taint['value']}" if taint.get("value") else ""
            return f"taint {taint['key']}{value}:{taint['effect']} is not tolerated"
    return ""


def placement_obstacle(node: Object, spec: Object) -> str:
    """Return why a pod with *spec* cannot be placed on *node*, however much is free there; an empty string when it can.

    Looks at the node's state and taints, and at the pod's tolerations, node selector and required node affinity.
    """
    obstacle = node_obstacle(node, spec.get("tolerations") or [])
    if obstacle:
        return obstacle
    labels = node["metadata"].get("labels") or {}
    for key, value in (spec.get("nodeSelector") or {}).items():
        if labels.get(key) != str(value):
            return f"no label {key}={value}"
    affinity = (spec.get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if not required or any(_matches_term(node, term) for term in required.get("nodeSelectorTerms") or []):
        return ""
    return "its labels do not meet the node affinity"


def _matches_term(node: Object, term: Object) -> bool:
    """Whether *node* meets all that a node selector term asks for; a term that asks for nothing is met by no node."""
    labels, fields = node["metadata"].get("labels") or {}, {"metadata.name": node["metadata"]["name"]}
    asked = [(labels, expression) for expression in term.get("matchExpressions") or []]
    asked += [(fields, expression) for expression in term.get("matchFields") or []]
    return bool(asked) and all(_meets(values, expression) for values, expression in asked)


def _meets(labels: t.Mapping[str, str], expression: Object) -> bool:
    key, operator, values = expression["key"], expression["operator"], expression.get("values") or []
    value = labels.get(key)
    if operator == "DoesNotExist":
        return value is None
    if operator == "NotIn":  # a node without the label meets it, too
        return value not in values
    if value is None:
        return False
    if operator in ("Gt", "Lt"):
        number, bound = _integer(value), _integer(values[0]) if len(values) == 1 else None
        return number is not None and bound is not None and (number > bound if operator == "Gt" else number < bound)
    return operator == "Exists" or (operator == "In" and value in values)


def gpus_in_use(
    pods: t.Iterable[Object],
    accelerator: str,
    nodes: t.Container[str],
    replaced: t.Container[str] = (),
    holders: t.Optional[t.Mapping[tuple[str, str], list[Holder]]] = None,
) -> Used:
    """Fold *pods* into the number of GPUs held, by ``(node, resource)``; pods with a uid in *replaced* hold none.

    Those that hold some are added to the list that *holders* has for the same ``(node, resource)``.
    """
    asked = RESOURCES[accelerator]
    used: Used = collections.defaultdict(int)
    for pod in pods:
        spec = pod["spec"]
        node = spec.get("nodeName")
        if node in nodes and pod["metadata"]["uid"] not in replaced:
            for resource, amount in pod_requests(spec, asked).items():
                used[node, resource] += amount
                if holders and (node, resource) in holders:
                    metadata = pod["metadata"]
                    holders[node, resource].append(Holder("pod", metadata["name"], metadata["namespace"], node, amount))
    return used


def pod_requests(spec: Object, asked: str) -> t.Counter[str]:
    """Return what a pod holds of each GPU resource: its containers and sidecars together, or its most demanding init container."""
    return pod_total(spec, lambda container: _container_requests(container, asked))


def pod_total(spec: Object, of_container: t.Callable[[Object], t.Counter[str]]) -> t.Counter[str]:
    """Return what the containers of a pod hold together, where *of_container* says it of one: sidecars count all the time."""
    sidecars: t.Counter[str] = collections.Counter()
    initial: t.Counter[str] = collections.Counter()
    for container in spec.get("initContainers") or []:
        own = of_container(container)
        if container.get("restartPolicy") == "Always":
            sidecars += own
        else:
            initial |= sidecars + own
    total = sum((of_container(container) for container in spec.get("containers") or []), sidecars)
    return total | initial


def _container_requests(container: Object, asked: str) -> t.Counter[str]:
    requests = (container.get("resources") or {}).get("requests") or {}
    return collections.Counter({name: _quantity(amount) for name, amount in requests.items() if _is_gpu(name, asked)})


def _is_gpu(name: str, asked: str) -> bool:
    return name in (asked, f"{asked}.shared") or (asked == "nvidia.com/gpu" and name.startswith("nvidia.com/mig-"))


def _quantity(amount: t.Any) -> int:
    """Return a whole number of devices; Kubernetes writes 2000 as ``2k``."""
    text = str(amount)
    return int(text[:-1]) * 1000 if text.endswith("k") else int(text)


def _tolerated(taint: Object, tolerations: t.Sequence[Object]) -> bool:
    return any(
        toleration.get("effect") in (None, "", taint["effect"])
        and toleration.get("key") in (None, "", taint["key"])
        and (toleration.get("operator") == "Exists" or _equals(taint, toleration))
        for toleration in tolerations
    )


def _equals(taint: Object, toleration: Object) -> bool:
    return toleration.get("operator") in (None, "", "Equal") and (toleration.get("value") or "") == (taint.get("value") or "")


def _nvidia_labels(gpus: Gpus, labels: t.Mapping[str, str]) -> Gpus:
    """Fill in what GPU feature discovery says. Its labels carry the original name of a resource that time-slicing renamed."""
    name = gpus.resource[: -len(".shared")] if gpus.resource.endswith(".shared") else gpus.resource
    gpus.product = labels.get(f"{name}.product", gpus.product)
    gpus.memory_mib = _whole(labels.get(f"{name}.memory"))
    major, minor = labels.get("nvidia.com/gpu.compute.major"), labels.get("nvidia.com/gpu.compute.minor")
    gpus.compute_capability = f"{major}.{minor}" if major and minor else compute_capability(gpus.product)
    slice_of = re.search(r"-MIG-(.+?)(?:-SHARED)?$", gpus.product)
    if slice_of:
        gpus.mig = slice_of[1]
    elif "/mig-" in name:
        gpus.mig = name.split("/mig-")[1]
    shared_by = _whole(labels.get(f"{name}.replicas")) or 0
    if shared_by > 1 or gpus.product.endswith("-SHARED") or name != gpus.resource:
        gpus.shared_by = shared_by
        gpus.sharing = "mps" if labels.get(f"{name}.sharing-strategy") == "mps" else "time-slicing"
        if gpus.sharing == "mps" and gpus.memory_mib is not None and shared_by:
            gpus.memory_mib //= shared_by
    return gpus


def _amd_labels(gpus: Gpus, labels: t.Mapping[str, str]) -> Gpus:
    """Fill in what the AMD node labeller says: ``gpu.vram=192G``, or ``beta.amd.com/gpu.vram.192G=8`` (whole GiB, rounded)."""
    gpus.product = labels.get("amd.com/gpu.product-name", gpus.product)
    sizes = [labels["amd.com/gpu.vram"]] if "amd.com/gpu.vram" in labels else []
    sizes = sizes or [label.rsplit(".", 1)[1] for label in labels if label.startswith("beta.amd.com/gpu.vram.")]
    gib = _whole(sizes[0][:-1]) if len(sizes) == 1 and sizes[0].endswith("G") else None
    gpus.memory_mib = None if gib is None else gib * 1024
    return gpus


# -- a host ------------------------------------------------------------------------------------------------------------


def host_place(host: str, min_free_share: float = FREE_SHARE) -> Place:
    """Return the words for a host that ``nvidia-smi`` was run on."""
    held = f"over {1 - min_free_share:.0%} of the memory"
    return Place(
        absent=f"nvidia-smi lists no GPU on {host}. Check with lspci that this machine has the card.",
        busy=f"Enough of them exist, but processes hold {held}: end those that nvidia-smi shows, or wait.",
        held=f"Enough of them exist, but {held} is held by {{holders}}: end what need not run, or wait.",
        unknown="The driver does not tell the memory of this GPU, which shares it with the CPU.",
    )


def nvidia_smi_failure(host: str, code: int, output: str) -> ServingError:
    """Return the error for an ``nvidia-smi`` that ended with *code*, in its own words."""
    words = " ".join(output.split())[:200].rstrip(".") or f"exit code {code}"
    return ServingError(f"GPU check: nvidia-smi does not work on {host}: {words}. Install the NVIDIA driver, or reboot to reload it.")


def host_gpus(ask: Ask, host: str, wanted: t.Collection[int] = (), min_free_share: float = FREE_SHARE) -> list[Gpus]:
    """Return the GPUs of this host, those with an index in *wanted* only, where there is one. Raises ServingError when that cannot be."""
    code, out, err = ask(f"--query-gpu={','.join(NVIDIA_SMI_FIELDS)}", NVIDIA_SMI_CSV)
    if "No devices were found" in out + err:
        return []
    if code:
        raise nvidia_smi_failure(host, code, err or out)
    rows = parse_nvidia_smi(out, host, min_free_share)
    absent = sorted(set(wanted) - {gpus.index for gpus in rows})
    if absent:
        found = ", ".join(str(gpus.index) for gpus in rows) or "none"
        raise ServingError(f"GPU check: {host} has no GPU {absent[0]}; nvidia-smi lists {found}. Mend vllm_gpu_ids.")
    return [gpus for gpus in rows if not wanted or gpus.index in wanted]


def parse_nvidia_smi(text: str, host: str, min_free_share: float = FREE_SHARE) -> list[Gpus]:
    """Read what ``nvidia-smi --query-gpu=NVIDIA_SMI_FIELDS --format=csv,noheader,nounits`` wrote, one row for each GPU.

    A GPU is free when *min_free_share* of its memory is, or when the driver does not tell. Raises ServingError for other text.
    """
    rows = []
    for values in csv.reader(text.splitlines(), skipinitialspace=True):
        if not values:
            continue
        if len(values) != len(NVIDIA_SMI_FIELDS) or not values[0].strip().isdigit():
            raise nvidia_smi_failure(host, 0, ", ".join(values))
        index, name, total, free, capability, mig = (value.strip() for value in values)
        gpus = Gpus(host, name, 1, 1, _whole(total), None, index=int(index), memory_free_mib=_whole(free), min_free_share=min_free_share)
        gpus.compute_capability = capability if re.fullmatch(r"\d+\.\d+", capability) else compute_capability(name)
        make_room(gpus, 0)
        if mig == "Enabled":
            gpus.mig = "enabled"
            gpus.obstacle = f"in MIG mode, so it cannot be used whole: nvidia-smi -i {index} -mig 0 ends that"
        rows.append(gpus)
    return rows


def give_back(rows: t.Sequence[Gpus], uuids: str, processes: str, pids: t.Container[int]) -> None:
    """Count as free what the processes *pids*, which will make room, hold of the memory of *rows*.

    *uuids* is what ``--query-gpu=index,uuid`` wrote, *processes* what ``--query-compute-apps=gpu_uuid,pid,used_gpu_memory`` did, both
    in MiB and without units. A driver that does not tell a process's memory (inside some containers) counts its whole GPU as free.
    """
    index_of = {words[1]: int(words[0]) for words in _words(uuids, 2) if words[0].isdecimal()}
    by_index = {gpus.index: gpus for gpus in rows}
    for uuid, pid, used in _words(processes, 3):
        gpus = by_index.get(index_of.get(uuid))
        if gpus is None or gpus.memory_mib is None or gpus.memory_free_mib is None or _whole(pid) not in pids:
            continue
        make_room(gpus, _whole(used))


def make_room(gpus: Gpus, held_mib: t.Optional[int]) -> None:
    """Count *held_mib* more of a GPU's memory as free, the whole of it where that is None."""
    if gpus.memory_mib is None or gpus.memory_free_mib is None:
        return
    gpus.memory_free_mib = min(gpus.memory_mib, gpus.memory_free_mib + (gpus.memory_mib if held_mib is None else held_mib))
    gpus.free = int(gpus.memory_free_mib >= gpus.min_free_share * gpus.memory_mib)


def parse_processes(text: str) -> list[GpuProcess]:
    """Read what ``nvidia-smi NVIDIA_SMI_PROCESSES`` wrote; anything else has no processes.

    A process that computes and draws may be listed twice with the same memory: it is one.
    """
    found: dict[tuple[int, int], GpuProcess] = {}
    gpu = -1
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _colon, value = (part.strip() for part in line.partition(" : "))
        if re.fullmatch(r"GPU [0-9A-Fa-f]+:[0-9A-Fa-f]+:[0-9A-Fa-f.]+", key):
            gpu += 1
        elif key == "Process ID":
            fields = {}
        fields[key] = value
        if key == "Used GPU Memory" and fields.get("Process ID", "").isdecimal():
            pid, graphics = int(fields["Process ID"]), fields.get("Type") == "G"
            held_mib = _whole(value[: -len(" MiB")]) if value.endswith(" MiB") else None
            before = found.get((gpu, pid))
            if before:
                graphics = graphics and before.graphics
                held_mib = max(before.memory_mib or 0, held_mib or 0) or None
            found[gpu, pid] = GpuProcess(gpu, pid, graphics, fields.get("Name", ""), held_mib)
    return list(found.values())


def process_name(process: GpuProcess, proc: Path = Path("/proc")) -> str:
    """Return what people call *process*: the program's name, without its path and arguments."""
    named = process.name.strip("[]")
    if named.lower() in ELSEWHERE:
        return UNNAMED  # whatever has this pid here is another process
    words = named.split()
    if words and named != "N/A":
        return re.split(r"[/\\]", words[0])[-1] or words[0]
    try:
        return (proc / str(process.pid) / "comm").read_text(encoding="utf-8", errors="replace").strip() or UNNAMED
    except OSError:
        return UNNAMED


def name_holders(rows: t.Iterable[Gpus], processes: t.Iterable[GpuProcess], own: t.Container[int], proc: Path = Path("/proc")) -> None:
    """Write into *rows* which of *processes* hold memory of them; those with an id in *own* do not count."""
    by_index = {gpus.index: gpus for gpus in rows}
    for process in processes:
        if process.gpu in by_index and process.pid not in own:
            name = process_name(process, proc)
            holder = Holder("process", name, pid=process.pid, gpu=process.gpu, memory_mib=process.memory_mib)
            by_index[process.gpu].holders.append(holder)


def _words(text: str, count: int) -> list[list[str]]:
    """Return the fields of each line of *text*; a line that has not *count* of them is a message, and left out."""
    lines = csv.reader(text.splitlines())
    return [[word.strip() for word in line] for line in lines if len(line) == count]


# -- judging -----------------------------------------------------------------------------------------------------------


def compute_capability(product: str) -> t.Optional[str]:
    """Return the CUDA compute capability, as ``8.0``, of a product by its name; None for one that is not in the table."""
    words = re.split(r"[-_ ]", product.upper())
    return next((COMPUTE_CAPABILITIES[word] for word in words if word in COMPUTE_CAPABILITIES), None)


def sold_gb(memory_mib: int) -> int:
    """Return the decimal GB that a card of *memory_mib* is sold by: 80 for 81920 and for 81559, the whole GB of any other size."""
    gigabytes = memory_mib * MIB / GB
    return next((size for size in SOLD_GB if size <= gigabytes <= size * SOLD_MARGIN), int(gigabytes))


def judge(rows: t.Sequence[Gpus], request: Request) -> Verdict:
    """Decide for each row whether it could serve *request*, and for how many replicas there is room."""
    reasons = [", ".join(_placement_obstacles(gpus, request) + _memory_obstacles(gpus, request)) for gpus in rows]
    count: t.Counter[str] = collections.Counter()
    free: t.Counter[str] = collections.Counter()
    for gpus, reason in zip(rows, reasons):
        if not reason:
            count[gpus.node] += gpus.count
            free[gpus.node] += gpus.free
    for at, gpus in enumerate(rows):
        if not reasons[at] and count[gpus.node] < request.gpus_per_node:
            reasons[at] = f"{count[gpus.node]} of the {request.gpus_per_node} GPUs that are needed on one node"
    return Verdict(
        reasons=reasons,
        fits=[node for node, number in free.items() if number >= request.gpus_per_node],
        possible=sum(number // request.gpus_per_node for number in free.values()),
        possible_when_idle=sum(number // request.gpus_per_node for number in count.values()),
        together=max(free.values(), default=0),
    )


def largest_min_gb(rows: t.Sequence[Gpus], request: Request) -> t.Optional[int]:
    """Return the largest minimum, out of the sizes that the cards found are sold by, with which *request* fits; None when none does."""
    sizes = {sold_gb(gpus.memory_mib) for gpus in rows if gpus.memory_mib}
    return next((size for size in sorted(sizes, reverse=True) if size and _passes(rows, request, size)), None)


def check(rows: t.Sequence[Gpus], request: Request, place: Place) -> dict[str, t.Any]:
    """Return the result of the module; raise ServingError, with the same keys as details, when *request* does not fit."""
    verdict = judge(rows, request)
    reports = [_report(gpus, reason) for gpus, reason in zip(rows, verdict.reasons)]
    largest = largest_min_gb(rows, request)
    named = [gpus for gpus, reason in zip(rows, verdict.reasons) if not reason or _is_shared(gpus)]
    holders = largest_first(holder for gpus in named for holder in gpus.holders)
    result: dict[str, t.Any] = {
        "gpus": reports,
        "eligible": [report for report in reports if report["usable"]],
        "fits": verdict.fits,
        "replicas_possible": verdict.possible,
        "largest_min_gb": largest,
        "holders": [holder.report() for holder in holders[:MOST_HOLDERS]],
        "holders_total": len(holders),
    }
    if verdict.possible >= request.replicas:
        fitting = set(verdict.fits)
        there = [gpus for gpus, report in zip(rows, reports) if report["usable"] and gpus.node in fitting]
        result["summary"] = f"GPU check: {request}: room for {_plural(verdict.possible, 'replica')}: {inventory(there, request)}"
        beside = [holder for gpus in there if gpus.sharing != "none" for holder in gpus.holders]
        if beside:
            result["summary"] += f"; on the same cards: {held_by(beside)}"
        return result
    was = "were" if request.gpus_per_node > 1 or request.replicas > 1 else "was"
    result["summary"] = f"GPU check: {request} {was} asked for; {_finding(rows, request, verdict, place, largest)}"
    raise ServingError(result["summary"], **result)


def inventory(rows: t.Sequence[Gpus], request: Request) -> str:
    """Return the rows in words, largest memory first, identical nodes together: ``gpu-a and gpu-b each 2 x NVIDIA-L4 (24 GB, 2 free)``."""
    merged: dict[tuple[t.Any, ...], list[int]] = {}
    for gpus in rows:
        held = merged.setdefault((gpus.node, gpus.product, gpus.memory_mib, *_placement_obstacles(gpus, request)), [0, 0])
        held[0] += gpus.count
        held[1] += gpus.free
    kinds: dict[tuple[t.Any, ...], list[str]] = {}
    for (node, product, memory_mib, *obstacles), (count, free) in merged.items():
        kinds.setdefault((-(memory_mib or 0), -free, product, count, *obstacles), []).append(node)
    ordered = sorted(kinds.items())
    phrases = [_phrase(nodes, *kind) for kind, nodes in ordered[:MOST_KINDS]]
    if len(ordered) > MOST_KINDS:
        others = {node for _kind, nodes in ordered[MOST_KINDS:] for node in nodes}
        phrases.append(f"and others on {_plural(len(others), 'node')}")
    return "; ".join(phrases)


def _phrase(nodes: list[str], memory: int, free: int, product: str, count: int, *obstacles: str) -> str:
    size = f"{sold_gb(-memory)} GB" if memory else "memory unknown"
    use = [f"{-free} free" if free else "in use"] if count else []
    each = " each" if len(nodes) > 1 else ""
    return f"{_names(nodes)}{each} {count} x {product} ({', '.join([size, *use, *obstacles])})"


def _finding(rows: t.Sequence[Gpus], request: Request, verdict: Verdict, place: Place, largest: t.Optional[int]) -> str:
    """Return what was found instead, and what to do."""
    if not rows:
        return place.absent
    room = f"there is room for {verdict.possible}; " if verdict.possible else ""
    nodes = _plural(len({gpus.node for gpus in rows}), "node")
    found = f"{room}found {sum(gpus.count for gpus in rows)} on {nodes}: {inventory(rows, request)}."
    advice = []
    beside = [holder for gpus in rows if _is_shared(gpus) for holder in gpus.holders]
    if verdict.possible_when_idle >= request.replicas:
        holders = [holder for gpus, reason in zip(rows, verdict.reasons) if not reason for holder in gpus.holders]
        advice.append(place.held.format(holders=held_by(holders)) if holders else place.busy)
    elif 0 < verdict.together < request.gpus_per_node:
        advice.append(f"No usable node has more than {verdict.together} of them free.")
    elif beside:
        advice.append(f"Cards that are shared are in use by {held_by(beside)}.")
    if request.min_memory_gb and any(gpus.memory_mib is None and gpus.count and not _placement_obstacles(gpus, request) for gpus in rows):
        advice.append(place.unknown)
    if largest is not None:
        advice.append(f"llm_min_gpu_memory_gb: {largest} would pass.")
    elif request.min_memory_gb and _passes(rows, request, 0):
        advice.append("llm_min_gpu_memory_gb: 0 would pass; it does not look at memory.")
    return " ".join([found, *advice])


def largest_first(holders: t.Iterable[Holder]) -> list[Holder]:
    """Return *holders*, those first that hold most."""
    return sorted(holders, key=lambda holder: (-(holder.gpus or holder.memory_mib or 0), holder.node or "", holder.title, holder.pid or 0))


def held_by(holders: t.Iterable[Holder], most: int = MOST_NAMED) -> str:
    """Return the largest *most* of *holders* in words: ``ml/train-0 (4) and ml/train-1 (2) on gpu-a and 7 more``."""
    ordered = largest_first(holders)
    places: dict[t.Optional[str], list[str]] = {}
    for holder in ordered[:most]:
        places.setdefault(holder.node, []).append(f"{holder.title} ({holder.gpus})" if holder.node else holder.text)
    phrases = places.pop(None, [])
    phrases += [f"{_listed(names)} on {node}" for node, names in places.items()]
    return _listed([*phrases, f"{len(ordered) - most} more"] if len(ordered) > most else phrases)


def _is_shared(gpus: Gpus) -> bool:
    """Whether pods may be placed beside others on the same cards."""
    return gpus.sharing != "none" and not gpus.obstacle


def _passes(rows: t.Sequence[Gpus], request: Request, min_memory_gb: int) -> bool:
    return judge(rows, dataclasses.replace(request, min_memory_gb=min_memory_gb)).possible >= request.replicas


def _placement_obstacles(gpus: Gpus, request: Request) -> list[str]:
    """Return why the GPUs cannot be used, however much memory they have."""
    found = [gpus.obstacle] if gpus.obstacle else []
    by = f"each card shared by {gpus.shared_by} ({gpus.sharing})" if gpus.shared_by else f"cards shared ({gpus.sharing})"
    if gpus.sharing != "none" and request.gpus_per_node > 1:
        found.append(f"{by}, two may be the same card")
    elif gpus.sharing == "time-slicing" and request.min_memory_gb:
        found.append(f"{by}, no memory of its own")
    if gpus.mig and gpus.mig != "enabled" and request.gpus_per_node > 1:
        found.append("MIG slices cannot work together")
    return found


def _memory_obstacles(gpus: Gpus, request: Request) -> list[str]:
    if not request.min_memory_gb:
        return []
    if gpus.memory_mib is None:
        return ["memory unknown"]
    return [f"less than {request.min_memory_gb:g} GB"] if gpus.memory_mib * MIB < request.min_memory_gb * GB else []


def _report(gpus: Gpus, reason: str) -> dict[str, t.Any]:
    report: dict[str, t.Any] = {
        "node": gpus.node,
        "product": gpus.product,
        "memory_mib": gpus.memory_mib,
        "memory_gb": None if gpus.memory_mib is None else round(gpus.memory_mib * MIB / GB, 1),
        "compute_capability": gpus.compute_capability,
        "count": gpus.count,
        "free": gpus.free,
        "sharing": gpus.sharing,
        "mig": gpus.mig,
        "usable": not reason,
        "reason": reason,
    }
    if gpus.index is not None:
        report.update(index=gpus.index, memory_free_mib=gpus.memory_free_mib)
    return report


def _names(names: t.Sequence[str]) -> str:
    if len(names) > 3:
        return f"{names[0]}, {names[1]} and {len(names) - 2} more"
    return _listed(names)


def _listed(words: t.Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _plural(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _integer(text: t.Any) -> t.Optional[int]:
    return int(text) if re.fullmatch(r"[-+]?[0-9]+", str(text)) else None


def _whole(text: t.Optional[str]) -> t.Optional[int]:
    return int(text) if text is not None and text.isdecimal() else None
