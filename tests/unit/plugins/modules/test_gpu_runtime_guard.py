# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host whose nvidia-smi is written down, and a cluster of dicts whose pods take their time to end, on a clock that only waiting moves."""

from __future__ import annotations

import builtins
import copy
import json
import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError, Object
from ansible_collections.llmops.serving.plugins.modules import gpu_runtime_guard
from ansible_collections.llmops.serving.plugins.modules.gpu_runtime_guard import Rivals
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

# -- a host ------------------------------------------------------------------------------------------------------------

FREE = "0, NVIDIA L4, 23034, 22500, 8.9, Disabled\n1, NVIDIA L4, 23034, 22500, 8.9, Disabled\n"
BUSY = "0, NVIDIA L4, 23034, 3000, 8.9, Disabled\n1, NVIDIA L4, 23034, 22500, 8.9, Disabled\n"
PROCESSES = """
GPU 00000000:01:00.0
        Process ID                        : {pid}
            Type                          : C
            Name                          : {name}
            Used GPU Memory               : 19500 MiB
GPU 00000000:02:00.0
    Processes                             : None
"""
NOBODY = "http://127.0.0.1:9"


class Module:
    """What the module takes of AnsibleModule."""

    check_mode = False

    def __init__(self, gpus: t.Optional[str], processes: str = "", **params: t.Any) -> None:
        defaults = {"source": "host", "runtime": "vllm", "gpu_ids": [], "gpu_count": 0, "state_dir": None, "min_free_share": 0.92}
        self.params = {**defaults, "ollama_url": NOBODY, "own_end": False, **params}
        self.gpus = gpus
        self.processes = processes

    def get_bin_path(self, name: str, opt_dirs: list[str]) -> t.Optional[str]:
        return None if self.gpus is None else f"/usr/bin/{name}"

    def run_command(self, command: list[str], environ_update: dict[str, str]) -> tuple[int, str, str]:
        assert command[0] == "/usr/bin/nvidia-smi"
        if command[1:] == ["-q", "-d", "PIDS"]:
            return 0, self.processes, ""
        if self.gpus == "broken":
            return 9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", ""
        return 0, str(self.gpus), ""


def guard(gpus: t.Optional[str], processes: str = "", **params: t.Any) -> dict[str, t.Any]:
    return gpu_runtime_guard.run(t.cast(t.Any, Module(gpus, processes, **params)))


@pytest.mark.parametrize(
    ("gpus", "summary"),
    [
        (None, "has no nvidia-smi, so there is no NVIDIA GPU to guard"),
        ("No devices were found\n", "lists no GPU on"),
        (FREE, "nothing else holds the 2 GPUs"),
    ],
)
def test_a_host_on_which_nothing_is_in_the_way(gpus: t.Optional[str], summary: str) -> None:
    result = guard(gpus)
    assert summary in result["summary"]
    assert (result["changed"], result["holders"], result["stopped"]) == (False, [], [])


def test_a_process_in_the_way_is_named() -> None:
    with pytest.raises(ServingError, match=r"GPU 0 has 13% free .* Held by train \(pid 4242, 19,500 MiB of GPU 0\): kill 4242") as caught:
        guard(BUSY, PROCESSES.format(pid=4242, name="/opt/train"))
    assert [holder["kind"] for holder in caught.value.details["holders"]] == ["process"]


@pytest.mark.parametrize("wanted", [{"gpu_ids": [1]}, {"gpu_ids": [1], "gpu_count": 1}])
def test_other_gpus_do_not_matter(wanted: dict[str, t.Any]) -> None:
    assert guard(BUSY, PROCESSES.format(pid=4242, name="/opt/train"), **wanted)["summary"] == "nothing else holds GPU 1"


def test_the_first_gpus_are_those_that_will_be_used() -> None:
    behind = BUSY.splitlines(keepends=True)
    assert guard(f"0{behind[1][1:]}1{behind[0][1:]}", gpu_count=1)["summary"] == "nothing else holds GPU 0"


def test_gpus_that_are_named_will_all_be_used() -> None:
    first, second = FREE.splitlines(keepends=True)[0], f"1{BUSY.splitlines(keepends=True)[0][1:]}"
    assert guard(first + second, gpu_count=1)["holders"] == []
    with pytest.raises(ServingError, match="GPU 1 has 13% free"):
        guard(first + second, gpu_ids=[0, 1], gpu_count=1)


def test_models_of_ollama_are_asked_for_before_vllm_starts() -> None:
    with stub.StubOpenAI() as ollama:
        ollama.scripts["/api/ps"] = [stub.document({"models": [{"name": "gemma3", "size_vram": 5333539264}]})]
        with pytest.raises(ServingError, match=r"Held by Ollama's gemma3 \(5,086 MiB\): ollama stop gemma3, or OLLAMA_KEEP_ALIVE=0, or"):
            guard(BUSY, PROCESSES.format(pid=4242, name="/usr/local/bin/ollama"), ollama_url=ollama.url)
        assert [request.path for request in ollama.requests] == ["/api/ps"]
        assert guard(BUSY, PROCESSES.format(pid=4242, name="ollama"), ollama_url=ollama.url, runtime="ollama")["holders"] == []
        assert len(ollama.requests) == 1


def test_processes_of_the_deployment_make_room_for_its_engine_only(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "LLMOPS_SERVING_STATE": str(tmp_path)}
    command = [sys.executable, "-c", "print(flush=True); input()"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        processes = PROCESSES.format(pid=engine.pid, name="VLLM::EngineCore")
        assert guard(BUSY, processes, state_dir=str(tmp_path))["holders"] == []
        with pytest.raises(ServingError, match=r"19,500 MiB of GPU 0\): make uninstall-chat\."):
            guard(BUSY, processes, state_dir=str(tmp_path), runtime="ollama")
        engine.communicate(b"\n")
    with pytest.raises(ServingError, match="VLLM::EngineCore"):
        guard(BUSY, processes, state_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("gpus", "params", "message"),
    [
        ("broken", {}, "nvidia-smi does not work on"),
        (FREE, {"gpu_ids": [2]}, "has no GPU 2; nvidia-smi lists 0, 1"),
        (FREE, {"min_free_share": 92.0}, "min_free_share is 92; it is a share, from 0 to 1"),
        (FREE, {"ollama_url": "localhost"}, 'ollama_url: "localhost" cannot be asked'),
    ],
)
def test_trouble_is_told(gpus: str, params: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError) as caught:
        guard(gpus, **params)
    assert message in str(caught.value)


# -- a cluster ---------------------------------------------------------------------------------------------------------

DEPLOYMENTS = "/apis/apps/v1/namespaces/chatbot/deployments"
PODS = "/api/v1/namespaces/chatbot/pods"
OURS = {"app.kubernetes.io/managed-by": "llmops.serving", "app.kubernetes.io/instance": "chat", "app.kubernetes.io/part-of": "ollama"}


class Cluster:
    """As much of Kube as the module asks. A pod is told to end when its Deployment is scaled down, and gone ``pods_take_s`` later."""

    def __init__(self, pods_take_s: float = 7.0) -> None:
        self.time = 0.0
        self.pods_take_s = pods_take_s
        self.deployments: dict[str, Object] = {}
        self.pods: dict[str, Object] = {}
        self.gone_at: dict[str, float] = {}
        self.nodes: dict[str, Object] = {}
        self.patches: builtins.list[tuple[str, Object, Object]] = []
        self.forbidden: set[str] = set()
        self.watches = 0

    def add(self, name: str, replicas: int = 1, labels: t.Optional[t.Mapping[str, str]] = None, pods: t.Optional[int] = None) -> None:
        self.deployments[name] = {
            "metadata": {"name": name, "generation": 1, "labels": dict(OURS if labels is None else labels)},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}},
            "status": {"observedGeneration": 1, "replicas": replicas},
        }
        for number in range(replicas if pods is None else pods):
            self.pods[f"{name}-7f-{number}"] = {
                "metadata": {
                    "name": f"{name}-7f-{number}",
                    "labels": {"app": name, "pod-template-hash": "7f"},
                    "ownerReferences": [{"kind": "ReplicaSet", "name": f"{name}-7f"}],
                },
                "spec": {"nodeName": "gpu-a", "containers": [{"resources": {"requests": {"nvidia.com/gpu": "1"}}}]},
                "status": {"phase": "Running"},
            }

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        for name in [name for name, moment in self.gone_at.items() if moment <= self.time]:
            self.pods.pop(name, None)

    def _allow(self, what: str) -> None:
        if what in self.forbidden:
            raise KubeError(f"Not permitted: cannot {what}.", status=403)

    def list(self, path: str, label_selector: str = "", field_selector: str = "") -> t.Iterator[Object]:
        wanted = dict(pair.split("=") for pair in label_selector.split(","))
        assert not field_selector or "status.phase!=Succeeded" in field_selector
        for found in list({DEPLOYMENTS: self.deployments, PODS: self.pods}[path].values()):
            ended = field_selector and found["status"]["phase"] in ("Succeeded", "Failed")
            if wanted.items() <= found["metadata"]["labels"].items() and not ended:
                yield copy.deepcopy(found)

    def get(self, path: str) -> t.Optional[Object]:
        folder, _slash, name = path.rpartition("/")
        self._allow(f"get {folder}")
        return copy.deepcopy({DEPLOYMENTS: self.deployments, "/api/v1/nodes": self.nodes}[folder].get(name))

    def call(self, method: str, path: str, query: Object, body: Object, content_type: str) -> Object:
        self._allow("patch")
        assert (method, content_type) == ("PATCH", "application/merge-patch+json")
        name = path.rpartition("/")[2]
        self.patches.append((name, query, body))
        if name not in self.deployments:
            raise KubeError("not found.", status=404)
        deployment = self.deployments[name]
        if not query["dryRun"]:
            deployment["metadata"]["generation"] += 1
            deployment["spec"].update(body["spec"])
            deployment["status"] = {"observedGeneration": deployment["metadata"]["generation"]}
            for pod in self.pods.values():
                if pod["metadata"]["labels"]["app"] == name:
                    self.end(pod)
        return copy.deepcopy(deployment)

    def end(self, pod: Object) -> None:
        pod["metadata"].update(deletionTimestamp="2026-11-21T12:00:30Z", deletionGracePeriodSeconds=30)
        self.gone_at[pod["metadata"]["name"]] = self.time + self.pods_take_s

    def watch(self, path: str, label_selector: str, field_selector: str, timeout_s: int) -> t.Iterator[tuple[str, Object]]:
        self._allow("watch")
        self.watches += 1
        until = self.time + timeout_s
        while self.time < until:
            before = dict(self.pods)
            self.sleep(1)
            for name in set(before) - set(self.pods):
                yield "DELETED", before[name]
            yield "MODIFIED", {}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def rivals(cluster: Cluster, check_mode: bool = False, **params: t.Any) -> dict[str, t.Any]:
    defaults = {"runtime": "vllm", "namespace": "chatbot", "instance": "chat", "stop": True, "wait_timeout": 300, "progress_path": None}
    return Rivals(t.cast(t.Any, cluster), {**defaults, **params}, check_mode, cluster.now, cluster.sleep).run()


def failure(cluster: Cluster, **params: t.Any) -> ServingError:
    with pytest.raises(ServingError) as caught:
        rivals(cluster, **params)
    return caught.value


@pytest.mark.parametrize("stop", [True, False])
def test_where_nothing_of_the_other_backend_runs(cluster: Cluster, stop: bool) -> None:
    cluster.add("ollama", replicas=0)
    result = rivals(cluster, stop=stop)
    assert result == {"changed": False, "stopped": [], "holders": [], "summary": "no Ollama of the stack chat runs in chatbot"}
    assert cluster.patches == []


def test_it_is_stopped_and_waited_for(cluster: Cluster) -> None:
    cluster.add("ollama", replicas=2)
    result = rivals(cluster)
    assert (result["changed"], result["stopped"]) == (True, ["Deployment/ollama"])
    assert result["summary"] == "Ollama was stopped in chatbot: Deployment/ollama (2 GPUs), gone after 7 s"
    assert [holder["kind"] for holder in result["holders"]] == ["deployment", "pod", "pod"]
    assert cluster.patches == [("ollama", {"fieldManager": "llmops.serving", "dryRun": None}, {"spec": {"replicas": 0}})]
    assert cluster.pods == {}
    assert "ollama" in cluster.deployments
    assert not rivals(cluster)["changed"]


def test_without_stop_it_is_only_told(cluster: Cluster) -> None:
    cluster.add("ollama")
    result = rivals(cluster, stop=False)
    assert (result["changed"], result["stopped"]) == (False, [])
    assert result["summary"] == "Ollama runs in chatbot: Deployment/ollama (1 GPU)"
    remedy = "kubectl -n chatbot scale deployment/ollama --replicas=0"
    texts = [f"Deployment/ollama (1 GPU): {remedy}", f"chatbot/ollama-7f-0 (1 GPU of gpu-a): {remedy}"]
    assert [holder["text"] for holder in result["holders"]] == texts
    assert cluster.patches == []


def test_check_mode_says_what_would_be_stopped(cluster: Cluster) -> None:
    cluster.add("ollama")
    result = rivals(cluster, check_mode=True)
    assert (result["changed"], result["stopped"]) == (True, ["Deployment/ollama"])
    assert result["summary"] == "Ollama would be stopped in chatbot: Deployment/ollama (1 GPU)"
    assert [query["dryRun"] for _name, query, _body in cluster.patches] == ["All"]
    assert (len(cluster.pods), cluster.time) == (1, 0)
    cluster.forbidden.add("patch")
    with pytest.raises(ServingError, match="Deployment/ollama cannot be stopped: Not permitted"):
        rivals(cluster, check_mode=True)


@pytest.mark.parametrize("label", list(OURS))
def test_what_is_not_ours_is_not_touched(cluster: Cluster, label: str) -> None:
    cluster.add("ollama", labels={**OURS, label: "another"})
    cluster.add("bare", labels={})
    assert rivals(cluster)["holders"] == []
    assert cluster.patches == []


def test_engines_are_stopped_for_ollama_and_their_router_is_not(cluster: Cluster) -> None:
    labels = {**OURS, "app.kubernetes.io/part-of": "vllm"}
    cluster.add("vllm-backend", labels={**labels, "app": "vllm-backend"})
    cluster.add("vllm-router", labels={**labels, "app": "vllm-router"})
    cluster.add("ollama")
    result = rivals(cluster, runtime="ollama")
    assert result["stopped"] == ["Deployment/vllm-backend"]
    assert result["summary"].startswith("vLLM was stopped in chatbot")
    assert sorted(cluster.pods) == ["ollama-7f-0", "vllm-router-7f-0"]


def test_pods_that_an_interrupted_run_has_left_are_waited_for(cluster: Cluster) -> None:
    cluster.add("ollama", replicas=0, pods=1)
    for pod in cluster.pods.values():
        cluster.end(pod)
    result = rivals(cluster)
    assert (result["changed"], result["stopped"], cluster.pods) == (False, [], {})
    assert cluster.patches == []


def test_pods_that_have_ended_hold_nothing(cluster: Cluster) -> None:
    cluster.add("ollama", replicas=0, pods=1)
    cluster.pods["ollama-7f-0"]["status"]["phase"] = "Failed"
    assert rivals(cluster)["holders"] == []


def test_several_deployments_are_waited_for_together(cluster: Cluster) -> None:
    cluster.add("ollama")
    cluster.add("ollama-embeddings", replicas=3)
    assert rivals(cluster)["stopped"] == ["Deployment/ollama", "Deployment/ollama-embeddings"]
    assert (cluster.pods, cluster.time) == ({}, 7)


def test_a_deployment_that_vanishes_meanwhile_is_no_trouble(cluster: Cluster) -> None:
    cluster.add("ollama")
    deployment = cluster.deployments["ollama"]
    call = cluster.call

    def removed_first(*args: t.Any, **options: t.Any) -> Object:
        del cluster.deployments["ollama"]
        cluster.pods.clear()
        return call(*args, **options)

    cluster.call = removed_first  # type: ignore[method-assign]
    assert deployment["spec"]["replicas"] == 1
    result = rivals(cluster)
    assert (result["changed"], result["stopped"]) == (False, [])


def test_a_deployment_that_is_removed_while_its_pods_end(cluster: Cluster) -> None:
    cluster.add("ollama")
    watch = cluster.watch

    def removing(*args: t.Any, **options: t.Any) -> t.Iterator[tuple[str, Object]]:
        cluster.deployments.pop("ollama", None)
        return watch(*args, **options)

    cluster.watch = removing  # type: ignore[method-assign]
    assert rivals(cluster)["changed"]
    assert cluster.time == 7


def test_a_change_that_the_cluster_has_not_taken_up_is_waited_for(cluster: Cluster) -> None:
    cluster.add("ollama", pods=0)
    call = cluster.call

    def slow(*args: t.Any, **options: t.Any) -> Object:
        answer = call(*args, **options)
        cluster.deployments["ollama"]["status"] = {"observedGeneration": 1, "replicas": 1}
        return answer

    cluster.call = slow  # type: ignore[method-assign]
    error = failure(cluster, wait_timeout=20)
    assert "Deployment/ollama is scaled to 0, but the cluster has not taken that up. 20 s were waited" in str(error)


def test_what_something_scales_up_again_is_not_waited_for(cluster: Cluster) -> None:
    cluster.add("ollama")
    call = cluster.call

    def autoscaled(*args: t.Any, **options: t.Any) -> Object:
        answer = call(*args, **options)
        cluster.deployments["ollama"]["spec"]["replicas"] = 1
        return answer

    cluster.call = autoscaled  # type: ignore[method-assign]
    error = failure(cluster)
    assert "something has scaled it up again" in str(error)
    assert error.details["changed"] is True
    assert cluster.time == 0


STUCK = {
    "finalizer": (lambda pod, nodes: pod["metadata"].update(finalizers=["example.com/slow"]), "the finalizer example.com/slow holds it"),
    "node": (
        lambda pod, nodes: nodes.update({"gpu-a": {"metadata": {}, "status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}}),
        "its node gpu-a is not ready and does not confirm",
    ),
    "slow": (lambda pod, nodes: None, "it is terminating on gpu-a; it may take until 2026-11-21T12:00:30Z (grace period 30 s)"),
}


@pytest.mark.parametrize(("make", "why"), STUCK.values(), ids=STUCK)
def test_a_pod_that_does_not_go_is_named(cluster: Cluster, make: t.Callable[[Object, Object], None], why: str) -> None:
    cluster.pods_take_s = 9999
    cluster.add("ollama")
    make(cluster.pods["ollama-7f-0"], cluster.nodes)
    error = failure(cluster, wait_timeout=20)
    assert str(error).startswith(f"Deployment/ollama is scaled to 0, but its pod chatbot/ollama-7f-0 does not go: {why}")
    assert "20 s were waited; its GPUs are not free." in str(error)
    assert error.details["stopped"] == ["Deployment/ollama"]
    assert error.details["changed"] is True
    assert len(error.details["holders"]) == 2
    assert cluster.time == 20


def test_fewer_permissions_will_do(cluster: Cluster) -> None:
    cluster.forbidden = {"watch", "get /api/v1/nodes"}
    cluster.add("ollama")
    assert rivals(cluster)["changed"]
    cluster.pods_take_s = 9999
    cluster.add("ollama")
    assert "it is terminating on gpu-a" in str(failure(cluster, wait_timeout=10))


def test_a_watch_that_ends_at_once_is_no_busy_loop(cluster: Cluster) -> None:
    cluster.add("ollama")
    cluster.watch = lambda *args, **options: iter([("ERROR", {})])  # type: ignore[method-assign,assignment]
    assert rivals(cluster)["summary"].endswith("gone after 7 s")


def test_what_it_waits_for_is_told(cluster: Cluster, tmp_path: Path) -> None:
    cluster.add("ollama", replicas=5)
    rivals(cluster, progress_path=str(tmp_path / "progress"))
    told = [json.loads(line)["text"] for line in (tmp_path / "progress").read_text().splitlines()]
    assert told == ["Ollama ends: ollama-7f-0, ollama-7f-1, ollama-7f-2 and 2 more"]


# -- the module --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "key", "value"),
    [
        ({}, "msg", "source is kubernetes but all of the following are missing: namespace"),
        ({"namespace": "chatbot", "kubeconfig": "/nonexistent"}, "msg", "No kubeconfig: /nonexistent does not exist"),
        ({"source": "host", "min_free_share": 2}, "msg", "min_free_share is 2"),
    ],
)
def test_a_failure_is_one_message(arguments: dict[str, t.Any], key: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        gpu_runtime_guard.main()
    result = json.loads(capsys.readouterr().out)
    assert result["failed"] is True
    assert value in result[key]


def test_a_host_without_a_gpu_passes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(gpu_runtime_guard.AnsibleModule, "get_bin_path", lambda *args, **options: None)
    with patch_module_args({"source": "host"}), pytest.raises(SystemExit):
        gpu_runtime_guard.main()
    result = json.loads(capsys.readouterr().out)
    assert result["summary"].endswith("has no nvidia-smi, so there is no NVIDIA GPU to guard")
    assert (result["changed"], "failed" in result) == (False, False)


def test_what_is_beside_is_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    host = Module(BUSY, PROCESSES.format(pid=4242, name="/opt/train"))
    warnings: list[str] = []
    for name, replacement in (("get_bin_path", host.get_bin_path), ("run_command", host.run_command), ("warn", warnings.append)):
        monkeypatch.setattr(gpu_runtime_guard.AnsibleModule, name, staticmethod(replacement))
    with patch_module_args({"source": "host", "min_free_share": 0.1, "ollama_url": NOBODY}), pytest.raises(SystemExit):
        gpu_runtime_guard.main()
    assert [warning.partition(":")[2][:51] for warning in warnings] == [" train (pid 4242, 19,500 MiB of GPU 0): kill 4242, "]
    result = json.loads(capsys.readouterr().out)
    assert ("failed" in result, "warnings" in result) == (False, False)
