#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module llmops.serving.gpu_memory_check."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_memory_check
short_description: Check that enough GPUs with enough memory are there
version_added: "0.1.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - Passes when the GPUs that each replica needs are free together on one node, and have at least the memory that is asked for.
  - Returns every group of GPUs found. A failure says what was found and which minimum would pass.
  - On Kubernetes a GPU is free when the node offers it and no pod holds it. Pods that are bound to a node and not finished hold theirs.
    Nodes that are not ready, cordoned, or tainted in a way that O(tolerations) does not cover are found, but not usable.
  - GPUs that a cluster offers through dynamic resource allocation (DRA) only are not counted.
options:
  source:
    description:
      - V(kubernetes) reads the nodes and pods of a cluster.
      - V(host) runs C(nvidia-smi) where the module runs. A GPU there is free when O(min_free_share) of its memory is,
        or when the driver does not tell.
    type: str
    choices: [kubernetes, host]
    default: kubernetes
  min_memory_gb:
    description:
      - Memory that each GPU must have, in decimal GB as cards are sold.
        V(80) is met by an A100 (81920 MiB) and by an H100 (81559 MiB).
      - V(0) does not look at memory, which then may be unknown or shared with other pods. GPUs are counted all the same.
      - A GPU that is shared by time-slicing has no memory of its own and meets no minimum but V(0). One shared by MPS has its part.
    type: float
    required: true
  gpus_per_node:
    description:
      - GPUs that one replica needs on one node.
      - Shared GPUs and MIG slices are not usable where this is more than V(1).
    type: int
    default: 1
  replicas:
    description: Replicas there must be room for.
    type: int
    default: 1
  accelerator:
    description: Whose GPUs are asked for. V(amd) needs O(source=kubernetes).
    type: str
    choices: [nvidia, amd]
    default: nvidia
  tolerations:
    description: Tolerations that the pods will have, as in a pod's C(spec.tolerations). Used with O(source=kubernetes).
    type: list
    elements: dict
    default: []
  node_selector:
    description: Labels that a node has to have to be looked at, as the pods' C(spec.nodeSelector). Used with O(source=kubernetes).
    type: dict
    default: {}
  replaced_pods:
    description:
      - Pods that will make room, such as those of the Deployment that is about to be replaced. Their GPUs count as free.
      - Used with O(source=kubernetes).
    type: dict
    suboptions:
      namespace:
        description: Namespace of the pods.
        type: str
        required: true
      label_selector:
        description: Label selector of the pods.
        type: str
        required: true
  gpu_ids:
    description: Indices, as in C(nvidia-smi), of the GPUs to look at. Without it, all. Used with O(source=host).
    type: list
    elements: int
    default: []
    version_added: "0.2.0"
  min_free_share:
    description:
      - Which share of a GPU's memory has to be free. The default is what vLLM takes; a smaller one lets others hold the rest.
      - Used with O(source=host).
    type: float
    default: 0.92
    version_added: "0.2.0"
  replaced_state_dir:
    description:
      - Folder of a deployment on this host whose processes will make room. What they hold of a GPU counts as free.
      - Used with O(source=host).
    type: path
    version_added: "0.2.0"
extends_documentation_fragment: [llmops.serving.read_only, llmops.serving.kubernetes]
"""

EXAMPLES = r"""
- name: One GPU of 80 GB for each of two replicas
  llmops.serving.gpu_memory_check:
    min_memory_gb: 80
    replicas: 2
    tolerations:
      - key: nvidia.com/gpu
        operator: Exists
    replaced_pods:
      namespace: chatbot
      label_selector: app=vllm-backend
  register: gpu_check

- name: Two GPUs of 24 GB on this host
  llmops.serving.gpu_memory_check:
    source: host
    min_memory_gb: 24
    gpus_per_node: 2
"""

RETURN = r"""
gpus:
  description: Every group of like GPUs that a node offers. On a host each GPU is a group of its own.
  returned: always, also on failure once the GPUs could be read
  type: list
  elements: dict
  sample:
    - node: gpu-a
      product: NVIDIA-A100-SXM4-80GB
      memory_mib: 81920
      memory_gb: 85.9
      compute_capability: "8.0"
      count: 4
      free: 3
      sharing: none
      mig:
      usable: true
      reason: ""
  contains:
    node:
      description: Name of the node or host.
      returned: always
      type: str
      sample: gpu-a
    product:
      description: Name of the product. The name of the resource where the node has no label for it.
      returned: always
      type: str
      sample: NVIDIA-A100-SXM4-80GB
    memory_mib:
      description: Memory of one unit (a card, a MIG slice, the part of a card that MPS grants) in MiB. Null where it is unknown.
      returned: always
      type: int
      sample: 81920
    memory_gb:
      description: The same in decimal GB, rounded to one digit.
      returned: always
      type: float
      sample: 85.9
    compute_capability:
      description: CUDA compute capability, from labels, the driver or the name of the product. Null where it is unknown.
      returned: always
      type: str
      sample: "8.0"
    count:
      description: Units offered.
      returned: always
      type: int
      sample: 4
    free:
      description: Units that nothing holds.
      returned: always
      type: int
      sample: 3
    sharing:
      description: How a card is shared by pods, V(none), V(time-slicing) or V(mps).
      returned: always
      type: str
      sample: none
    mig:
      description: Profile of the MIG slices. V(enabled) for a card of a host that is in MIG mode. Null for whole cards.
      returned: always
      type: str
      sample: 1g.10gb
    usable:
      description: Whether these GPUs could serve what was asked for, if they were free.
      returned: always
      type: bool
      sample: true
    reason:
      description: Why they are not usable.
      returned: always
      type: str
      sample: cordoned, less than 80 GB
    index:
      description: Index of the GPU as in C(nvidia-smi).
      returned: with O(source=host)
      type: int
      sample: 0
    memory_free_mib:
      description: Memory in MiB that no process holds. Null where it is unknown.
      returned: with O(source=host)
      type: int
      sample: 81040
eligible:
  description: Those of RV(gpus) that are usable, whether free or not.
  returned: always, also on failure once the GPUs could be read
  type: list
  elements: dict
  sample:
    - node: gpu-a
      product: NVIDIA-A100-SXM4-80GB
      memory_mib: 81920
      memory_gb: 85.9
      compute_capability: "8.0"
      count: 4
      free: 3
      sharing: none
      mig:
      usable: true
      reason: ""
fits:
  description: Nodes that have the GPUs of at least one replica free now.
  returned: always, also on failure once the GPUs could be read
  type: list
  elements: str
  sample: [gpu-a]
replicas_possible:
  description: Replicas there is room for now.
  returned: always, also on failure once the GPUs could be read
  type: int
  sample: 3
largest_min_gb:
  description:
    - Largest O(min_memory_gb) that passes with all else the same, out of the sizes that the cards found are sold by. Null where none does.
    - A card counts as the known size (such as 24, 40, 80, 141) that its memory exceeds by at most 7.5 %, the room between GB and GiB.
      Any other memory counts as its whole decimal GB.
  returned: always, also on failure once the GPUs could be read
  type: int
  sample: 80
holders:
  description:
    - Who holds GPUs that could serve, those first that hold most, at most 20. Pods and processes that make room are not among them.
    - On Kubernetes, pods on RV(eligible) nodes, and on nodes whose cards are shared by pods.
    - On a host, processes of the GPUs looked at; they are only listed where one of these GPUs is not free.
  returned: always, also on failure once the GPUs could be read
  type: list
  elements: dict
  version_added: "0.2.0"
  sample:
    - {kind: pod, name: train-0, namespace: ml, node: gpu-a, gpus: 1, text: ml/train-0 (1 GPU of gpu-a)}
  contains:
    kind:
      description: V(pod) or V(process).
      returned: always
      type: str
      sample: pod
    name:
      description: Name of the pod or of the program.
      returned: always
      type: str
      sample: train-0
    namespace:
      description: Namespace of the pod.
      returned: for a pod
      type: str
      sample: ml
    node:
      description: Node of the pod.
      returned: for a pod
      type: str
      sample: gpu-a
    gpus:
      description: GPUs that the pod holds.
      returned: for a pod
      type: int
      sample: 1
    pid:
      description: Process id, as C(nvidia-smi) tells it.
      returned: for a process
      type: int
      sample: 4242
    gpu:
      description: Index of the GPU.
      returned: for a process
      type: int
      sample: 0
    memory_mib:
      description: Memory of that GPU that the process holds, in MiB.
      returned: for a process, where the driver tells it
      type: int
      sample: 17000
    text:
      description: All of this in words.
      returned: always
      type: str
      sample: ml/train-0 (1 GPU of gpu-a)
holders_total:
  description: How many there are, also where RV(holders) names only the largest.
  returned: always, also on failure once the GPUs could be read
  type: int
  version_added: "0.2.0"
  sample: 1
replaced_apps:
  description: Values of the label C(app) of the pods of O(replaced_pods) that hold GPUs now, or are bound to a node.
  returned: success, with O(source=kubernetes)
  type: list
  elements: str
  version_added: "0.2.0"
  sample: [vllm-backend]
summary:
  description: The verdict in one line.
  returned: always, also on failure once the GPUs could be read
  type: str
  sample: >-
    GPU check: 1 GPU of at least 80 GB on one node: room for 3 replicas: gpu-a 4 x NVIDIA-A100-SXM4-80GB (80 GB, 3 free)
"""

import platform
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _processes
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import (
    FREE_SHARE,
    NVIDIA_SMI_CSV,
    NVIDIA_SMI_PROCESSES,
    WSL_FOLDER,
    Gpus,
    Request,
    check,
    cluster_gpus,
    cluster_place,
    give_back,
    host_gpus,
    host_place,
    name_holders,
    parse_processes,
    pods_that_make_room,
)
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube


def run(module: AnsibleModule) -> dict[str, t.Any]:
    """Read the GPUs and return the verdict. Raises ServingError when they are not enough or cannot be read."""
    params = module.params
    for option, least in (("min_memory_gb", 0), ("gpus_per_node", 1), ("replicas", 1)):
        if params[option] < least:
            raise ServingError(f"{option} is {params[option]:g}; it must be {least} or more.")
    request = Request(params["min_memory_gb"], params["gpus_per_node"], params["replicas"])
    if params["source"] == "kubernetes":
        kube = Kube.connect(params["kubeconfig"], params["context"])
        replaced: dict[str, str] = {}

        def making_room() -> dict[str, str]:
            replaced.update(pods_that_make_room(kube, **params["replaced_pods"]) if params["replaced_pods"] else {})
            return replaced

        gpus = cluster_gpus(kube, params["accelerator"], params["tolerations"], making_room, params["node_selector"])
        return {**check(gpus, request, cluster_place(params["accelerator"])), "replaced_apps": sorted(set(replaced.values()))}
    if params["accelerator"] != "nvidia":
        raise ServingError("source is host and accelerator is amd; on a host only NVIDIA GPUs can be read. Set llm_min_gpu_memory_gb: 0.")
    if not 0 <= params["min_free_share"] <= 1:
        raise ServingError(f"min_free_share is {params['min_free_share']:g}; it is a share, from 0 to 1.")
    host = platform.node()
    return check(read_host(module, host), request, host_place(host, params["min_free_share"]))


def read_host(module: AnsibleModule, host: str) -> list[Gpus]:
    """Return the GPUs that ``nvidia-smi`` lists. Raises ServingError when it is missing or does not work."""
    binary = module.get_bin_path("nvidia-smi", opt_dirs=[WSL_FOLDER])
    if not binary:
        raise ServingError(f"GPU check: {host} has no nvidia-smi, the NVIDIA driver's tool. Install the driver, or choose a CPU setup.")

    def ask(*arguments: str) -> tuple[int, str, str]:
        code, out, err = module.run_command([binary, *arguments], environ_update={"LC_ALL": "C"})
        return code, out, err

    rows = host_gpus(ask, host, module.params["gpu_ids"], module.params["min_free_share"])
    state_dir = module.params["replaced_state_dir"]
    pids = {process.pid for process in _processes.belonging(state_dir)} if state_dir else set()
    if pids:
        queries = ("--query-gpu=index,uuid", "--query-compute-apps=gpu_uuid,pid,used_gpu_memory")
        uuids, processes = (ask(query, NVIDIA_SMI_CSV)[1] for query in queries)
        give_back(rows, uuids, processes, pids)
    if not all(gpus.free for gpus in rows):
        name_holders(rows, parse_processes(ask(*NVIDIA_SMI_PROCESSES)[1]), pids)
    return rows


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "choices": ["kubernetes", "host"], "default": "kubernetes"},
            "min_memory_gb": {"type": "float", "required": True},
            "gpus_per_node": {"type": "int", "default": 1},
            "replicas": {"type": "int", "default": 1},
            "accelerator": {"type": "str", "choices": ["nvidia", "amd"], "default": "nvidia"},
            "tolerations": {"type": "list", "elements": "dict", "default": []},
            "node_selector": {"type": "dict", "default": {}},
            "replaced_pods": {
                "type": "dict",
                "options": {"namespace": {"type": "str", "required": True}, "label_selector": {"type": "str", "required": True}},
            },
            "gpu_ids": {"type": "list", "elements": "int", "default": []},
            "min_free_share": {"type": "float", "default": FREE_SHARE},
            "replaced_state_dir": {"type": "path"},
            **KUBERNETES_ARGS,
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **run(module))
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)


if __name__ == "__main__":
    main()
