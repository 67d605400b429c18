# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The serving plan on the platform docker, from the role's variables as it hands them over."""

from __future__ import annotations

import json
import re
import typing as t
from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _images, _plan, _routers
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROLE = Path(__file__).parents[4] / "roles/vllm"
CATALOG = yaml.safe_load((ROLE / "vars/models.yml").read_text())["vllm_models"]
OPTIONS = yaml.safe_load((ROLE / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
SECRETS = ("vllm_api_key", "vllm_hf_token")
DEFAULTS = {name: spec.get("default") for name, spec in OPTIONS.items() if name not in SECRETS}
DOCKER = {
    "vllm_platform": "docker",
    "vllm_model_name": "qwen2.5-1.5b-instruct",
    "vllm_state_dir": "/opt/llmops-serving/chat",
    "vllm_files_dir": "/role/files",
    "vllm_lock_dir": "/role/files/local",
    "vllm_lock_digests": {},
    "vllm_smoke_model_digest": "0123456789abcdef",
}
STATE = "/opt/llmops-serving/chat"
# Which hosts the production stack's router takes for a backend: --static-backends of version 0.1.12.
BACKEND = re.compile(r"https?://(([a-z0-9_-]+\.)+[a-z]{2,}|localhost|\d{1,3}(\.\d{1,3}){3})(:\d+)?(/.*)?")


def plan(options: t.Optional[dict[str, t.Any]] = OPTIONS, host: t.Optional[dict[str, t.Any]] = None, **changes: t.Any) -> dict[str, t.Any]:
    settings = {**DEFAULTS, **DOCKER, **{f"vllm_{key}": value for key, value in changes.items()}}
    return _plan.make_plan(settings, CATALOG, host=host, options=options)


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


# --- GPUs ---------------------------------------------------------------------------------------------------------------------------


def test_a_model_gets_as_many_gpus_as_it_asks_for() -> None:
    assert plan()["engine"]["device_requests"] == [{"driver": "nvidia", "count": 1, "capabilities": [["gpu"]]}]
    assert plan(gpu_count=4)["engine"]["device_requests"][0]["count"] == 4


def test_gpus_by_their_numbers() -> None:
    made = plan(gpu_ids=[2, 3])
    assert made["engine"]["device_requests"] == [{"driver": "nvidia", "count": 0, "device_ids": ["2", "3"], "capabilities": [["gpu"]]}]
    assert value_of(made["engine"]["args"], "--tensor-parallel-size") == "2"
    assert "CUDA_VISIBLE_DEVICES" not in made["engine"]["env"], "the container sees these two only, as 0 and 1"


def test_an_engine_on_cpus_asks_for_no_gpu() -> None:
    made = plan(accelerator="cpu")
    assert made["engine"]["device_requests"] == []
    assert not made["host"]["gpus"]
    assert "WAIT_FOR_GPU_SHARE" not in made["engine"]["env"]
    assert plan()["engine"]["env"]["WAIT_FOR_GPU_SHARE"] == "0.92"


def test_shared_memory_grows_with_tensor_parallel_and_may_be_the_hosts() -> None:
    assert plan()["engine"]["shm_size"] == f"{2 * 2**30}B"
    assert plan(gpu_count=4)["engine"]["shm_size"] == f"{8 * 2**30}B"
    assert plan(shm_size="512Mi")["engine"]["shm_size"] == f"{512 * 2**20}B"
    assert (plan()["engine"]["ipc_mode"], plan(docker_ipc_host=True)["engine"]["ipc_mode"]) == ("private", "host")


# --- what is reached from where -----------------------------------------------------------------------------------------------------


def test_only_the_router_is_published_and_on_the_loopback_interface() -> None:
    made = plan(host={"ports": {"vllm-router": 8002}})
    assert made["engine"]["published_ports"] == []
    assert made["router"]["published_ports"] == ["127.0.0.1:8002:8000"]
    assert made["endpoint"]["url"] == "http://127.0.0.1:8002/v1"
    assert made["endpoint"]["session_url"] == "http://vllm-router:8000/v1", "the page is in the same network"
    assert [port["name"] for port in made["host"]["ports"]] == ["vllm-router"]


def test_another_address_to_publish_at() -> None:
    assert plan(bind_address="10.0.0.5")["router"]["published_ports"] == ["10.0.0.5:8000:8000"]
    assert plan(bind_address="10.0.0.5")["endpoint"]["router_url"] == "http://10.0.0.5:8000"
    assert plan(bind_address="0.0.0.0")["endpoint"]["router_url"] == "http://127.0.0.1:8000"
    with pytest.raises(ServingError, match=r'llm_bind_address: "gpu-1" is no address'):
        plan(bind_address="gpu-1")


@pytest.mark.parametrize("kind", ["production-stack", "vllm-router"])
def test_in_the_hosts_network_everything_listens_on_the_loopback_interface(kind: str) -> None:
    made = plan(docker_host_network="yes", router_type=kind, router_image="router:1", accelerator="cpu")
    assert (made["network"], made["network_mode"]) == (None, "host")
    assert made["engine"]["networks"] == made["router"]["networks"] == made["router"]["published_ports"] == []
    assert value_of(made["engine"]["args"], "--host") == value_of(made["router"]["command"], "--host") == "127.0.0.1"
    assert (value_of(made["engine"]["args"], "--port"), value_of(made["router"]["command"], "--port")) == ("8100", "8000")
    assert made["endpoint"]["session_url"] == made["endpoint"]["url"] == "http://127.0.0.1:8000/v1"
    assert {port["name"] for port in made["host"]["ports"]} == {"vllm-router", "vllm-backend", "vllm-router-metrics"}
    assert "0.0.0.0" not in json.dumps(made)


# --- the router ---------------------------------------------------------------------------------------------------------------------


def test_the_production_stacks_router_is_the_usual_one_and_takes_its_backends() -> None:
    made = plan()
    words = made["router"]["command"]
    assert made["router"]["image"] == "lmcache/lmstack-router:v0.1.12"
    assert {word for word in words if word.startswith("--")} <= _routers.PRODUCTION_STACK_FLAGS
    backends, models = (value_of(words, flag).split(",") for flag in ("--static-backends", "--static-models"))
    assert models == ["qwen2.5-1.5b-instruct", "chat"]
    assert len(backends) == len(models)
    assert all(BACKEND.fullmatch(url) for url in backends)
    assert not BACKEND.fullmatch("http://vllm-backend:8000"), "the name of the container alone would be passed over"
    host = backends[0].split("//")[1].split(":")[0]
    assert made["engine"]["networks"][0]["aliases"] == [host]


def test_without_an_alias_there_is_one_backend() -> None:
    assert value_of(plan(served_model_alias="")["router"]["command"], "--static-models") == "qwen2.5-1.5b-instruct"


def test_the_rust_router_by_choice() -> None:
    made = plan(router_type="vllm-router", router_image="registry.example.com/vllm-router:0.1.17")
    words = made["router"]["command"]
    assert {word for word in words if word.startswith("--")} <= _routers.VLLM_ROUTER_FLAGS
    assert value_of(words, "--worker-urls") == "http://vllm-backend.internal:8000"
    assert value_of(words, "--host") == "0.0.0.0"
    with pytest.raises(ServingError, match="vllm_router_image has to be set"):
        plan(router_type="vllm-router")


# --- files and secrets --------------------------------------------------------------------------------------------------------------


def test_no_secret_is_in_an_environment_or_a_command() -> None:
    made = plan(api_key_enabled=True)
    assert not {"VLLM_API_KEY", "HF_TOKEN"} & set(made["engine"]["env"])
    assert "HF_TOKEN" not in " ".join(made["prefetch"]["command"])
    engine = next(container for container in made["secret_containers"] if container["name"] == "vllm-backend")
    assert engine["variables"] == {"VLLM_API_KEY": ["vllm/VLLM_API_KEY"], "HF_TOKEN": ["vllm/HF_TOKEN"]}
    mount = next(mount for mount in made["engine"]["mounts"] if mount["target"] == "/run/llmops-serving")
    assert mount == {"type": "bind", "source": f"{STATE}/containers/vllm-backend", "target": "/run/llmops-serving", "read_only": True}


def test_weights_are_on_the_host_and_outlive_all_containers() -> None:
    made = plan()
    assert made["hub_cache"] == f"{STATE}/data/huggingface/hub/models--Qwen--Qwen2.5-1.5B-Instruct"
    assert made["hub_cache"] in made["prefetch"]["creates"]
    assert {"type": "bind", "source": f"{STATE}/data", "target": "/data", "read_only": False} in made["engine"]["mounts"]
    assert made["engine"]["env"]["HF_HOME"] == "/data/huggingface"
    assert made["folders"] == {f"{STATE}/data": 1000}


def test_the_job_that_fetches_has_no_more_rights_than_the_engine() -> None:
    command = plan()["prefetch"]["command"]
    assert command[:4] == ["docker", "run", "--rm", "--init"]
    assert (value_of(command, "--user"), value_of(command, "--cap-drop"), value_of(command, "--name")) == (
        "1000:1000",
        "ALL",
        "vllm-prefetch",
    )
    assert f"type=bind,source={STATE}/containers/vllm-prefetch,target=/run/llmops-serving,readonly" in command
    image = command.index(plan()["engine"]["image"])
    assert command[image + 1 : image + 5] == [
        "/opt/llmops-serving/launch.sh",
        "vllm-prefetch",
        "python3",
        "/opt/llmops-serving/fetch_model.py",
    ]


def test_a_folder_of_the_users_is_mounted_where_it_is() -> None:
    rows = {"mine": {"model": "/srv/models/mine", "chat_template": "/srv/templates/mine.jinja"}}
    made = plan(model_name="mine", model_configs=rows)
    mounts = {mount["target"]: mount for mount in made["engine"]["mounts"]}
    assert mounts["/srv/models/mine"]["read_only"]
    assert mounts["/srv/templates/mine.jinja"]["source"] == "/srv/templates/mine.jinja"
    assert made["prefetch"] is None


def test_a_second_stack_has_names_of_its_own() -> None:
    made = plan(stack_name="lab", state_dir="/opt/llmops-serving/lab")
    assert (made["engine"]["name"], made["router"]["name"], made["network"]) == (
        "vllm-backend-lab",
        "vllm-router-lab",
        "llmops-serving-lab",
    )
    assert made["endpoint"]["session_url"] == "http://vllm-router-lab:8000/v1"
    assert made["supervised"]["programs"] == ["vllm-backend-lab", "vllm-router-lab"]


@pytest.mark.parametrize(
    ("image", "taken"),
    [
        ("vllm/vllm-openai:v0.32.0", "vllm/vllm-openai:v0.32.0"),
        ("vllm/vllm-openai:v0.32.0@sha256:" + "a" * 64, "vllm/vllm-openai@sha256:" + "a" * 64),
        ("registry.example.com:5000/vllm@sha256:" + "a" * 64, "registry.example.com:5000/vllm@sha256:" + "a" * 64),
    ],
)
def test_beside_a_digest_docker_takes_no_tag(image: str, taken: str) -> None:
    assert _images.without_tag(image) == plan(image=image)["engine"]["image"] == taken


# --- what is refused ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicas": 2}, "vllm_replicas: the platform docker has nothing that this could set"),
        ({"storage_size": "1Ti"}, "vllm_storage_size: the platform docker"),
        ({"python": "python3.12"}, "vllm_python: the platform docker"),
        ({"accelerator": "amd"}, "vllm_accelerator: amd is not there yet on the platform docker"),
        ({"docker_host": "tcp://gpu-1:2376"}, "another machine's Docker is reached by making that machine a host of the inventory"),
        ({"engine_port": 8100}, "vllm_engine_port: the engine's port is not published"),
        ({"gpu_ids": [1, 1]}, "names a GPU twice"),
        ({"accelerator": "cpu", "gpu_ids": [0]}, r"vllm_gpu_ids: \[0\] with vllm_accelerator: cpu"),
    ],
)
def test_what_the_platform_does_not_have_is_refused(changes: dict[str, t.Any], words: str) -> None:
    with pytest.raises(ServingError, match=words):
        plan(**changes)


def test_other_platforms_refuse_what_is_dockers() -> None:
    with pytest.raises(ServingError, match="vllm_docker_host_network: only the platform docker has this"):
        plan(platform="kubernetes", state_dir="", docker_host_network=True)


def test_limits_are_set_where_they_are_asked_for() -> None:
    assert (plan()["engine"]["memory"], plan()["engine"]["cpus"]) == (None, None)
    made = plan(memory_limit="32Gi", cpu_limit="7500m")
    assert (made["engine"]["memory"], made["engine"]["cpus"]) == (f"{32 * 2**30}B", 7.5)
    assert plan()["router"]["memory"] == f"{4 * 2**30}B", "its memory grows without bound"
