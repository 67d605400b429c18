# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os
import subprocess
import sys
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import Kube, KubeError
from ansible_collections.llmops.serving.plugins.modules import gpu_memory_check

NODE = {
    "metadata": {"name": "gpu-a", "labels": {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}},
    "spec": {"taints": [{"key": "nvidia.com/gpu", "effect": "NoSchedule"}]},
    "status": {"allocatable": {"nvidia.com/gpu": "2"}, "conditions": [{"type": "Ready", "status": "True"}]},
}
POD = {
    "metadata": {"name": "engine", "namespace": "chatbot", "uid": "1", "labels": {"app": "vllm-backend"}},
    "spec": {"nodeName": "gpu-a", "containers": [{"resources": {"requests": {"nvidia.com/gpu": "2"}}}]},
}


Connections = list[tuple[t.Optional[str], t.Optional[str]]]


class Module:
    """What the module takes of AnsibleModule: params, and a host where nvidia-smi ends as told."""

    def __init__(
        self, binary: t.Optional[str] = "/usr/bin/nvidia-smi", result: tuple[int, str, str] = (0, "", ""), **params: t.Any
    ) -> None:
        defaults: dict[str, t.Any] = {
            "source": "kubernetes",
            "min_memory_gb": 24.0,
            "gpus_per_node": 1,
            "replicas": 1,
            "accelerator": "nvidia",
        }
        self.params = {
            **defaults,
            "tolerations": [],
            "replaced_pods": None,
            "node_selector": {},
            "gpu_ids": [],
            "min_free_share": 0.92,
            "replaced_state_dir": None,
            "kubeconfig": None,
            "context": None,
            **params,
        }
        self.binary = binary
        self.result = result
        self.commands: list[list[str]] = []
        # what it writes when it is asked for these columns
        self.answers: dict[str, str] = {}

    def get_bin_path(self, name: str, opt_dirs: list[str]) -> t.Optional[str]:
        return self.binary

    def run_command(self, command: list[str], environ_update: t.Optional[dict[str, str]] = None) -> tuple[int, str, str]:
        self.commands.append(command)
        return (0, self.answers[command[1]], "") if command[1] in self.answers else self.result


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> Connections:
    """Put a cluster of one GPU node in the place of the real one; return how it was connected to."""
    made: Connections = []

    class Cluster:
        @classmethod
        def connect(cls, kubeconfig: t.Optional[str], context: t.Optional[str]) -> t.Any:
            made.append((kubeconfig, context))
            return cls()

        def list(self, path: str, label_selector: str = "", field_selector: str = "", missing_ok: bool = True) -> list[dict[str, t.Any]]:
            return [NODE] if path == "/api/v1/nodes" else [POD]

    monkeypatch.setattr(gpu_memory_check, "Kube", Cluster)
    return made


def test_cluster_options_reach_the_check(connections: Connections) -> None:
    module = Module(
        kubeconfig="/k",
        context="c",
        tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}],
        replaced_pods={"namespace": "chatbot", "label_selector": "app=vllm-backend"},
        gpus_per_node=2,
    )
    result = gpu_memory_check.run(module)
    assert (result["fits"], result["replaced_apps"]) == (["gpu-a"], ["vllm-backend"])
    assert connections == [("/k", "c")]


def test_without_toleration_and_room_it_fails(connections: Connections) -> None:
    with pytest.raises(ServingError, match=r"in use, taint nvidia\.com/gpu:NoSchedule is not tolerated"):
        gpu_memory_check.run(Module())


def test_who_holds_them_is_named(connections: Connections) -> None:
    with pytest.raises(ServingError, match=r"they are held by chatbot/engine \(2\) on gpu-a: remove such a pod, or wait") as caught:
        gpu_memory_check.run(Module(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]))
    assert [holder["text"] for holder in caught.value.details["holders"]] == ["chatbot/engine (2 GPUs of gpu-a)"]


def test_what_is_no_kubernetes_api_is_not_a_cluster_without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer_404(self: Kube, method: str, path: str, **options: t.Any) -> t.NoReturn:
        raise KubeError("404 page not found.", status=404)

    monkeypatch.setattr(Kube, "connect", lambda kubeconfig, context: Kube(api=None))
    monkeypatch.setattr(Kube, "call", answer_404)
    with pytest.raises(KubeError, match="page not found"):
        gpu_memory_check.run(Module())


def test_host_runs_nvidia_smi() -> None:
    module = Module(source="host", result=(0, "0, NVIDIA L4, 23034, 22500, 8.9, Disabled\n", ""))
    assert gpu_memory_check.run(module)["replicas_possible"] == 1
    query = "--query-gpu=index,name,memory.total,memory.free,compute_cap,mig.mode.current"
    assert module.commands == [["/usr/bin/nvidia-smi", query, "--format=csv,noheader,nounits"]]


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ({"binary": None}, "has no nvidia-smi"),
        (
            {"result": (9, "NVIDIA-SMI has failed because it couldn't communicate\nwith the NVIDIA driver.\n", "")},
            "it couldn't communicate with",
        ),
        (
            {"result": (18, "", "Failed to initialize NVML: Driver/library version mismatch")},
            "version mismatch. Install the NVIDIA driver, or reboot",
        ),
        ({"result": (6, "No devices were found\n", "")}, "nvidia-smi lists no GPU on"),
        ({"accelerator": "amd"}, "on a host only NVIDIA GPUs can be read"),
        ({"min_memory_gb": -1.0}, "min_memory_gb is -1; it must be 0 or more"),
        ({"gpus_per_node": 0}, "gpus_per_node is 0; it must be 1 or more"),
        ({"replicas": 0}, "replicas is 0; it must be 1 or more"),
        ({"min_free_share": 50.0}, "min_free_share is 50; it is a share, from 0 to 1"),
    ],
)
def test_trouble_is_told(host: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError) as caught:
        gpu_memory_check.run(Module(source="host", **host))
    assert message in str(caught.value)


TWO_GPUS = (0, "0, NVIDIA L4, 23034, 3000, 8.9, Disabled\n1, NVIDIA A100 80GB, 81920, 81000, 8.0, Disabled\n", "")


def test_only_the_gpus_that_are_named_are_looked_at() -> None:
    result = gpu_memory_check.run(Module(source="host", result=TWO_GPUS, gpu_ids=[1]))
    assert [gpus["index"] for gpus in result["gpus"]] == [1]
    with pytest.raises(ServingError, match="NVIDIA L4"):
        gpu_memory_check.run(Module(source="host", result=TWO_GPUS, gpu_ids=[0]))


@pytest.mark.parametrize(("ids", "absent"), [([2], 2), ([1, 3, 2], 2)])
def test_a_gpu_that_is_named_and_not_there(ids: list[int], absent: int) -> None:
    with pytest.raises(ServingError, match=rf"has no GPU {absent}; nvidia-smi lists 0, 1\. Mend vllm_gpu_ids\."):
        gpu_memory_check.run(Module(source="host", result=TWO_GPUS, gpu_ids=ids))


def test_processes_of_the_deployment_make_room(tmp_path: Path) -> None:
    code = "print(flush=True); input()"
    environment = {"PATH": os.environ["PATH"], "LLMOPS_SERVING_STATE": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdout is not None
        engine.stdout.readline()
        module = Module(source="host", result=TWO_GPUS, gpu_ids=[0], replaced_state_dir=str(tmp_path))
        module.answers = {
            "--query-gpu=index,uuid": "0, GPU-aaaa\n1, GPU-bbbb\n",
            "--query-compute-apps=gpu_uuid,pid,used_gpu_memory": f"GPU-aaaa, {engine.pid}, 19500\n",
        }
        [gpus] = gpu_memory_check.run(module)["gpus"]
        engine.communicate(b"\n")
    assert (gpus["memory_free_mib"], gpus["free"]) == (22500, 1)
    with pytest.raises(ServingError, match="processes hold over 8% of the memory"):
        gpu_memory_check.run(module)


PROCESSES = """
GPU 00000000:01:00.0
        Process ID                        : 4242
            Type                          : C
            Name                          : /usr/bin/python3
            Used GPU Memory               : 19000 MiB
GPU 00000000:02:00.0
        Process ID                        : 4243
            Type                          : G
            Name                          : /usr/lib/xorg/Xorg
            Used GPU Memory               : 300 MiB
"""


def test_who_holds_memory_of_a_host_is_named_by_one_call_more() -> None:
    module = Module(source="host", result=TWO_GPUS, gpus_per_node=2)
    module.answers = {"-q": PROCESSES}
    with pytest.raises(ServingError, match=r"over 8% of the memory is held by python3 \(pid 4242, 19,000 MiB of GPU 0\)") as caught:
        gpu_memory_check.run(module)
    assert [holder["pid"] for holder in caught.value.details["holders"]] == [4242, 4243]
    assert [command[1:] for command in module.commands[1:]] == [["-q", "-d", "PIDS"]]


def test_processes_are_not_asked_for_where_memory_is_free() -> None:
    module = Module(source="host", result=TWO_GPUS, gpu_ids=[1])
    assert gpu_memory_check.run(module)["holders"] == []
    assert len(module.commands) == 1


@pytest.mark.parametrize(("share", "replicas"), [(0.92, 1), (0.5, 1), (0.1, 2)])
def test_a_smaller_share_lets_others_hold_the_rest(share: float, replicas: int) -> None:
    module = Module(source="host", result=TWO_GPUS, min_free_share=share)
    assert gpu_memory_check.run(module)["replicas_possible"] == replicas


def test_the_share_that_was_asked_for_is_told() -> None:
    with pytest.raises(ServingError, match="processes hold over 40% of the memory"):
        gpu_memory_check.run(Module(source="host", result=TWO_GPUS, min_free_share=0.6, gpu_ids=[0]))
