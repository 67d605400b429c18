# Copyright (c) 2026 The llmops.serving authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of the backend Ollama, and its catalog."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible_collections.llmops.serving.plugins.module_utils import _ollama
from ansible_collections.llmops.serving.plugins.module_utils._errors import ServingError

ROOT = Path(__file__).parents[4]
CATALOG = yaml.safe_load((ROOT / "roles/ollama/vars/models.yml").read_text())["ollama_models"]
OTHER = yaml.safe_load((ROOT / "roles/vllm/vars/models.yml").read_text())["vllm_models"]
SPEC = yaml.safe_load((ROOT / "roles/ollama/meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
SETTINGS = {name: option.get("default") for name, option in SPEC.items()}

every_row = pytest.mark.parametrize("name", CATALOG)


def plan(**changes):
    return _ollama.make_plan({**SETTINGS, **{f"ollama_{key}": value for key, value in changes.items()}}, CATALOG)


@every_row
def test_rows_are_whole_and_of_the_same_model_as_the_others(name):
    row = CATALOG[name]
    assert _ollama.MODEL.fullmatch(name)
    assert set(row) <= set(_ollama.KEYS)
    for key, value in row.items():
        assert isinstance(value, _ollama.KEYS[key]), key
    assert list(row) == [key for key in _ORDER if key in row]
    other = OTHER[row["vllm"]]
    assert (row["license"], row["parameters_b"]) == (other["license"], other["parameters_b"])
    # quantized, so never more than as vLLM has it, and not below 4 bits a parameter
    assert row["parameters_b"] * 0.5 * 1e9 / 2**30 <= row["weights_gib"]
    assert row["weights_gib"] <= float(other["weights_gib"]) * 1.02
    assert row["context_length"] <= row["max_context"]


_ORDER = [
    *("vllm", "parameters_b", "quantization", "weights_gib", "max_context", "tools", "thinking", "license"),
    *("min_gpu_memory_gb", "gpu_count", "context_length", "num_parallel"),
]


@every_row
def test_rows_fit_the_gpus_that_they_ask_for(name):
    row = CATALOG[name]
    other = OTHER[row["vllm"]]
    tokens = row["context_length"] * row["num_parallel"]
    layers = sum(count for kind, count in other["layers"].items() if kind != "sliding_window")
    kv_gib = layers * (other.get("num_kv_heads") or 0) * other.get("head_dim", 0) * 2 * 2 * tokens / 2**30
    gpus = row.get("gpu_count", 1)
    assert row["weights_gib"] + kv_gib + 1.5 * gpus <= row["min_gpu_memory_gb"] * gpus * 1e9 / 2**30


@every_row
def test_rows_make_a_plan(name):
    made = plan(model_name=name, storage_size="500Gi")
    assert made["endpoint"]["model"] == name
    assert made["verify"]["request"]["tool_calls"] is CATALOG[name]["tools"]


def test_every_model_of_vllm_has_a_counterpart_where_the_library_has_one():
    without = {name for name in OTHER if name not in {row["vllm"] for row in CATALOG.values()}}
    assert without == {"smoke", "smoke-json", "qwen2.5-7b-instruct-1m"}
    assert len({row["vllm"] for row in CATALOG.values()}) == len(CATALOG)


def test_the_image_is_the_one_of_the_lock_file_and_of_the_registry():
    digest = f"sha256:{64 * 'a'}"
    pins = {"path": "/site/images.lock.yml", "images": {f"ollama/ollama:{_ollama.VERSION}": {"digest": digest}}}
    made = plan(pins=pins, image_registry="registry.example.com/hub")
    assert made["engine"]["image"] == f"registry.example.com/hub/ollama/ollama:{_ollama.VERSION}@{digest}"
    assert [(entry["written"], entry["digest"]) for entry in made["images"]] == [(f"ollama/ollama:{_ollama.VERSION}", digest)]
    assert plan()["engine"]["image"] == f"ollama/ollama:{_ollama.VERSION}"
    with pytest.raises(ServingError, match=r"ollama_image: /site/images\.lock\.yml pins ollama/ollama at the tag .*, not at 0\.1"):
        plan(pins=pins, image="ollama/ollama:0.1")
    with pytest.raises(ServingError, match=r"ollama_image: .* may be another image tomorrow"):
        plan(image="ollama/ollama")


def test_the_backend_alone_serves_the_same_model():
    assert plan(counterpart_of="qwen-qwq-32b")["model"]["name"] == "qwq:32b"
    assert plan(counterpart_of="qwen-qwq-32b", model_name="gpt-oss:20b")["model"]["name"] == "gpt-oss:20b"
    with pytest.raises(ServingError, match="vllm_model_name: smoke has no counterpart in Ollama's library"):
        plan(counterpart_of="smoke")


def test_the_environment_says_what_the_plan_says():
    made = plan(kv_cache_type="q8_0", keep_alive="30m", gpu_count=2, extra_env={"HTTPS_PROXY": "http://proxy.example.com:3128"})
    env = made["engine"]["env"]
    expected = {
        "HOME": "/data",
        "OLLAMA_HOST": "0.0.0.0:11434",
        "OLLAMA_MODELS": "/data/models",
        "OLLAMA_CONTEXT_LENGTH": "131072",
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_MAX_LOADED_MODELS": "1",
        "OLLAMA_KEEP_ALIVE": "30m",
        "OLLAMA_LOAD_TIMEOUT": "660s",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": "q8_0",
        "OLLAMA_NOPRUNE": "1",
        "OLLAMA_NO_CLOUD": "1",
        "OLLAMA_SCHED_SPREAD": "1",
        "HTTPS_PROXY": "http://proxy.example.com:3128",
    }
    assert env == expected
    assert made["engine"]["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert made["load"] == {"gpu": True, "timeout_s": 660}


def test_the_alias_is_verified_as_ollama_lists_it():
    assert plan()["verify"]["request"]["aliases"] == ["chat:latest"]
    assert plan(served_model_alias="")["verify"]["request"]["aliases"] == []


def test_rows_of_the_users_own_may_be_empty():
    made = plan(model_name="qwen3:4b", model_configs={"qwen3:4b": {}})
    assert made["engine"]["env"]["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert not made["verify"]["request"]["tool_calls"]
    assert plan(model_configs={"gpt-oss:120b": {"digest": "sha256:0123456789ab"}})["model"]["digest"] == "0123456789ab"


def test_without_gpus_the_weights_are_in_the_memory_of_the_container():
    made = plan(accelerator="cpu", model_name="qwen2.5:7b")
    assert made["engine"]["resources"]["limits"]["memory"] == "10Gi"
    assert not made["load"]["gpu"]
    assert not made["gpu_check"]["enabled"]
    assert made["engine"]["affinity"] == {}
    assert plan(accelerator="amd")["engine"]["image"].endswith("-rocm")


def test_the_pod_that_pulls_asks_for_no_gpu_and_is_not_taken_for_ollama():
    made = plan()
    assert "nvidia.com/gpu" not in made["prefetch"]["resources"]["limits"]
    assert made["prefetch"]["labels"]["app"] == "ollama-prefetch"
    assert made["prefetch"]["owner"]["component"] != made["owner"]["component"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"platform": "slurm"}, "llm_platform: slurm is not known. It may be kubernetes, local, systemd, docker."),
        ({"model_name": "gpt-oss:12b"}, 'ollama_model_name: "gpt-oss:12b" is not in the catalog (did you mean "gpt-oss:120b"?)'),
        ({"model_configs": {"gpt-oss": {}}}, 'ollama_model_configs.gpt-oss: "gpt-oss" is no name of Ollama\'s with its tag'),
        ({"model_configs": {"a:1": {"context_lenght": 1}}}, '(did you mean "context_length"?)'),
        ({"model_configs": {"a:1": {"context_length": "8k"}}}, "ollama_model_configs.a:1.context_length: '8k' is not int"),
        ({"model_configs": {"a:1": {"tools": 1}}}, "ollama_model_configs.a:1.tools: 1 is not bool"),
        ({"model_configs": {"a:1": {"digest": "xyz"}}}, "12 to 64 hexadecimal digits"),
        ({"model_configs": {"a:1": 5}}, "a mapping of keys is expected"),
        ({"context_length": 200000}, "gpt-oss:120b knows 131072 tokens, 200000 are asked for"),
        ({"storage_size": "50Gi"}, "gpt-oss:120b takes 64 GiB of the volume, ollama_storage_size is 50Gi. Set ollama_storage_size: 70Gi"),
        ({"keep_alive": "for ever"}, 'ollama_keep_alive: "for ever" is no time for Ollama'),
        ({"kv_cache_type": "q8_0", "flash_attention": False}, "needs ollama_flash_attention: true"),
        ({"kv_cache_type": "fp8"}, "ollama_kv_cache_type"),
        ({"image": "ollama/ollama"}, 'ollama_image: "ollama/ollama" may be another image tomorrow'),
        ({"accelerator": "cpu", "gpu_count": 1}, "Remove one of the two"),
        ({"num_parallel": 0}, "ollama_num_parallel: 0 is too small"),
        ({"min_gpu_memory_gb": "much"}, "llm_min_gpu_memory_gb"),
        ({"served_model_alias": "a b"}, "ollama_served_model_alias"),
        ({"verify": "perhaps"}, "ollama_verify"),
    ],
)
def test_what_cannot_work_is_refused_by_name(changes, words):
    with pytest.raises(ServingError) as caught:
        plan(**changes)
    assert words in str(caught.value)
