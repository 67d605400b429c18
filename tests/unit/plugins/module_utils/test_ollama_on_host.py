# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of Ollama for programs of a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _backends, _ollama, _ollama_on_host
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROOT = Path(__file__).parents[4]
CATALOG = yaml.safe_load((ROOT / "roles/ollama/vars/models.yml").read_text())["ollama_models"]
SPEC = yaml.safe_load((ROOT / "roles/ollama/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
SETTINGS = {
    **{name: option.get("default") for name, option in SPEC.items()},
    "ollama_state_dir": "/state",
    "ollama_supervisor_lock": "/lock.txt",
    "ollama_supervisor_digest": "0123456789abcdef",
}
RELEASE = "https://github.com/ollama/ollama/releases/download/v0.35.1"


def plan(platform="systemd", host=None, **changes):
    settings = {**SETTINGS, "ollama_platform": platform, **{f"ollama_{key}": value for key, value in changes.items()}}
    return _ollama.make_plan(settings, CATALOG, host, SPEC)


@pytest.mark.parametrize("platform", _ollama_on_host.PLATFORMS)
def test_it_listens_on_the_loopback_interface_only(platform):
    assert plan(platform)["engine"]["env"]["OLLAMA_HOST"] == "127.0.0.1:11434"
    chosen = plan(platform, host={"ports": {"ollama": 11436}}, port=11440)
    assert chosen["engine"]["env"]["OLLAMA_HOST"] == "127.0.0.1:11436"
    assert (chosen["engine"]["port"], chosen["endpoint"]["url"]) == (11436, "http://127.0.0.1:11436/v1")
    assert chosen["host"]["ports"] == [{"name": "ollama", "usual": 11434, "port": 11440, "variable": "ollama_port"}]


def test_models_are_beside_the_weights_of_the_other_backend():
    assert plan("systemd")["engine"]["env"]["OLLAMA_MODELS"] == "/state/data/ollama/models"
    local = plan("local")
    assert local["engine"]["env"]["OLLAMA_MODELS"] == "/state/ollama/models"
    assert local["engine"]["writable"] == ["/state/ollama"]
    assert local["user"] is None


def test_another_model_is_another_program_for_whoever_compares():
    environments = [plan(model_name=name, served_model_alias="")["engine"]["env"] for name in ("qwen2.5:7b", "qwen2.5:0.5b")]
    assert [env["LLMOPS_SERVING_MODEL"] for env in environments] == ["qwen2.5:7b", "qwen2.5:0.5b"]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("gpt-oss:20b", "registry.ollama.ai/library/gpt-oss/20b"),
        ("someone/model:1", "registry.ollama.ai/someone/model/1"),
        ("hf.co/someone/model:Q4_K_M", "hf.co/someone/model/Q4_K_M"),
    ],
)
def test_a_model_is_there_when_its_manifest_is(name, path):
    assert _ollama_on_host.manifest_path("/data", name) == f"/data/models/manifests/{path}"


@pytest.mark.parametrize(("machine", "name"), [("x86_64", "ollama-linux-amd64.tar.zst"), ("aarch64", "ollama-linux-arm64.tar.zst")])
def test_the_program_is_the_release_s_for_the_machine(machine, name):
    program = plan(host={"machine": machine, "ports": {}})["program"]
    assert program["archive"]["url"] == f"{RELEASE}/{name}"
    assert program["archive"]["checksum"] == f"sha256:{RELEASE}/sha256sum.txt"
    assert program["archive"]["commands"] == ["tar", "zstd"]
    assert program["path"].startswith("/state/programs/ollama-0.35.1-")
    assert program["command"] == f"{program['path']}/bin/ollama"


def test_an_archive_of_ones_own_may_be_a_path_and_has_a_folder_of_its_own():
    own = plan(archive="/srv/ollama.tgz", extra_env={"HTTPS_PROXY": "http://proxy.example.com:3128", "OLLAMA_DEBUG": "1"})["program"]
    assert own["archive"] == {
        "url": "file:///srv/ollama.tgz",
        "checksum": "",
        "commands": ["tar", "gzip"],
        "environment": {"HTTPS_PROXY": "http://proxy.example.com:3128"},
    }
    summed = plan(archive="/srv/ollama.tgz", archive_checksum=f"sha256:{'0' * 64}")["program"]
    assert len({own["path"], summed["path"], plan()["program"]["path"]}) == 3


def test_who_pulls_beside_vllm_sees_no_gpu():
    made = plan()
    assert made["prefetch"]["env"]["CUDA_VISIBLE_DEVICES"] == "-1"
    assert made["prefetch"]["owner"]["component"] != made["owner"]["component"]
    assert "CUDA_VISIBLE_DEVICES" not in made["engine"]["env"]


def test_gpus_by_number():
    made = plan(gpu_ids=[2, 3], model_name="llama3.1:70b")
    assert made["engine"]["env"]["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert made["engine"]["env"]["OLLAMA_SCHED_SPREAD"] == "1"
    assert (made["gpu_check"]["enabled"], made["gpu_check"]["gpus_per_node"]) == (True, 2)


def test_memory_is_asked_for_where_the_weights_stay_in_it():
    row = CATALOG["qwen2.5:7b"]
    assert plan(accelerator="cpu", model_name="qwen2.5:7b")["host"]["memory_mib"] > row["weights_gib"] * 1024
    assert plan(model_name="qwen2.5:7b")["host"]["memory_mib"] == _ollama_on_host.GPU_SERVER_MIB
    assert plan(memory_check=False)["host"]["memory_mib"] == 0


def test_supervisord_is_the_one_of_the_other_roles():
    local = plan("local")
    assert local["supervisord"] == "/state/venvs/supervisor-01234567/bin/supervisord"
    assert set(local["environments"][0]) <= {"title", "path", "lock", "download_mib"}
    assert plan("systemd")["environments"] == []
    assert plan("systemd")["host"]["python_versions"] == []


def test_names_are_those_that_the_backends_are_looked_for_by():
    for made in (plan("local"), plan("systemd", stack_name="lab")):
        assert tuple(made["supervised"]["programs"]) == _backends.PROGRAMS["ollama"]
        assert made["endpoint"]["programs"] == ["ollama"]
    assert plan("systemd", stack_name="lab")["suffix"] == "-lab"
    assert plan("local", stack_name="lab")["suffix"] == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image": "ollama/ollama:1"}, "ollama_image: the platform systemd has nothing that this could set; it is for Kubernetes"),
        ({"storage_size": "200Gi"}, "ollama_storage_size: the platform systemd has nothing"),
        ({"accelerator": "amd"}, "ollama_accelerator: amd is not there yet on the platform systemd. It may be nvidia or cpu."),
        ({"accelerator": "cpu", "gpu_ids": [0]}, "ollama_gpu_ids: [0] with ollama_accelerator: cpu"),
        ({"gpu_ids": [1, 1]}, "ollama_gpu_ids: [1, 1] names a GPU twice"),
        ({"gpu_ids": [0, 1], "gpu_count": 1}, "ollama_gpu_ids names 2 GPUs, ollama_gpu_count is 1"),
        ({"archive_checksum": "md5:0"}, 'ollama_archive_checksum: "md5:0" is none'),
        ({"port": "many"}, "ollama_port"),
        ({"platform": "kubernetes", "gpu_ids": [0]}, "ollama_gpu_ids: it is for single hosts only"),
        ({"platform": "kubernetes", "archive": "/srv/a.tgz"}, "ollama_archive: it is for"),
    ],
)
def test_what_a_host_does_not_have_is_refused_by_name(changes, words):
    with pytest.raises(ServingError) as caught:
        plan(**changes)
    assert words in str(caught.value)
