# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import typing as t

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
    "metadata": {"name": "engine", "uid": "1"},
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
            "kubeconfig": None,
            "context": None,
            **params,
        }
        self.binary = binary
        self.result = result
        self.command: list[str] = []

    def get_bin_path(self, name: str, opt_dirs: list[str]) -> t.Optional[str]:
        return self.binary

    def run_command(self, command: list[str], environ_update: dict[str, str]) -> tuple[int, str, str]:
        self.command = command
        return self.result


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
    assert gpu_memory_check.run(module)["fits"] == ["gpu-a"]
    assert connections == [("/k", "c")]


def test_without_toleration_and_room_it_fails(connections: Connections) -> None:
    with pytest.raises(ServingError, match=r"in use, taint nvidia\.com/gpu:NoSchedule is not tolerated"):
        gpu_memory_check.run(Module())


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
    assert module.command == [
        "/usr/bin/nvidia-smi",
        "--query-gpu=index,name,memory.total,memory.free,compute_cap,mig.mode.current",
        "--format=csv,noheader,nounits",
    ]


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
    ],
)
def test_trouble_is_told(host: dict[str, t.Any], message: str) -> None:
    with pytest.raises(ServingError) as caught:
        gpu_memory_check.run(Module(source="host", **host))
    assert message in str(caught.value)
