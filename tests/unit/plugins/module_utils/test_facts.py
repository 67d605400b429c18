# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is deployed, read from pods and nodes as the API tells them, and from a state folder as supervisor_apply writes it."""

from __future__ import annotations

import contextlib
import json
import typing as t
from pathlib import Path

import pytest
from ansible_collections.llmops.serving.plugins.module_utils import _facts
from ansible_collections.llmops.serving.plugins.module_utils._docker import Docker
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError
from ansible_collections.llmops.serving.plugins.module_utils._kube import KubeError, Object
from ansible_collections.llmops.serving.plugins.module_utils._results import DEPLOYMENT
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Layout as StateFolder
from ansible_collections.llmops.serving.plugins.module_utils._supervisor import Program, script_text
from ansible_collections.llmops.serving.tests.unit import stub_openai as stub

DIGEST = "sha256:" + "0123456789abcdef" * 4
FLAGS = ["/data/models/smoke", "--served-model-name", "smoke", "chat", "--tensor-parallel-size", "2"]
NVIDIA = {"nvidia.com/gpu.product": "NVIDIA-L4", "nvidia.com/gpu.memory": "23034"}


def engine(name: str = "old", created: str = "2026-01-01T00:00:00Z", ready: bool = True, gpus: int = 2, **labels: str) -> Object:
    resources = {"requests": {"nvidia.com/gpu": str(gpus)}} if gpus else {}
    return {
        "metadata": {
            "name": f"vllm-backend-{name}",
            "creationTimestamp": created,
            "labels": {"app": "vllm-backend", "serving.llmops/routed": "true", **labels},
            "annotations": {"serving.llmops/model": f"smoke-{name}"},
        },
        "spec": {
            "nodeName": "gpu-a",
            "initContainers": [{"name": "wait-for-gpu", "image": "other"}],
            "containers": [
                {"name": "proxy", "image": "proxy:1"},
                {
                    "name": "vllm",
                    "image": "vllm/vllm-openai:v0.32.0",
                    "args": FLAGS,
                    "ports": [{"containerPort": 8000}],
                    "resources": resources,
                },
            ],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready)}],
            "containerStatuses": [
                {"name": "proxy", "imageID": "sha256:" + "f" * 64},
                {"name": "vllm", "imageID": f"docker.io/vllm/vllm-openai@{DIGEST}"},
            ],
        },
    }


def router() -> Object:
    return {
        "metadata": {"name": "vllm-router-1", "labels": {"app.kubernetes.io/name": "production-stack"}},
        "spec": {"containers": [{"name": "router", "image": "lmcache/lmstack-router:v0.1.12"}]},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }


def node(**labels: str) -> Object:
    return {
        "metadata": {"name": "gpu-a", "labels": {**NVIDIA, **labels}},
        "status": {
            "capacity": {"cpu": "16"},
            "allocatable": {"nvidia.com/gpu": "4"},
            "nodeInfo": {"architecture": "amd64"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


class Cluster:
    """As much of Kube as is asked, on dicts. *url* is what port-forwards lead to; without it, they are refused."""

    def __init__(self, *engines: Object, routers: t.Sequence[Object] = (), nodes: t.Sequence[Object] = (), url: str = "") -> None:
        self.pods = {"vllm-backend": list(engines), "vllm-router": list(routers)}
        self.nodes = {f"/api/v1/nodes/{found['metadata']['name']}": found for found in nodes}
        self.url = url
        self.forwards: list[str] = []

    def list(self, path: str, label_selector: str = "") -> t.Iterator[Object]:
        assert path == "/api/v1/namespaces/chatbot/pods"
        app, _comma, instance = label_selector.partition(",")
        assert instance == "app.kubernetes.io/instance=chat"
        yield from self.pods[app.partition("=")[2]]

    def get(self, path: str) -> t.Optional[Object]:
        if not self.nodes:
            raise KubeError("Not permitted: cannot get resource nodes.", 403)
        return self.nodes.get(path)

    @contextlib.contextmanager
    def port_forward(self, namespace: str, pod: str, port: int) -> t.Iterator[str]:
        self.forwards.append(f"{namespace}/{pod}:{port}")
        if not self.url:
            raise KubeError("Not permitted: cannot create pods/portforward.", 403)
        yield self.url


def facts(cluster: Cluster) -> dict[str, t.Any]:
    return _facts.cluster_facts(t.cast("t.Any", cluster), "chatbot", "chat", "kubectl -n chatbot")


@pytest.fixture
def server() -> t.Iterator[stub.StubOpenAI]:
    with stub.StubOpenAI() as running:
        running.scripts["/version"] = [stub.document({"version": "0.32.0"})]
        yield running


# --- a cluster -------------------------------------------------------------------------------------------------------------------------


def test_the_newest_ready_engine_tells_what_is_deployed(server: stub.StubOpenAI) -> None:
    newer, newest = engine("new", "2026-02-01T00:00:00Z"), engine("newest", "2026-03-01T00:00:00Z", ready=False)
    cluster = Cluster(newer, engine(), newest, routers=[router()], nodes=[node()], url=server.url)
    assert facts(cluster) == {
        "model": "smoke-new",
        "stack": "chat",
        "platform": "kubernetes",
        "gpu": "2 x NVIDIA-L4",
        "vllm_version": "0.32.0",
        "image": "vllm/vllm-openai:v0.32.0",
        "image_digest": DIGEST,
        "router": "production-stack (lmcache/lmstack-router:v0.1.12)",
        "flags": FLAGS,
        "engines": 2,
        "node": "gpu-a",
        "cpu": "16 x amd64",
        "environment": None,
        "torch_version": None,
    }
    assert cluster.forwards == ["chatbot/vllm-backend-new:8000"]
    assert server.requests[-1].authorization is None


def test_engines_that_routers_do_not_see_yet_do_not_count() -> None:
    held = engine("new", "2026-02-01T00:00:00Z", **{"serving.llmops/routed": "false"})
    assert facts(Cluster(engine(), held))["model"] == "smoke-old"


def test_what_may_not_be_looked_at_is_empty() -> None:
    found = facts(Cluster(engine()))
    unknown = {key for key, value in found.items() if value is None}
    assert unknown == {"gpu", "cpu", "vllm_version", "router", "environment", "torch_version"}


def test_an_engine_without_gpus_has_none() -> None:
    found = facts(Cluster(engine(gpus=0), nodes=[node()]))
    assert (found["gpu"], found["cpu"]) == (None, "16 x amd64")


def test_an_engine_that_is_no_vllm_has_no_version() -> None:
    with stub.StubOpenAI() as other:
        assert facts(Cluster(engine(), url=other.url))["vllm_version"] is None
        other.scripts["/version"] = [stub.document({"version": None}), stub.page("<html>")]
        assert [facts(Cluster(engine(), url=other.url))["vllm_version"] for _time in range(2)] == [None, None]


@pytest.mark.parametrize(
    ("image_id", "image", "expected"),
    [
        (DIGEST, "vllm:1", DIGEST),
        (f"docker-pullable://vllm@{DIGEST}", "vllm:1", DIGEST),
        ("", f"vllm@{DIGEST}", DIGEST),
        ("", "vllm:1", None),
    ],
)
def test_digests_in_all_their_forms(image_id: str, image: str, expected: t.Optional[str]) -> None:
    pod = engine()
    pod["status"]["containerStatuses"][1]["imageID"] = image_id
    pod["spec"]["containers"][1]["image"] = image
    assert _facts.engine_facts(pod)["image_digest"] == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (FLAGS, "smoke"),
        (["Qwen/Qwen3-8B", "--port", "1"], "Qwen/Qwen3-8B"),
        (["/m", "--served-model-name=smoke"], "smoke"),
        (["--model", "m"], None),
        (["/m", "--served-model-name"], "/m"),
        ([], None),
    ],
)
def test_the_name_that_an_engine_serves_by(flags: list[str], expected: t.Optional[str]) -> None:
    assert _facts.served_name(flags) == expected


def test_amd_gpus_are_named_as_their_labeller_does() -> None:
    pod = engine(gpus=0)
    pod["spec"]["containers"][1]["resources"] = {"requests": {"amd.com/gpu": 1}}
    found = node(**{"amd.com/gpu.product-name": "MI300X"})
    found["status"]["allocatable"] = {"amd.com/gpu": "8"}
    assert _facts.gpu_text(pod, found) == "MI300X"


def test_nothing_deployed_is_an_error_with_advice() -> None:
    words = r"Nothing is deployed: there is no engine of chat in namespace chatbot\. Deploy it \(make install-chat\).*llm_namespace"
    with pytest.raises(ServingError, match=words):
        facts(Cluster())


def test_no_ready_engine_is_an_error_with_its_trouble() -> None:
    pod = engine(ready=False)
    pod["status"]["containerStatuses"][1]["state"] = {"waiting": {"reason": "ImagePullBackOff"}}
    words = r"No engine of chat in namespace chatbot is ready \(vllm-backend-old: .*\)\. Wait .* kubectl -n chatbot get pods"
    with pytest.raises(ServingError, match=words):
        facts(Cluster(pod))


# --- this machine ----------------------------------------------------------------------------------------------------------------------

CPUINFO = "processor\t: 0\nmodel name\t: Example CPU @ 2.00GHz\n\nprocessor\t: 1\nmodel name\t: Example CPU @ 2.00GHz\n"
L4S = "".join(f"{index}, {name}, 23034, 22500, 8.9, Disabled\n" for index, name in enumerate(["NVIDIA L4", "NVIDIA L40S", "NVIDIA L4"]))


def deployed(tmp_path: Path, lock: str = "vllm-nvidia", environment: t.Optional[dict[str, str]] = None, port: int = 0) -> Path:
    """Return a state folder as supervisor_apply leaves it."""
    layout = StateFolder(tmp_path / "state")
    venvs = layout.state_dir / "venvs"
    for name, packages in ((f"{lock}-0123abcd", ["vllm-0.32.0", "torch-2.13.0+cpu"]), ("vllm-router-4567", ["vllm_router-0.1.17"])):
        for package in packages:
            (venvs / name / "lib/python3.11/site-packages" / f"{package}.dist-info").mkdir(parents=True)
    layout.scripts.mkdir()
    command = [f"{venvs}/{lock}-0123abcd/bin/python", "-m", "vllm.entrypoints.cli.main", "serve", *FLAGS]
    program = Program("vllm-backend", command, environment or {}, {"VLLM_API_KEY": "vllm/VLLM_API_KEY"})
    layout.script("vllm-backend").write_text(script_text(program, layout))
    programs = Program("vllm-router", [f"{venvs}/vllm-router-4567/bin/vllm-router", "--port", "8000"])
    layout.script("vllm-router").write_text(script_text(programs, layout))
    (layout.state_dir / "ports.json").write_text(json.dumps({"vllm-backend": port} if port else {}))
    return layout.state_dir


def smi(*_arguments: str) -> tuple[int, str, str]:
    return 0, L4S, ""


def on_host(state_dir: Path, ask: t.Any = smi) -> dict[str, t.Any]:
    return _facts.host_facts(state_dir, "chat", ask, "here", CPUINFO)


def test_the_state_folder_tells_what_is_deployed(tmp_path: Path, server: stub.StubOpenAI) -> None:
    server.scripts["/version"] = [stub.document({"version": "0.32.0+cpu"})]
    assert on_host(deployed(tmp_path, port=server.server_address[1])) == {
        "model": "smoke",
        "stack": "chat",
        "platform": "local",
        "gpu": "NVIDIA L4, NVIDIA L40S",
        "vllm_version": "0.32.0+cpu",
        "image": None,
        "image_digest": None,
        "router": "vllm-router 0.1.17",
        "flags": FLAGS,
        "engines": 1,
        "node": "here",
        "cpu": "2 x Example CPU @ 2.00GHz",
        "environment": "vllm-nvidia-0123abcd",
        "torch_version": "2.13.0+cpu",
    }


def test_an_engine_that_does_not_answer_has_the_version_that_is_installed(tmp_path: Path) -> None:
    assert on_host(deployed(tmp_path))["vllm_version"] == "0.32.0"


def test_gpus_that_were_chosen_are_named(tmp_path: Path) -> None:
    state_dir = deployed(tmp_path, environment={"CUDA_VISIBLE_DEVICES": "0,2", "A": 'two\nlines\' "quoted"'})
    assert on_host(state_dir)["gpu"] == "2 x NVIDIA L4"


def test_an_engine_for_cpus_uses_no_gpu_that_is_there(tmp_path: Path) -> None:
    assert on_host(deployed(tmp_path, "vllm-cpu"))["gpu"] is None


@pytest.mark.parametrize("ask", [None, lambda *_words: (9, "", "no driver"), lambda *_words: (0, "", "No devices were found")])
def test_gpus_that_cannot_be_seen_are_empty(tmp_path: Path, ask: t.Any) -> None:
    assert on_host(deployed(tmp_path), ask)["gpu"] is None


def test_only_the_launch_script_of_the_engine_has_to_be_there(tmp_path: Path) -> None:
    layout = StateFolder(tmp_path)
    layout.scripts.mkdir()
    layout.script("vllm-backend").write_text("#!/bin/sh\nexec 'unclosed\n")
    found = _facts.host_facts(tmp_path, "chat", smi, "here", "")
    assert (found["model"], found["flags"], found["router"], found["cpu"], found["environment"]) == (None, [], None, None, None)


def test_an_empty_state_folder_is_an_error_with_advice(tmp_path: Path) -> None:
    words = r"Nothing is deployed in .*: .*/bin/vllm-backend: No such file or directory\. Deploy it \(make install-chat\).*llm_state_dir"
    with pytest.raises(ServingError, match=words):
        on_host(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("processor : 0\nprocessor : 1\nBogoMIPS : 50\n", "2 x CPU"), ("processor : 0\nmodel name : One\n", "One")],
)
def test_cpus_in_words(text: str, expected: t.Optional[str]) -> None:
    assert _facts.cpu_text(text) == expected


def test_facts_have_every_key_that_results_know(tmp_path: Path) -> None:
    assert set(DEPLOYMENT) <= set(_facts.empty_facts("chat", "local")) == set(on_host(deployed(tmp_path)))


# --- containers of a host -----------------------------------------------------------------------------------------------------------


class Containers(Docker):
    """A Docker that has one engine and its router."""

    found: t.ClassVar[dict[str, t.Any]] = {
        "vllm-backend-lab": {
            "Config": {
                "Image": "vllm/vllm-openai:v0.32.0@sha256:" + "a" * 64,
                "Cmd": ["vllm", "serve", "Qwen/QwQ-32B", "--served-model-name", "qwen-qwq-32b", "chat", "--tensor-parallel-size", "2"],
            },
            "HostConfig": {"DeviceRequests": [{"DeviceIDs": ["2", "3"]}]},
        },
        "vllm-router-lab": {"Config": {"Image": "lmcache/lmstack-router:v0.1.12"}},
    }

    def container(self, name: str) -> t.Optional[dict[str, t.Any]]:
        return self.found.get(name)


def test_what_containers_serve() -> None:
    facts = _facts.container_facts(Containers(), "lab", None, "gpu-1", "processor : 0\nmodel name : Example CPU\n")
    assert (facts["platform"], facts["model"], facts["node"], facts["engines"]) == ("docker", "qwen-qwq-32b", "gpu-1", 1)
    assert (facts["vllm_version"], facts["image_digest"]) == ("0.32.0", "sha256:" + "a" * 64)
    assert facts["router"] == "lmcache/lmstack-router:v0.1.12"
    assert facts["flags"][0] == "Qwen/QwQ-32B"


def test_no_container_is_deployed() -> None:
    with pytest.raises(ServingError, match="Nothing is deployed: Docker has no container vllm-backend"):
        _facts.container_facts(Containers(), "chat", None, "gpu-1")
