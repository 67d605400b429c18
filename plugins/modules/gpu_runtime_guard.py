#!/usr/bin/python
# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find what else holds the GPUs before a runtime starts on them, and stop the other backend of ours."""

from __future__ import annotations

DOCUMENTATION = r"""
module: gpu_runtime_guard
short_description: One GPU runtime at a time
version_added: "0.2.0"
author: ["The llmops.serving authors (@llmops)"]
description:
  - "Says by name what else holds GPU memory before vLLM or Ollama starts, and what to do about it. Beside a vLLM engine, Ollama fails with
    C(cudaMalloc failed: out of memory), and vLLM does not start while a model of Ollama fills the GPU."
  - On a host it reads the processes that C(nvidia-smi) lists, those of the desktop too, and the models that Ollama has loaded. It fails
    where too little memory is free, and changes nothing.
  - On Kubernetes it finds the Deployments of this collection that hold GPUs for the other backend, and stops them with O(stop=true). Their
    volumes stay, and the next install of that backend starts them again. What does not carry the labels of this collection is never
    touched; M(llmops.serving.gpu_memory_check) names pods of others.
extends_documentation_fragment: [llmops.serving.kubernetes, llmops.serving.progress]
attributes:
  check_mode:
    support: full
    description: Says what would be stopped, after the cluster has agreed to it in a dry run.
  diff_mode:
    support: none
    description: RV(stopped) says all that is changed.
  idempotent:
    support: full
    description: What is stopped already is not changed.
options:
  source:
    description:
      - V(kubernetes) looks for the other backend in a namespace.
      - V(host) looks at the GPUs of the machine where the module runs. Where that has none, it passes and says so.
    type: str
    choices: [kubernetes, host]
    default: kubernetes
  runtime:
    description:
      - Who is about to start.
      - V(vllm) fails on a host when less than O(min_free_share) of the memory of a GPU is free.
      - V(ollama) fails on a host when a vLLM engine holds memory of a GPU, also one of ours.
    type: str
    choices: [vllm, ollama]
    default: vllm
  gpu_ids:
    description: Indices, as in C(nvidia-smi), of the GPUs that will be used. Without it, all. Used with O(source=host).
    type: list
    elements: int
    default: []
  gpu_count:
    description:
      - How many GPUs will be used, where O(gpu_ids) does not name them. Those are the first ones where all are of one kind, and otherwise
        they cannot be known, so that all are looked at. V(0) is all.
      - Used with O(source=host).
    type: int
    default: 0
  state_dir:
    description:
      - Folder of a deployment on this host. What its processes hold counts as free with O(runtime=vllm), since they are replaced.
      - Used with O(source=host).
    type: path
  own_end:
    description: What the processes of O(state_dir) hold counts as free with O(runtime=ollama), too, since they are to be ended first.
    type: bool
    default: false
    version_added: "0.3.0"
  min_free_share:
    description:
      - Which share of each GPU's memory has to be free. The default is what vLLM takes.
      - A smaller one is a budget - what holds the rest is then named in a warning, and both may run.
      - Used with O(source=host).
    type: float
    default: 0.92
  ollama_url:
    description:
      - Where an Ollama of this host is asked for its models. One that does not answer there holds nothing.
      - Used with O(source=host) and O(runtime=vllm).
    type: str
    default: http://127.0.0.1:11434
  namespace:
    description: Namespace of the stack. Needed with O(source=kubernetes).
    type: str
  instance:
    description: The stack, the label C(app.kubernetes.io/instance) of its objects. Used with O(source=kubernetes).
    type: str
    default: chat
  stop:
    description:
      - Scale the Deployments of the other backend to 0, and wait until their pods are gone. Their GPUs are free then.
      - V(false) only says which there are.
      - Used with O(source=kubernetes).
    type: bool
    default: false
  wait_timeout:
    description: For how many seconds to wait until the pods are gone.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Refuse to start vLLM on the first GPU of this host while something else is on it
  llmops.serving.gpu_runtime_guard:
    source: host
    runtime: vllm
    gpu_ids: [0]

- name: Let Ollama run beside a vLLM engine that takes half of the GPU
  llmops.serving.gpu_runtime_guard:
    source: host
    runtime: ollama
    min_free_share: 0.4

- name: Stop Ollama before vLLM starts in its place
  llmops.serving.gpu_runtime_guard:
    runtime: vllm
    namespace: chatbot
    stop: true
"""

RETURN = r"""
holders:
  description:
    - What holds GPUs or memory of them, those first that hold most.
    - On Kubernetes the Deployments of the other backend that run, and their pods.
  returned: always, also on failure once they were found
  type: list
  elements: dict
  sample:
    - kind: ollama_model
      name: gemma3:27b
      memory_mib: 17214
      expires_at: "2026-06-04T14:38:31.83753-07:00"
      remedy: ollama stop gemma3:27b, or OLLAMA_KEEP_ALIVE=0, or systemctl stop ollama
      text: "Ollama's gemma3:27b (17,214 MiB): ollama stop gemma3:27b, or OLLAMA_KEEP_ALIVE=0, or systemctl stop ollama"
  contains:
    kind:
      description: V(process), V(ollama_model), V(deployment) or V(pod).
      returned: always
      type: str
      sample: process
    name:
      description: Name of the program, model, Deployment or pod.
      returned: always
      type: str
      sample: python
    pid:
      description: Process id.
      returned: for a process
      type: int
      sample: 4242
    namespace:
      description: Namespace of the object.
      returned: for a pod or Deployment
      type: str
      sample: chatbot
    node:
      description: Node of the pod.
      returned: for a pod that is on a node
      type: str
      sample: gpu-a
    gpus:
      description: Number of GPUs held.
      returned: for a pod or Deployment
      type: int
      sample: 1
    gpu:
      description: Index of the GPU.
      returned: for a process
      type: int
      sample: 0
    memory_mib:
      description: GPU memory held, in MiB.
      returned: for a process or model, where it is known
      type: int
      sample: 17000
    expires_at:
      description: When Ollama unloads the model if nobody uses it.
      returned: for a model
      type: str
      sample: "2026-06-04T14:38:31.83753-07:00"
    remedy:
      description: What ends it.
      returned: always
      type: str
      sample: kill 4242, or wait until it has ended
    text:
      description: Who it is, what it holds and what ends it.
      returned: always
      type: str
      sample: "python (pid 4242, 17,000 MiB of GPU 0): kill 4242, or wait until it has ended"
stopped:
  description: Deployments that were scaled to 0. In check mode, those that would be.
  returned: always, also on failure once the first was stopped
  type: list
  elements: str
  sample: [Deployment/ollama]
summary:
  description: The finding in one line.
  returned: always, also on failure once it was found
  type: str
  sample: nothing else holds GPU 0
"""

import contextlib
import platform
import time
import typing as t

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.llmops.serving.plugins.module_utils import _guard, _processes
from ansible_collections.llmops.serving.plugins.module_utils._apply import KINDS, MANAGER, PODS
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import (
    FREE_SHARE,
    NVIDIA_SMI_PROCESSES,
    WSL_FOLDER,
    Holder,
    host_gpus,
    parse_processes,
)
from ansible_collections.llmops.serving.plugins.module_utils._kube import KUBERNETES_ARGS, Kube, KubeError, Object, selector_text
from ansible_collections.llmops.serving.plugins.module_utils._progress import PROGRESS_ARGS, Progress, duration
from ansible_collections.llmops.serving.plugins.module_utils._rollout import pods_of
from ansible_collections.llmops.serving.plugins.module_utils._wait import Lap, NotYetError, Waiter

DEPLOYMENTS = KINDS["Deployment"]
# Pods that have ended hold no GPU, and stay as long as the cluster likes.
RUNNING = "status.phase!=Succeeded,status.phase!=Failed"
WATCH_S = 5
SHORTEST_PAUSE_S = 1.0

Result = dict[str, t.Any]


class Rival(t.NamedTuple):
    """A Deployment of the other backend that asks for pods, or still has some."""

    deployment: Object
    pods: list[Object]

    @property
    def name(self) -> str:
        """The name of the Deployment."""
        return str(self.deployment["metadata"]["name"])


class Rivals:
    """The other backend in one namespace: finds it, stops it, waits until it is gone. The constructor stores, ``run`` acts."""

    def __init__(
        self,
        kube: Kube,
        params: t.Mapping[str, t.Any],
        check_mode: bool = False,
        now: t.Callable[[], float] = time.monotonic,
        sleep: t.Callable[[float], None] = time.sleep,
    ) -> None:
        self.kube = kube
        self.params = params
        self.check_mode = check_mode
        self.now = now
        self.sleep = sleep
        self.namespace: str = params["namespace"]
        self.title = _guard.TITLES[_guard.OTHER[params["runtime"]]]
        self.progress = Progress(params["progress_path"])
        self.stopped: list[str] = []
        self.left: list[Rival] = []

    def run(self) -> Result:
        """Return what the module returns. Raises ServingError, with the same, when something cannot be stopped."""
        rivals = self._find()
        holders = [holder for rival in rivals for holder in _guard.cluster_holders(self.namespace, rival.deployment, rival.pods)]
        try:
            summary = self._act(rivals, holders)
        except ServingError as exc:
            exc.details.update(self._result(holders, str(exc)))
            raise
        return self._result(holders, summary)

    def _act(self, rivals: list[Rival], holders: list[Holder]) -> str:
        """Do what was asked for, and return that in one line."""
        if not rivals:
            return f"no {self.title} of the stack {self.params['instance']} runs in {self.namespace}"
        what = ", ".join(holder.text for holder in holders if holder.kind == "deployment")
        if not self.params["stop"]:
            return f"{self.title} runs in {self.namespace}: {what}"
        for rival in rivals:
            if _guard.wanted_replicas(rival.deployment):
                self._scale_to_0(rival.name)
        if self.check_mode:
            return f"{self.title} would be stopped in {self.namespace}: {what}"
        return f"{self.title} was stopped in {self.namespace}: {what}, gone after {duration(self._wait(rivals))}"

    def _result(self, holders: list[Holder], summary: str) -> Result:
        return {
            "changed": bool(self.stopped),
            "stopped": self.stopped,
            "holders": [holder.report() for holder in holders],
            "summary": summary,
        }

    def _path(self, name: str) -> str:
        return DEPLOYMENTS.path(self.namespace, name)

    def _find(self) -> list[Rival]:
        selector = _guard.rival_selector(self.params["runtime"], self.params["instance"])
        found = [Rival(each, self._pods(each)) for each in self.kube.list(self._path(""), label_selector=selector)]
        return [rival for rival in found if rival.pods or _guard.wanted_replicas(rival.deployment)]

    def _selector(self, deployment: Object) -> str:
        return selector_text(deployment["spec"]["selector"].get("matchLabels") or {})

    def _pods(self, deployment: Object) -> list[Object]:
        pods = self.kube.list(PODS.path(self.namespace), label_selector=self._selector(deployment), field_selector=RUNNING)
        return pods_of(deployment, pods)

    def _scale_to_0(self, name: str) -> None:
        query = {"fieldManager": MANAGER, "dryRun": "All" if self.check_mode else None}
        patch = {"spec": {"replicas": 0}}
        try:
            self.kube.call("PATCH", self._path(name), query=query, body=patch, content_type="application/merge-patch+json")
        except KubeError as exc:
            if exc.status == 404:
                return  # somebody has removed it meanwhile
            raise ServingError(f"Deployment/{name} cannot be stopped: {exc}") from exc
        self.stopped.append(f"Deployment/{name}")

    def _wait(self, rivals: list[Rival]) -> float:
        """Wait until no pod of *rivals* is left, and return how many seconds that took."""
        self.left = rivals
        waiter = Waiter(self.params["wait_timeout"], WATCH_S, self.now, self._until_one_is_gone, WATCH_S)
        if waiter.until(self._look) is None:
            rival = self.left[0]
            raise ServingError(
                f"Deployment/{rival.name} is scaled to 0, but {self._why(rival) or 'the cluster has not taken that up'}. "
                f"{self.params['wait_timeout']} s were waited; its GPUs are not free."
            )
        return waiter.elapsed_s

    def _look(self, _lap: Lap) -> bool:
        """Return when all are gone."""
        self.left = [rival for each in self.left for rival in self._still_there(each)]
        if not self.left:
            return True
        pods = [pod["metadata"]["name"] for rival in self.left for pod in rival.pods]
        waits_for = f"{', '.join(pods[:3])}{f' and {len(pods) - 3} more' if len(pods) > 3 else ''}" or f"Deployment/{self.left[0].name}"
        self.progress.tell(waits_for, f"{self.title} ends: {waits_for}")
        raise NotYetError(waits_for)

    def _still_there(self, rival: Rival) -> t.Iterator[Rival]:
        """Yield *rival* as it is now, unless it is gone."""
        found = self.kube.get(self._path(rival.name))
        if found and _guard.wanted_replicas(found):
            raise ServingError(f"Deployment/{rival.name} was stopped, but something has scaled it up again. Find what does, and end that.")
        pods = self._pods(found or rival.deployment)
        if pods or (found and not _guard.is_idle(found)):
            yield Rival(found or rival.deployment, pods)

    def _until_one_is_gone(self, seconds: float) -> None:
        """Return when a pod has been deleted, or after *seconds*."""
        begun = self.now()
        path = PODS.path(self.namespace)
        selectors = [self._selector(rival.deployment) for rival in self.left if rival.pods]
        # without the permission to watch, looking again will do
        with contextlib.suppress(KubeError):
            for event, _pod in self.kube.watch(path, selectors[0], RUNNING, timeout_s=max(1, int(seconds))) if selectors else ():
                if event == "DELETED":
                    return
        # a watch that ended early must not make this a busy loop
        self.sleep(max(0.0, min(seconds, SHORTEST_PAUSE_S) - (self.now() - begun)))

    def _why(self, rival: Rival) -> str:
        if not rival.pods:
            return ""
        pod = rival.pods[0]
        try:
            node = self.kube.get(f"/api/v1/nodes/{pod['spec'].get('nodeName')}")
        except KubeError:
            node = None  # who may not look at nodes cannot be told
        return f"its pod {self.namespace}/{pod['metadata']['name']} does not go: {_guard.why_it_stays(self.namespace, pod, node)}"


def run_on_host(module: AnsibleModule) -> Result:
    """Look at the GPUs of this host. Raises ServingError when the runtime must not start."""
    params, host = module.params, platform.node()
    nothing = {"changed": False, "holders": [], "stopped": []}
    if not 0 <= params["min_free_share"] <= 1:
        raise ServingError(f"min_free_share is {params['min_free_share']:g}; it is a share, from 0 to 1.")
    binary = module.get_bin_path("nvidia-smi", opt_dirs=[WSL_FOLDER])
    if not binary:
        return {**nothing, "summary": f"{host} has no nvidia-smi, so there is no NVIDIA GPU to guard"}

    def ask(*arguments: str) -> tuple[int, str, str]:
        code, out, err = module.run_command([binary, *arguments], environ_update={"LC_ALL": "C"})
        return code, out, err

    rows = host_gpus(ask, host, params["gpu_ids"])
    if not rows:
        return {**nothing, "summary": f"nvidia-smi lists no GPU on {host}, so there is nothing to guard"}
    rows = _guard.wanted_gpus(rows, 0 if params["gpu_ids"] else params["gpu_count"])
    processes = parse_processes(ask(*NVIDIA_SMI_PROCESSES)[1])
    own = {process.pid for process in _processes.belonging(params["state_dir"])} if params["state_dir"] else set()
    models = _guard.loaded_models(params["ollama_url"]) if params["runtime"] == _guard.VLLM else []
    return _guard.judge_host(rows, processes, models, own, params["runtime"], params["min_free_share"], own_end=params["own_end"])


def run(module: AnsibleModule) -> Result:
    """Guard what was asked for. Raises ServingError."""
    params = module.params
    if params["source"] == "host":
        return run_on_host(module)
    return Rivals(Kube.connect(params["kubeconfig"], params["context"]), params, module.check_mode).run()


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "choices": ["kubernetes", "host"], "default": "kubernetes"},
            "runtime": {"type": "str", "choices": [_guard.VLLM, _guard.OLLAMA], "default": _guard.VLLM},
            "gpu_ids": {"type": "list", "elements": "int", "default": []},
            "gpu_count": {"type": "int", "default": 0},
            "state_dir": {"type": "path"},
            "own_end": {"type": "bool", "default": False},
            "min_free_share": {"type": "float", "default": FREE_SHARE},
            "ollama_url": {"type": "str", "default": _guard.OLLAMA_URL},
            "namespace": {"type": "str"},
            "instance": {"type": "str", "default": "chat"},
            "stop": {"type": "bool", "default": False},
            "wait_timeout": {"type": "int", "default": 300},
            **PROGRESS_ARGS,
            **KUBERNETES_ARGS,
        },
        required_if=[("source", "kubernetes", ["namespace"])],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except ServingError as exc:
        module.fail_json(msg=str(exc), **exc.details)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
