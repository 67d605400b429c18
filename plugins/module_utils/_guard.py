# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""One GPU runtime at a time: who else holds GPU memory, by name, and what to do about it.

Beside a vLLM engine Ollama fails with ``cudaMalloc failed: out of memory``, and vLLM does not start beside a loaded model of Ollama.
Partner: plugins/modules/gpu_runtime_guard.py, which asks and stops.
Ollama's reply: https://docs.ollama.com/api/ps
"""

from __future__ import annotations

import itertools
import json
import typing as t
from http.client import HTTPException
from pathlib import Path

from ansible.module_utils.urls import ConnectionError as UrlsConnectionError
from ansible.module_utils.urls import Request as UrlsRequest
from ansible_collections.llmops.serving.plugins.module_utils import _processes
from ansible_collections.llmops.serving.plugins.module_utils._apply import Owner, is_dying
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import (
    FREE_SHARE,
    MIB,
    RESOURCES,
    UNNAMED,
    GpuProcess,
    Gpus,
    Holder,
    held_by,
    largest_first,
    make_room,
    node_obstacle,
    pod_requests,
    process_name,
)

if t.TYPE_CHECKING:
    from ansible_collections.llmops.serving.plugins.module_utils._kube import Object

VLLM, OLLAMA = "vllm", "ollama"
TITLES = {VLLM: "vLLM", OLLAMA: "Ollama"}
OTHER = {VLLM: OLLAMA, OLLAMA: VLLM}

OLLAMA_URL = "http://127.0.0.1:11434"
OLLAMA_TIMEOUT_S = 3.0
MOST_BYTES = 2**20
# How far above a process to look for the engine that has started it.
GENERATIONS = 3
MOST_GROUPS = 6

BUDGET = "To let both run, budget memory for each: gpu_memory_utilization in vLLM's row, and guard_min_free_share here."


# -- a host ------------------------------------------------------------------------------------------------------------


def loaded_models(url: str, timeout_s: float = OLLAMA_TIMEOUT_S) -> list[Holder]:
    """Return the models that the Ollama at *url* has in GPU memory; none where no Ollama answers."""
    if not url.startswith(("http://", "https://")):
        raise ServingError(f'ollama_url: "{url}" cannot be asked: it has to be like {OLLAMA_URL}.')
    try:
        options = {"timeout": timeout_s, "use_proxy": False, "use_netrc": False, "http_agent": "llmops.serving"}
        with UrlsRequest().open("GET", f"{url.rstrip('/')}/api/ps", **options) as response:
            document = json.loads(response.read(MOST_BYTES))
    except (OSError, HTTPException, UrlsConnectionError, ValueError):
        return []
    return parse_models(document)


def parse_models(document: t.Any) -> list[Holder]:
    """Return the models of Ollama's reply to ``GET /api/ps`` that have memory of a GPU; ``size_vram`` is in bytes, 0 on a CPU."""
    models = document.get("models") if isinstance(document, dict) else None
    found = []
    for model in models if isinstance(models, list) else []:
        name, size = (model.get("name") or model.get("model"), model.get("size_vram")) if isinstance(model, dict) else (None, None)
        if name and isinstance(size, int) and size > 0:
            remedy = f"ollama stop {name}, or OLLAMA_KEEP_ALIVE=0, or systemctl stop ollama"
            held_mib = max(1, round(size / MIB))
            found.append(Holder("ollama_model", str(name), memory_mib=held_mib, expires_at=model.get("expires_at"), remedy=remedy))
    return found


def runtime_of(process: GpuProcess, proc: Path = Path("/proc")) -> str:
    """Return what *process* belongs to: VLLM, OLLAMA, or an empty string."""
    lines = [process.name]
    if process_name(process, proc) != UNNAMED:
        for pid in (process.pid, *itertools.islice(_processes.ancestors(process.pid, proc), GENERATIONS)):
            lines.append(_command_line(pid, proc))
    if any(map(_is_vllm, lines)):
        return VLLM
    return OLLAMA if any(map(_is_ollama, lines)) else ""


def _command_line(pid: int, proc: Path) -> str:
    try:
        return (proc / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _is_vllm(line: str) -> bool:
    """Whether *line* is the title of an engine's process, or a command line that starts vLLM: by its script, or by its module."""
    words = line.split()
    module = words[words.index("-m") + 1] if "-m" in words[:-1] else ""
    return line.startswith("VLLM::") or module.split(".")[0] == "vllm" or any(word.rpartition("/")[2] == "vllm" for word in words[:2])


def _is_ollama(line: str) -> bool:
    """Whether the program of *line* is Ollama, or one that lies in a folder of Ollama's, as its older runners do."""
    return any(part.startswith("ollama") for part in line.partition(" ")[0].split("/"))


def wanted_gpus(rows: t.Sequence[Gpus], count: int) -> list[Gpus]:
    """Return the GPUs that CUDA takes when *count* are wanted: the first ones where all are of one kind. Otherwise it may be any."""
    alike = len({(gpus.product, gpus.memory_mib) for gpus in rows}) == 1
    return list(rows[:count]) if count and alike else list(rows)


def judge_host(
    rows: t.Sequence[Gpus],
    processes: t.Iterable[GpuProcess],
    models: t.Sequence[Holder],
    own: t.Container[int],
    runtime: str,
    min_free_share: float,
    proc: Path = Path("/proc"),
    own_end: bool = False,
) -> dict[str, t.Any]:
    """Return what the module returns; raise ServingError, with the same, when *runtime* must not start now.

    *rows* are the GPUs that it will use, *models* what Ollama has loaded. The processes *own* end before vLLM starts. Where Ollama starts,
    they do with *own_end* only: a vLLM engine of ours is in its way like any other.
    """
    by_index = {gpus.index: gpus for gpus in rows}
    kinds = [(process, runtime_of(process, proc)) for process in processes]
    ollamas = [process for process, kind in kinds if kind == OLLAMA]
    if ollamas and not any(process.gpu in by_index and process.pid not in own for process in ollamas):
        models = []  # they are on other GPUs, or of an Ollama of ours, which ends
    holders, rivals = list(models), list(models)
    for process, kind in kinds:
        if process.gpu not in by_index:
            continue
        if kind == OLLAMA == runtime or ((runtime == VLLM or own_end) and process.pid in own):
            make_room(by_index[process.gpu], process.memory_mib)
        elif not (kind == OLLAMA and models):  # its models are named already
            name = process_name(process, proc)
            remedy = _remedy(process, kind, name, process.pid in own)
            name += f" of {TITLES[kind]}" if kind and kind not in name.lower() else ""
            holder = Holder("process", name, pid=process.pid, gpu=process.gpu, memory_mib=process.memory_mib, remedy=remedy)
            holders.append(holder)
            rivals += [holder] if kind else []
    holders = largest_first(holders)
    refusal = _refusal(rows, rivals, runtime, min_free_share)
    result: dict[str, t.Any] = {"holders": [holder.report() for holder in holders], "stopped": [], "changed": False}
    if refusal:
        told = f"Held by {_remedies(holders)}." if holders else f"It is held by {UNNAMED}: look outside of this container, or in Windows."
        result["summary"] = " ".join([f"GPU guard: {refusal}", told, *([BUDGET] if rivals else [])])
        raise ServingError(result["summary"], **result)
    title = f"GPU {rows[0].index}" if len(rows) == 1 else f"the {len(rows)} GPUs"
    result["summary"] = f"nothing else holds {title}"
    if holders:
        known = [gpus for gpus in rows if _free_share(gpus) is not None]
        free = " and ".join(map(_share_text, known)) or f"the driver does not tell how much of {title} is free"
        result["summary"] = f"{free}, beside {held_by(holders)}"
        result["warnings"] = [f"Something else holds memory of {title}: {_remedies(holders)}."]
    return result


def _refusal(rows: t.Sequence[Gpus], rivals: t.Sequence[Holder], runtime: str, min_free_share: float) -> str:
    """Return why *runtime* must not start, empty where it may. A share below FREE_SHARE is a budget: others may hold the rest."""
    budgeted = min_free_share < FREE_SHARE
    short = [gpus for gpus in rows if (_free_share(gpus) or 0) < min_free_share and _free_share(gpus) is not None]
    if runtime == OLLAMA and rivals and not budgeted:
        return "a vLLM engine has the GPU, beside which Ollama runs out of memory. End it first."
    if short and (runtime == VLLM or budgeted):
        return f"{TITLES[runtime]} wants {min_free_share:.0%} of the memory; {' and '.join(map(_share_text, short))}."
    if rivals and not budgeted and any(_free_share(gpus) is None for gpus in rows):
        return f"{TITLES[runtime]} wants the GPU for itself, whose driver does not tell how much memory is free."
    return ""


def _free_share(gpus: Gpus) -> t.Optional[float]:
    return None if gpus.memory_free_mib is None or not gpus.memory_mib else gpus.memory_free_mib / gpus.memory_mib


def _share_text(gpus: Gpus) -> str:
    return f"GPU {gpus.index} has {int(100 * (_free_share(gpus) or 0))}% free ({gpus.memory_free_mib:,} of {gpus.memory_mib:,} MiB)"


def _remedy(process: GpuProcess, kind: str, name: str, own: bool) -> str:
    if kind == VLLM:
        return "make uninstall-chat" if own else f"make uninstall-chat if it is this chat's, else kill {process.pid} or stop its container"
    if kind == OLLAMA:
        return "ollama ps names its models: ollama stop MODEL, or OLLAMA_KEEP_ALIVE=0, or systemctl stop ollama"
    if name == UNNAMED:
        return "it is of another container, or of Windows: end it there"
    if process.graphics:
        return "end the desktop session, or use another GPU (vllm_gpu_ids)"
    return f"kill {process.pid}, or wait until it has ended"


def _remedies(holders: t.Sequence[Holder]) -> str:
    """Return the holders in words, each with its remedy, those together that have the same one."""
    groups: dict[str, list[Holder]] = {}
    for holder in holders:
        groups.setdefault(holder.remedy, []).append(holder)
    phrases = [f"{held_by(group)}: {remedy}" for remedy, group in groups.items()]
    more = len(phrases) - MOST_GROUPS
    return "; ".join(phrases[:MOST_GROUPS] + ([f"and {more} more, see nvidia-smi"] if more > 0 else []))


# -- a cluster ---------------------------------------------------------------------------------------------------------


def rival_selector(runtime: str, instance: str) -> str:
    """Return the label selector of the Deployments of ours that hold GPUs for the other runtime."""
    selector = Owner(instance, OTHER[runtime]).selector
    return f"app=vllm-backend,{selector}" if OTHER[runtime] == VLLM else selector


def wanted_replicas(deployment: Object) -> int:
    """Return how many pods *deployment* asks for."""
    return int((deployment.get("spec") or {}).get("replicas", 1))


def is_idle(deployment: Object) -> bool:
    """Whether the cluster has taken up what *deployment* says, and has told all of its pods to end."""
    status = deployment.get("status") or {}
    return status.get("observedGeneration", 0) >= deployment["metadata"].get("generation", 0) and not status.get("replicas")


def cluster_holders(namespace: str, deployment: Object, pods: t.Sequence[Object]) -> list[Holder]:
    """Return *deployment* and its *pods* as holders."""
    name = deployment["metadata"]["name"]
    remedy = f"kubectl -n {namespace} scale deployment/{name} --replicas=0"
    gpus = [_gpus(pod["spec"]) for pod in pods]
    found = [Holder("deployment", name, namespace, gpus=sum(gpus), remedy=remedy)]
    for pod, number in zip(pods, gpus):
        found.append(Holder("pod", pod["metadata"]["name"], namespace, pod["spec"].get("nodeName"), number, remedy=remedy))
    return found


def _gpus(pod_spec: Object) -> int:
    return sum(sum(pod_requests(pod_spec, asked).values()) for asked in RESOURCES.values())


def why_it_stays(namespace: str, pod: Object, node: t.Optional[Object]) -> str:
    """Return why *pod* of a Deployment without replicas is still there, and what to do. *node* is None where it is not known."""
    metadata, name = pod["metadata"], pod["metadata"]["name"]
    if not is_dying(pod):
        return f"nobody has told it to end: the cluster's controllers lag behind. Look: kubectl -n {namespace} describe pod {name}"
    at = pod["spec"].get("nodeName")
    if node is not None and node_obstacle(node, [{"operator": "Exists"}]) == "not ready":
        return (
            f"its node {at} is not ready and does not confirm that it has ended. Mend the node; if that is switched off for good: "
            f"kubectl -n {namespace} delete pod {name} --grace-period=0 --force"
        )
    if metadata.get("finalizers"):
        return f"the finalizer {', '.join(metadata['finalizers'])} holds it. Let what has set that remove it, then run again"
    grace_s = metadata.get("deletionGracePeriodSeconds") or 0
    return f"it is terminating on {at}; it may take until {metadata['deletionTimestamp']} (grace period {grace_s} s). Run again later"
