"""How fast, and how rightly, router_wait names what is wrong with an engine, beside `kubectl rollout status` and kubernetes.core.

Usage: KUBECONFIG=... .venv/bin/python benchmarks/wait.py [--only NAME...] [--json FILE] [--engine-image IMAGE] [--small-image IMAGE]
It makes faults for real, one after the other, in a namespace of its own (bench-wait), which it removes at the end. The engine image has
vLLM for CPUs and Python, the small one a shell; both have to be on the nodes. The port 5005 of the nodes has to be free. Faults that need
a GPU are not made: a container prints a published error message in a log put together for it, and the table says "replayed".

A Deployment is made paused. When router_wait (a process of its own, as Ansible runs a module) has looked once, and `kubectl rollout status
--timeout=120s` runs beside it, the Deployment is let go. A watch of the API notes when the fault is first seen there, by the sign that the
table of faults has. Seconds are counted from that moment to the end of each. A cause is right when the module's verdict has the word that
the table expects. Whether kubectl names the cause is judged by words, too: any of those of the fault in what it printed. kubectl gets all
of its time, while the next faults run; at most three wait for it. Its seconds are below zero where it gave up before the fault was there.
k8s_info waits with it for faults that are marked in the table.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import typing as t
from pathlib import Path

from kubernetes import client, config, watch

ROOT = Path(__file__).resolve().parents[1]
NAMESPACE = "bench-wait"
MODULE = "ansible_collections.llmops.serving.plugins.modules.router_wait"
KUBECTL_S = 120
WAIT_S = 240
MODELS_S = 600
FIRST_LOOK_S = 60
MOST_PENDING = 3
MESSAGE_LENGTH = 160
PORT = 8000

Object = dict[str, t.Any]

MODELS_MOUNT = {"name": "models", "mountPath": "/models"}
MODELS_VOLUME = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}

# Makes a model that nobody has trained, which loads like any other, and one whose weights are cut off.
MODELS = """
import pathlib, shutil, sys
sys.path.insert(0, "/scripts")
import smoke_model
tokenizer = smoke_model.make_tokenizer("smoke", 0)
smoke_model.save("smoke", smoke_model.make_model(tokenizer.get_vocab_size()), tokenizer, pathlib.Path("/models/smoke"))
shutil.copytree("/models/smoke", "/models/damaged")
weights = pathlib.Path("/models/damaged/model.safetensors")
weights.write_bytes(weights.read_bytes()[:100000])
"""
# A registry that has no image, and wants a login for some.
REGISTRY = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        private = "/private" in self.path
        body = b'{"errors":[{"code":"UNAUTHORIZED"}]}' if private else b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'
        self.send_response(200 if self.path == "/v2/" else 401 if private else 404)
        if private:
            self.send_header("WWW-Authenticate", 'Basic realm="registry"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body if self.command == "GET" else b"")
    do_HEAD = do_GET

http.server.ThreadingHTTPServer(("127.0.0.1", 5005), Handler).serve_forever()
"""
# A hub that has a gated model, and hides all others from whoever has no token.
HUB = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        gated = "/gated/" in self.path
        restricted = "Access to model gated/model is restricted. You must have access to it and be authenticated to access it."
        self.send_response(401)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.send_header("X-Error-Message", restricted if gated else "Repository not found")
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_HEAD = do_GET

http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
# the error and the lines before it: https://github.com/vllm-project/vllm/issues/27508, shortened; the last line is added, as vLLM 0.32 ends
CUDA_OUT_OF_MEMORY = """\
(EngineCore_DP0 pid=8884) Process EngineCore_DP0:
(EngineCore_DP0 pid=8884) Traceback (most recent call last):
(EngineCore_DP0 pid=8884)   File "/opt/conda/envs/vllm_env/lib/python3.13/site-packages/vllm/v1/sample/sampler.py", line 86, in forward
(EngineCore_DP0 pid=8884)     logits = logits.to(torch.float32)
(EngineCore_DP0 pid=8884) torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 786.00 MiB. GPU 0 has a total capacity of 79.11 \
GiB of which 140.75 MiB is free. Process 3270336 has 78.96 GiB memory in use. Of the allocated memory 68.83 GiB is allocated by PyTorch, \
with 660.00 MiB allocated in private pools (e.g., CUDA Graphs), and 331.08 MiB is reserved by PyTorch but unallocated.
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
# the error: https://github.com/vllm-project/vllm-omni/pull/1842; what is around it: https://github.com/vllm-project/vllm/issues/25837, and
# the last line as above
GPU_TAKEN = """\
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718] EngineCore failed to start.
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718] Traceback (most recent call last):
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718]     self.requested_memory = request_memory(init_snapshot, self.cache_config)
(EngineCore_DP0 pid=17374) ERROR 09-28 15:47:24 [core.py:718] ValueError: Free memory on device cuda:0 (111.99/139.8 GiB) on startup is \
less than desired GPU memory utilization (0.95, 132.81 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes.
(EngineCore_DP0 pid=17374) Process EngineCore_DP0:
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
# the error: https://github.com/lllyasviel/Fooocus/issues/1313, with the version of https://github.com/modelscope/FunASR/issues/2973; the
# traceback is made up
DRIVER = """\
Traceback (most recent call last):
  File "/usr/local/lib/python3.12/dist-packages/torch/cuda/__init__.py", line 412, in _lazy_init
    torch._C._cuda_init()
RuntimeError: The NVIDIA driver on your system is too old (found version 12080). Please update your GPU driver by downloading and \
installing a new version from the URL: http://www.nvidia.com/Download/index.aspx Alternatively, go to: https://pytorch.org to install a \
PyTorch version that has been compiled with your version of the CUDA driver.
"""
# the beginning of a program for aarch64
FOREIGN = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00\x01\x00\x00\x00" + bytes(200)


class Images(t.NamedTuple):
    """The image with vLLM, and the one with a shell."""

    engine: str
    small: str


# -- signs: when a fault is seen in the API ----------------------------------------------------------------------------

# Kind of the object ("pod", "event" or "deployment") and the object.
Sign = t.Callable[[str, Object], bool]


def _states(document: Object) -> list[Object]:
    status = document.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def waits(*reasons: str) -> Sign:
    """A container of the pod waits for one of *reasons*."""
    return lambda kind, document: (
        kind == "pod" and any((state["state"].get("waiting") or {}).get("reason") in reasons for state in _states(document))
    )


def ended(kind: str, document: Object) -> bool:
    """A container of the pod has ended with an error."""
    ends = [state[when].get("terminated") or {} for state in _states(document) for when in ("state", "lastState")]
    return kind == "pod" and any(end.get("exitCode") for end in ends)


def unscheduled(kind: str, document: Object) -> bool:
    """The scheduler has found no node."""
    conditions = (document.get("status") or {}).get("conditions") or []
    return kind == "pod" and any(entry["type"] == "PodScheduled" and entry["status"] == "False" for entry in conditions)


def event(reason: str, words: str = "") -> Sign:
    """There is an event of *reason* with *words*."""
    return lambda kind, document: kind == "event" and document["reason"] == reason and words in (document.get("message") or "")


def evicted(kind: str, document: Object) -> bool:
    """The node has evicted the pod."""
    return kind == "pod" and (document.get("status") or {}).get("reason") == "Evicted"


def refused(kind: str, document: Object) -> bool:
    """The cluster does not make the pods."""
    conditions = (document.get("status") or {}).get("conditions") or []
    return kind == "deployment" and any(entry["type"] == "ReplicaFailure" and entry["status"] == "True" for entry in conditions)


def either(*signs: Sign) -> Sign:
    """The first of *signs*."""
    return lambda kind, document: any(sign(kind, document) for sign in signs)


NO_IMAGE = waits("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
NO_CONFIG = waits("CreateContainerConfigError")


# -- faults ------------------------------------------------------------------------------------------------------------


class Fault(t.NamedTuple):
    """What is made, the *sign* by which the API shows it first, the *cause* that is right, and *words* of which kubectl should say one.

    ``container`` and ``pod`` are laid over those of an engine, ``others`` are made before it. ``replayed``: the log is not of this run.
    An empty *cause* means that the wait has to come to its end after *wait_s*, and to tell what it waited for.
    ``core``: k8s_info waits, too.
    """

    name: str
    title: str
    cause: str
    sign: Sign
    words: tuple[str, ...]
    container: Object
    pod: Object = {}
    others: tuple[Object, ...] = ()
    replayed: bool = False
    wait_s: int = WAIT_S
    core: bool = False


def shell(images: Images, script: str, **more: t.Any) -> Object:
    """Return a container that runs *script*."""
    return {"image": images.small, "command": ["sh", "-c", script], "startupProbe": None, **more}


def vllm(*args: str, model: str = "/models/smoke", env: t.Optional[dict[str, str]] = None, **more: t.Any) -> Object:
    """Return a container that serves *model* with vLLM."""
    variables = {
        "HOME": "/tmp",
        "USER": "vllm",
        "HF_HOME": "/tmp/huggingface",
        "HF_HUB_OFFLINE": "1",
        "VLLM_CACHE_ROOT": "/tmp/cache",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        **(env or {}),
    }
    usual = ["--host", "0.0.0.0", "--port", str(PORT), "--max-num-seqs", "4", "--enforce-eager"]
    room = [] if "--kv-cache-memory-bytes" in args else ["--kv-cache-memory-bytes", "134217728"]
    return {
        "args": [model, "--served-model-name", "smoke", *usual, *room, *args],
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        **more,
    }


def config_map(name: str, **more: t.Any) -> Object:
    """Return a ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, **more}


def claim(name: str, **spec: t.Any) -> Object:
    """Return a claim of 1 GiB."""
    rest = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, **spec}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": rest}


def volume(at: str, **source: t.Any) -> tuple[Object, Object]:
    """Return what a container and a pod have for a volume."""
    return {"volumeMounts": [{"name": "extra", "mountPath": at}]}, {"volumes": [{"name": "extra", **source}]}


def replayed(images: Images, name: str, title: str, cause: str, word: str, log: str) -> Fault:
    """Return a fault that prints *log* and fails."""
    mount, source = volume("/log", configMap={"name": f"{name}-log"})
    others = (config_map(f"{name}-log", data={"log": log}),)
    return Fault(name, title, cause, ended, (word,), shell(images, "cat /log/log; exit 1", **mount), source, others, replayed=True)


def faults(images: Images) -> list[Fault]:
    """Return all faults, in their order: those that keep the nodes busy have quiet ones between them."""
    sleeps = shell(images, "sleep 3600")

    def key_of(secret: str) -> Object:
        return {"env": [{"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": secret, "key": "api-key"}}}]}

    def claimed(name: str) -> tuple[Object, Object]:
        mount, source = volume("/data", persistentVolumeClaim={"claimName": name})
        return {**sleeps, **mount}, source

    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wait-key"}, "stringData": {"other": "x"}}
    gpus = {"resources": {"limits": {"nvidia.com/gpu": "64"}}}
    memory = {"resources": {"requests": {"memory": "64Ti"}}}
    # a resource of which the other faults ask nothing, so that they are not refused
    hard = {"requests.example.com/accelerator": "1"}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "wait-quota"}, "spec": {"hard": hard}}
    over = {"resources": {"limits": {"example.com/accelerator": "2"}}}
    hub = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://hub.{NAMESPACE}.svc:8080"}
    no_map, with_no_map = volume("/scripts", configMap={"name": "wait-lost"})
    foreign, with_foreign = volume("/program", configMap={"name": "wait-foreign", "defaultMode": 0o755})
    program = config_map("wait-foreign", binaryData={"vllm": base64.b64encode(FOREIGN).decode()})
    scratch, with_scratch = volume("/cache", emptyDir={"medium": "Memory", "sizeLimit": "4Mi"})
    fill = "for i in 1 2 3 4 5 6 7 8; do cat /bin/busybox > /cache/$i; done; sleep 3600"
    tight = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 1, "failureThreshold": 5}
    sidecar = {"name": "exporter", "image": images.small, "command": ["httpd", "-f", "-p", str(PORT)]}
    unready = {"httpGet": {"path": "/health", "port": PORT}, "periodSeconds": 2}
    too_long = vllm("--max-model-len", "100000")
    parser = vllm("--enable-auto-tool-choice", "--tool-call-parser", "hermess")
    login = {**sleeps, "image": "localhost:5005/private/vllm:9"}
    never = {**sleeps, "image": "localhost/vllm:9", "imagePullPolicy": "Never"}
    as_root = {**sleeps, "securityContext": {"runAsNonRoot": True}}
    unclassed = either(unscheduled, event("ProvisioningFailed"))
    unbound = either(unscheduled, event("FailedBinding"))
    classed = (claim("class", storageClassName="wait-lost"),)
    classless = (claim("no-class", storageClassName=""),)
    # the runtime's own /dev/shm: 64 MiB
    full = shell(images, "cat /dev/zero > /dev/shm/model.safetensors", volumeMounts=[])
    small = vllm(volumeMounts=[MODELS_MOUNT])
    killed = vllm(resources={"limits": {"memory": "300Mi"}})
    return [
        Fault("flag", "unknown flag", "unknown-flag", ended, ("--not-a-flag",), vllm("--not-a-flag", "1"), core=True),
        Fault(
            "image",
            "image that does not exist",
            "image-not-found",
            NO_IMAGE,
            ("image",),
            {**sleeps, "image": "localhost:5005/vllm:9"},
            core=True,
        ),
        Fault("image-login", "image that needs a login", "image-not-allowed", NO_IMAGE, ("image",), login),
        Fault("parser", "unknown tool parser", "unknown-tool-parser", ended, ("parser",), parser),
        Fault("image-name", "name that is no image", "image-name-invalid", NO_IMAGE, ("image",), {**sleeps, "image": "vLLM:Latest:9"}),
        Fault("image-never", "image not on the node", "image-not-on-node", NO_IMAGE, ("image",), never),
        Fault("folder", "model folder missing", "model-missing", ended, ("/models/nothing",), vllm(model="/models/nothing")),
        Fault("gpus", "64 GPUs", "too-large-for-nodes", unscheduled, ("gpu", "insufficient"), {**sleeps, **gpus}),
        Fault("memory", "64 TiB of memory", "too-large-for-nodes", unscheduled, ("memory", "insufficient"), {**sleeps, **memory}),
        Fault("kv-cache", "KV cache too small", "kv-cache-too-small", ended, ("cache",), vllm("--kv-cache-memory-bytes", "1048576")),
        Fault("selector", "label that no node has", "no-node-matches", unscheduled, ("node",), sleeps, {"nodeSelector": {"zone": "z"}}),
        Fault("secret", "Secret missing", "secret-missing", NO_CONFIG, ("secret",), {**sleeps, **key_of("wait-lost")}),
        Fault("max-model-len", "max_model_len above the model's", "max-model-len-too-long", ended, ("max_model_len",), too_long),
        Fault("key", "key of a Secret missing", "key-missing", NO_CONFIG, ("key",), {**sleeps, **key_of("wait-key")}, {}, (secret,)),
        Fault(
            "configmap", "ConfigMap missing", "configmap-missing", event("FailedMount"), ("configmap",), {**sleeps, **no_map}, with_no_map
        ),
        Fault("weights", "weights cut off", "weights-corrupt", ended, ("weights", "safetensors"), vllm(model="/models/damaged")),
        Fault("class", "StorageClass missing", "storage-class-missing", unclassed, ("storage", "claim"), *claimed("class"), classed),
        Fault("no-class", "claim of no StorageClass", "no-storage-class", unbound, ("storage", "claim"), *claimed("no-class"), classless),
        Fault("offline", "weights not there, hub offline", "weights-not-fetched", ended, ("offline", "hub"), vllm(model="llmops/absent")),
        Fault("claim", "claim missing", "claim-missing", unscheduled, ("claim",), *claimed("wait-lost")),
        Fault("program", "program not in the image", "executable-missing", ended, ("executable",), {"command": ["vlm", "serve"]}),
        Fault("oom-killed", "memory limit too low for vLLM", "out-of-memory", ended, ("memory", "oom"), killed),
        Fault(
            "architecture",
            "program of another CPU",
            "wrong-cpu",
            ended,
            ("exec format",),
            {**shell(images, ""), "command": ["/program/vllm"], **foreign},
            with_foreign,
            (program,),
        ),
        Fault("root", "image that wants to be root", "runs-as-root", NO_CONFIG, ("root",), as_root),
        Fault(
            "startup",
            "startup probe too short",
            "startup-timeout",
            either(ended, event("Killing", "failed startup probe")),
            ("probe", "startup"),
            vllm(startupProbe=tight),
        ),
        Fault("disk", "no space left on a disk", "disk-full", ended, ("space",), full),
        Fault("evicted", "volume in memory too large", "evicted", evicted, ("evicted",), {**shell(images, fill), **scratch}, with_scratch),
        Fault("shm", "/dev/shm too small for vLLM", "shm-too-small", ended, ("shm",), small),
        Fault("port", "port taken by a sidecar", "port-taken", ended, ("address", "port"), vllm(), {"sidecars": [sidecar]}),
        replayed(images, "cuda-memory", "GPU memory too small", "gpu-out-of-memory", "memory", CUDA_OUT_OF_MEMORY),
        replayed(images, "gpu-taken", "GPU taken, at the third try", "gpu-memory-taken", "memory", GPU_TAKEN),
        replayed(images, "driver", "NVIDIA driver too old", "driver-too-old", "driver", DRIVER),
        Fault("gated", "gated model, no token", "hub-gated", ended, ("gated", "401"), vllm(model="gated/model", env=hub)),
        Fault(
            "unready", "never ready: only time tells", "", event("Unhealthy"), ("probe",), {**sleeps, "readinessProbe": unready}, wait_s=30
        ),
        Fault("repository", "model that the hub lacks", "hub-repository-missing", ended, ("hub",), vllm(model="some/model", env=hub)),
        Fault("quota", "quota exceeded", "quota", either(event("FailedCreate"), refused), ("quota",), {**sleeps, **over}, {}, (quota,)),
    ]


def engine(fault: Fault) -> str:
    """Return the name of the Deployment of *fault*."""
    return f"engine-{fault.name}"


def deployment(fault: Fault, images: Images) -> Object:
    """Return the Deployment of an engine, as the role vllm makes it in short, with *fault*, and paused."""
    labels = {"app": "vllm-backend", "fault": fault.name}
    probe = {"httpGet": {"path": "/health", "port": PORT}}
    container = {
        "name": "vllm",
        "image": images.engine,
        "imagePullPolicy": "IfNotPresent",
        "command": ["vllm", "serve"],
        "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
        "startupProbe": {**probe, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 300},
        "readinessProbe": {**probe, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 5},
        "volumeMounts": [MODELS_MOUNT, {"name": "shm", "mountPath": "/dev/shm"}],
        **fault.container,
    }
    pod = {
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [container, *fault.pod.get("sidecars", [])],
        "volumes": [MODELS_VOLUME, {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}}],
        **{key: value for key, value in fault.pod.items() if key != "sidecars"},
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": engine(fault), "labels": labels},
        "spec": {
            "replicas": 1,
            "paused": True,
            "progressDeadlineSeconds": 900,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def surroundings(images: Images) -> list[Object]:
    """Return what all faults need: a router that is ready, a registry, a hub, and models."""
    script = (ROOT / "roles/vllm/files/smoke_model.py").read_text(encoding="utf-8")

    def running(name: str, command: list[str], image: str, container: t.Optional[Object] = None, **more: t.Any) -> Object:
        runs = {"name": name, "image": image, "imagePullPolicy": "IfNotPresent", "command": command, **(container or {})}
        spec = {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 1, "containers": [runs], **more}
        return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}

    def service(name: str, port: int) -> Object:
        ports = [{"port": port, "protocol": "TCP"}]
        return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"selector": {"app": name}, "ports": ports}}

    mounts = [MODELS_MOUNT, {"name": "scripts", "mountPath": "/scripts"}]
    maker = {"volumeMounts": mounts, "env": [{"name": "HOME", "value": "/tmp"}]}
    volumes = [MODELS_VOLUME, {"name": "scripts", "configMap": {"name": "scripts"}}]
    return [
        config_map("scripts", data={"smoke_model.py": script}),
        claim("models"),
        # the router is not asked before an engine is ready, so that any pod that is ready does
        running("router", ["httpd", "-f", "-p", str(PORT)], images.small),
        service("router", PORT),
        running("registry", ["python3", "-c", REGISTRY], images.engine, hostNetwork=True),
        running("hub", ["python3", "-c", HUB], images.engine),
        service("hub", 8080),
        running("models", ["python3", "-c", MODELS], images.engine, maker, volumes=volumes, restartPolicy="Never"),
    ]


# -- measuring ---------------------------------------------------------------------------------------------------------


def kubectl(*words: str, document: t.Any = None, check: bool = True) -> str:
    """Run kubectl in the namespace and return what it prints."""
    stdin = "" if document is None else json.dumps(document)
    done = subprocess.run(["kubectl", "-n", NAMESPACE, *words], input=stdin, check=False, capture_output=True, text=True)
    if check and done.returncode:
        raise SystemExit(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def make(documents: t.Sequence[Object]) -> None:
    """Make *documents* in the cluster."""
    kubectl("create", "-f", "-", document={"apiVersion": "v1", "kind": "List", "items": list(documents)})


class Watcher:
    """Watches pods, events and Deployments, and notes when the sign of each fault is first seen."""

    def __init__(self) -> None:
        config.load_kube_config()
        core, apps = client.CoreV1Api(), client.AppsV1Api()
        self._lock = threading.Lock()
        self._sought: dict[str, Fault] = {}
        self._seen: dict[str, float] = {}
        sources = {"pod": core.list_namespaced_pod, "event": core.list_namespaced_event, "deployment": apps.list_namespaced_deployment}
        for kind, source in sources.items():
            threading.Thread(target=self._run, args=(kind, source), daemon=True).start()

    def seek(self, fault: Fault) -> None:
        """Look out for the sign of *fault*."""
        with self._lock:
            self._sought[fault.name] = fault

    def seen(self, fault: Fault) -> t.Optional[float]:
        """Return when the sign was seen, on the clock of time.monotonic; None while it was not."""
        with self._lock:
            return self._seen.get(fault.name)

    def _run(self, kind: str, source: t.Callable[..., t.Any]) -> None:
        while True:
            # a watch ends now and then; the next one begins with a list of all there is
            with contextlib.suppress(Exception):
                for change in watch.Watch().stream(source, NAMESPACE):
                    self._note(kind, change["raw_object"], time.monotonic())

    def _note(self, kind: str, document: Object, now: float) -> None:
        about = document["involvedObject"]["name"] if kind == "event" else document["metadata"]["name"]
        with self._lock:
            for fault in self._sought.values():
                if fault.name not in self._seen and _belongs(about, fault) and fault.sign(kind, document):
                    self._seen[fault.name] = now


def _belongs(name: str, fault: Fault) -> bool:
    """Whether *name* is that of the Deployment of *fault*, of its ReplicaSet or pod, or of its claim."""
    return name == fault.name or bool(re.fullmatch(rf"{engine(fault)}(-[a-z0-9]{{7,10}}(-[a-z0-9]{{5}})?)?", name))


class Process:
    """A command that runs on its own; ``ended_s`` (by time.monotonic) and ``out`` are there when it has ended."""

    def __init__(self, command: t.Sequence[str], **environment: str) -> None:
        self.ended_s = 0.0
        self.out = ""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, **environment},
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self.out = self._process.communicate()[0]
        self.ended_s = time.monotonic()

    def wait(self) -> None:
        """Return when it has ended."""
        self._thread.join()


def by_module(arguments: Object, path: Path) -> Process:
    """Start router_wait as Ansible runs a module; its *arguments* go into the file *path*."""
    path.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), encoding="utf-8")
    return Process([sys.executable, "-m", MODULE, str(path)], PYTHONPATH=str(ROOT / ".venv/collections"))


def by_kubectl(namespace: str, name: str, wait_s: int) -> Process:
    """Start `kubectl rollout status` for the Deployment *name*."""
    return Process(["kubectl", "-n", namespace, "rollout", "status", f"deployment/{name}", f"--timeout={wait_s}s"])


def module(fault: Fault, folder: Path) -> tuple[Process, Path]:
    """Start router_wait for *fault*; return it with the file in which it tells what it does."""
    progress = folder / f"{fault.name}.progress"
    arguments = {
        "model": "smoke",
        "service": {"namespace": NAMESPACE, "name": "router", "port": PORT},
        "engine_deployment": engine(fault),
        "wait_timeout": fault.wait_s,
        "progress_path": str(progress),
    }
    return by_module(arguments, folder / f"{fault.name}.json"), progress


def by_core(namespace: str, name: str, wait_s: int) -> Process:
    """Start kubernetes.core.k8s_info, waiting for the Deployment *name*."""
    arguments = {
        "api_version": "apps/v1",
        "kind": "Deployment",
        "namespace": namespace,
        "name": name,
        "wait": True,
        "wait_timeout": wait_s,
        "wait_condition": {"type": "Available", "status": "True"},
    }
    ansible = [str(Path(sys.executable).parent / "ansible"), "localhost", "-m", "kubernetes.core.k8s_info"]
    return Process([*ansible, "-a", json.dumps(arguments), "-e", f"ansible_python_interpreter={sys.executable}"])


class Run:
    """A fault that has been made, and those who wait for it."""

    def __init__(self, fault: Fault, images: Images, watcher: Watcher, folder: Path, core: bool) -> None:
        self.fault = fault
        self.row: Object = {}
        self._watcher = watcher
        make([*fault.others, deployment(fault, images)])
        watcher.seek(fault)
        self.core = by_core(NAMESPACE, engine(fault), KUBECTL_S) if core and fault.core else None
        self.ours, progress = module(fault, folder)
        self.theirs = by_kubectl(NAMESPACE, engine(fault), KUBECTL_S)
        until = time.monotonic() + FIRST_LOOK_S
        while not (progress.exists() or self.ours.ended_s or time.monotonic() > until):
            time.sleep(0.02)
        if not progress.exists():
            raise SystemExit(f"{fault.name}: router_wait did not look within {FIRST_LOOK_S} s: {self.ours.out}")
        kubectl("patch", "deployment", engine(fault), "-p", json.dumps({"spec": {"paused": False}}))
        self._thread = threading.Thread(target=self._finish, daemon=True)

    def measure(self) -> None:
        """Return when router_wait has ended; the rest goes on by itself."""
        self.ours.wait()
        self._thread.start()

    @property
    def over(self) -> bool:
        """Whether all have ended."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Return when all have ended."""
        self._thread.join()

    def _finish(self) -> None:
        self.theirs.wait()
        if self.core:
            self.core.wait()
        self.row = self._judged()
        kubectl("delete", "--wait=false", "--ignore-not-found", "deployment", engine(self.fault), check=False)
        for other in self.fault.others:
            kubectl("delete", "--wait=false", "--ignore-not-found", other["kind"], other["metadata"]["name"], check=False)

    def _judged(self) -> Object:
        fault, seen = self.fault, self._watcher.seen(self.fault)
        try:
            told = json.loads(self.ours.out[self.ours.out.index("{") :])
        except ValueError:
            told = {"msg": f"no result: {self.ours.out[-MESSAGE_LENGTH:]}"}
        cause, message = (told.get("verdict") or {}).get("cause", ""), str(told.get("msg", ""))
        in_time = message.startswith("Model smoke did not answer within")
        right = cause == fault.cause and not in_time if fault.cause else in_time

        def since(process: Process) -> t.Optional[float]:
            return None if seen is None else round(process.ended_s - seen, 2)

        row = {
            "fault": fault.name,
            "title": fault.title,
            "replayed": fault.replayed,
            "expected": fault.cause,
            "cause": cause,
            "timed_out": in_time,
            "right": right,
            "seconds": since(self.ours),
            "message": message[:MESSAGE_LENGTH],
            "kubectl_seconds": since(self.theirs),
            "kubectl_names_it": _names(self.theirs.out, fault),
            "kubectl_message": (self.theirs.out.strip().splitlines() or [""])[-1][:MESSAGE_LENGTH],
        }
        if self.core:
            row["core_seconds"], row["core_names_it"] = since(self.core), _names(self.core.out, fault)
            row["core_message"] = (self.core.out.strip().splitlines() or [""])[-1].strip()[:MESSAGE_LENGTH]
        return row


def _names(text: str, fault: Fault) -> bool:
    """Whether *text* has one of the fault's words; the name of the Deployment does not count."""
    text = text.replace(engine(fault), "").lower()
    return any(word in text for word in fault.words)


@contextlib.contextmanager
def namespace(images: Images) -> t.Iterator[None]:
    """Make the namespace with all that the faults need, and remove it in the end."""
    remove = ("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=300s")
    kubectl(*remove)
    try:
        kubectl("create", "namespace", NAMESPACE)
        until = time.monotonic() + MODELS_S
        while "default" not in kubectl("get", "serviceaccounts") and time.monotonic() < until:
            time.sleep(0.2)
        make(surroundings(images))
        kubectl("wait", "pod", "-l", "app in (router,registry,hub)", "--for=condition=Ready", "--timeout=120s")
        while (phase := kubectl("get", "pod", "models", "-o", "jsonpath={.status.phase}")) != "Succeeded":
            if phase == "Failed" or time.monotonic() > until:
                raise SystemExit(f"The models could not be made: {kubectl('logs', 'models')[-1500:]}")
            time.sleep(0.5)
        yield
    finally:
        kubectl(*remove, check=False)


# -- telling -----------------------------------------------------------------------------------------------------------

HEAD = f"{'fault':<42} {'expected':<23} {'named':<25} {'ours s':>7} {'kubectl s':>9} kubectl names it"


def line(row: Object) -> str:
    """Return a line of the table."""
    title = row["title"] + (" (replayed)" if row["replayed"] else "")
    named = ("" if row["right"] else "! ") + (row["cause"] or "-") + (" (too late)" if row["timed_out"] and row["expected"] else "")
    ours, theirs = ("?" if row[key] is None else f"{row[key]:.1f}" for key in ("seconds", "kubectl_seconds"))
    names = "yes" if row["kubectl_names_it"] else "no"
    return f"{title:<42} {row['expected'] or '-':<23} {named:<25} {ours:>7} {theirs:>9} {names}"


def summary(rows: t.Sequence[Object]) -> Object:
    """Return what all *rows* say together. The wait that only time ends has no seconds to compare."""
    timed = [row for row in rows if row["seconds"] is not None and row["expected"]]
    ours, theirs = [row["seconds"] for row in timed], [row["kubectl_seconds"] for row in timed]
    core = [row for row in rows if row.get("core_seconds") is not None]
    result: Object = {
        "faults": len(rows),
        "right": sum(row["right"] for row in rows),
        "kubectl_right": sum(row["kubectl_names_it"] for row in rows),
    }
    if timed:
        result["median_s"], result["worst_s"] = round(statistics.median(ours), 2), max(ours)
        result["kubectl_median_s"], result["kubectl_worst_s"] = round(statistics.median(theirs), 2), max(theirs)
        result["ratio"] = round(result["kubectl_median_s"] / max(result["median_s"], 0.01), 1)
    if core:
        result["core"] = len(core)
        result["core_median_s"] = round(statistics.median(row["core_seconds"] for row in core), 2)
        result["core_right"] = sum(row["core_names_it"] for row in core)
    return result


def tell(rows: t.Sequence[Object], total: Object) -> None:
    """Print the table, and what all of it says."""
    print(HEAD)
    for row in rows:
        print(line(row))
    count = total["faults"]
    if "median_s" in total:
        ours = f"median {total['median_s']:.1f} s, worst {total['worst_s']:.1f} s"
        theirs = f"median {total['kubectl_median_s']:.1f} s, worst {total['kubectl_worst_s']:.1f} s"
        print(f"router_wait: {total['right']} of {count} causes are right; from the sign to its end {ours}")
        print(f"kubectl rollout status: {total['kubectl_right']} of {count} are named; {theirs}; {total['ratio']:.0f} x the median")
    if "core" in total:
        print(f"kubernetes.core.k8s_info: {total['core_right']} of {total['core']} are named; median {total['core_median_s']:.1f} s")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these faults only")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--engine-image", default="localhost/vllm-openai-cpu:test")
    parser.add_argument("--small-image", default="localhost/busybox:test")
    options = parser.parse_args()
    images = Images(options.engine_image, options.small_image)
    table = faults(images)
    unknown = set(options.only or ()) - {fault.name for fault in table}
    if unknown:
        parser.error(f"no such fault: {', '.join(sorted(unknown))}; there are {', '.join(fault.name for fault in table)}")
    core = (Path(sys.executable).parent / "ansible").exists()
    runs: list[Run] = []
    with tempfile.TemporaryDirectory() as folder, namespace(images):
        watcher = Watcher()
        for fault in table:
            if options.only and fault.name not in options.only:
                continue
            while sum(not run.over for run in runs) >= MOST_PENDING:
                time.sleep(0.2)
            run = Run(fault, images, watcher, Path(folder), core)
            run.measure()
            runs.append(run)
            print(f"  {fault.name}: router_wait has ended", file=sys.stderr, flush=True)
        for run in runs:
            run.wait()
    rows = [run.row for run in runs]
    total = summary(rows)
    tell(rows, total)
    if options.json:
        Path(options.json).write_text(json.dumps({"summary": total, "rows": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
