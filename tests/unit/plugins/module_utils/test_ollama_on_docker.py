# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of Ollama for a container of a host."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _backends, _ollama
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROOT = Path(__file__).parents[4]
CATALOG = yaml.safe_load((ROOT / "roles/ollama/vars/models.yml").read_text())["ollama_models"]
SPEC = yaml.safe_load((ROOT / "roles/ollama/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
SETTINGS = {**{name: option.get("default") for name, option in SPEC.items()}, "ollama_state_dir": "/state"}


def plan(host=None, **changes):
    settings = {**SETTINGS, "ollama_platform": "docker", **{f"ollama_{key}": value for key, value in changes.items()}}
    return _ollama.make_plan(settings, CATALOG, host, SPEC)


def test_it_is_published_on_the_loopback_interface_and_the_page_asks_in_the_network():
    made = plan(host={"ports": {"ollama": 11436}})
    assert made["engine"]["env"]["OLLAMA_HOST"] == "0.0.0.0:11434"
    assert made["engine"]["published_ports"] == ["127.0.0.1:11436:11434"]
    assert made["engine"]["networks"] == [{"name": "llmops-serving-chat"}]
    assert (made["endpoint"]["url"], made["endpoint"]["session_url"]) == ("http://127.0.0.1:11436/v1", "http://ollama:11434/v1")
    assert made["ready_url"] == "http://127.0.0.1:11436/api/version"


def test_for_other_machines_only_where_that_is_said():
    made = plan(bind_address="0.0.0.0")
    assert made["engine"]["published_ports"] == ["0.0.0.0:11434:11434"]
    assert made["endpoint"]["router_url"] == "http://127.0.0.1:11434"


def test_in_the_host_s_network_it_listens_where_it_is_published_otherwise():
    made = plan(docker_host_network=True, stack_name="lab", host={"ports": {"ollama": 11440}})
    assert made["engine"]["env"]["OLLAMA_HOST"] == "127.0.0.1:11440"
    assert (made["engine"]["published_ports"], made["engine"]["networks"], made["network"]) == ([], [], None)
    assert made["endpoint"]["session_url"] == "http://127.0.0.1:11440/v1"


def test_gpus_are_asked_for_as_of_docker_run():
    assert plan(gpu_ids=[2, 3])["engine"]["device_requests"] == [
        {"driver": "nvidia", "count": 0, "device_ids": ["2", "3"], "capabilities": [["gpu"]]}
    ]
    assert plan(gpu_count=2)["engine"]["device_requests"] == [{"driver": "nvidia", "count": 2, "capabilities": [["gpu"]]}]
    assert plan(accelerator="cpu")["engine"]["device_requests"] == []
    assert (plan()["host"]["gpus"], plan(accelerator="cpu")["host"]["gpus"]) == (True, False)


def test_models_are_in_a_folder_of_the_host_that_its_user_owns():
    made = plan(run_as_user=1234)
    assert made["folders"] == {"/state/data/ollama": 1234}
    assert made["engine"]["user"] == "1234:1234"
    assert {"type": "bind", "source": "/state/data/ollama", "target": "/data", "read_only": False} in made["engine"]["mounts"]
    assert made["manifest_path"].startswith("/state/data/ollama/models/manifests/")
    assert made["engine"]["env"]["OLLAMA_MODELS"] == "/data/models"
    # by it the host's checks know what is its own
    assert made["engine"]["env"]["LLMOPS_SERVING_STATE"] == "/state"


def test_limits_are_those_that_are_set():
    assert (plan()["engine"]["cpus"], plan()["engine"]["memory"]) == (None, None)
    made = plan(cpu_limit="8", memory_limit="16Gi")
    assert (made["engine"]["cpus"], made["engine"]["memory"]) == (8, f"{16 * 2**30}B")


def test_names_are_those_that_the_backends_are_looked_for_by():
    made = plan(stack_name="lab")
    where = _backends.place_on_host("ollama", "lab", "/state", "-lab")
    assert made["supervised"]["programs"] == where["programs"] == ["ollama-lab"]
    assert made["prefetch"]["name"] == where["prefetch"] == "ollama-prefetch-lab"
    # the page puts the stack's name behind these itself
    assert made["endpoint"]["programs"] == ["ollama"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"storage_size": "200Gi"}, "ollama_storage_size: it is for other platforms than docker only"),
        ({"archive": "/srv/a.tgz"}, "ollama_archive: it is for other platforms than docker only"),
        ({"accelerator": "amd"}, "ollama_accelerator: amd is not there yet on the platform docker"),
        ({"image": "ollama/ollama"}, "may be another image tomorrow"),
        ({"docker_host": "tcp://10.0.0.1:2375"}, 'llm_docker_host: "tcp://10.0.0.1:2375" is no socket of the host'),
        ({"bind_address": "everywhere"}, 'llm_bind_address: "everywhere" is no address'),
        ({"platform": "systemd", "bind_address": "0.0.0.0"}, "ollama_bind_address: it is for the platform docker only"),
    ],
)
def test_what_docker_does_not_have_is_refused_by_name(changes, words):
    with pytest.raises(ServingError) as caught:
        plan(**changes)
    assert words in str(caught.value)
